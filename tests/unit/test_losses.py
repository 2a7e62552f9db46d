"""What the battery does not ask of a loss: options, messages, epochs, BaGMar's statistics, mixing."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import multiprocessing

from lt.errors import UserError
from lt.losses import LOSSES, build
from lt.losses.balanced import class_balanced_weights
from lt.losses.margin import ldam_margins, neg_pos_bal, neg_pos_bal_norm
from lt.losses.mixup import mixed, mixed_targets, remix_lam, remixed

COUNTS = np.array([60, 20, 6, 2])


def some(size: int = 8, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.standard_normal((size, classes)) * 2, requires_grad=True)
    return logits, torch.tensor(rng.integers(0, classes, size))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("balancd_softmax", {}, "did you mean 'balanced_softmax'"),
        ("ldam", {"scal": 3}, "no option 'scal'; did you mean 'scale'"),
        ("cross_entropy", {"tau": 1}, "it has none"),
        ("lade", {"form": "fulll"}, "form: expected one of full, livt, got 'fulll'"),
        ("bagmar", {"weighting": "balanced_freq"}, "weighting: expected one of"),
        ("bagmar", {"criterion": "bagmar"}, "its own criterion"),
        ("label_aware_smoothing", {"shape": "exp"}, "needs a power"),
        ("label_smoothing", {"smoothing": 1.5}, r"smoothing: expected a number in \[0, 1\]"),
        ("class_balanced", {"beta": 1.0}, "beta: expected a number"),
    ],
)
def test_a_wrong_option_is_one_line(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(name, class_counts=COUNTS, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counts", [[], [[1, 2]], [1, -1], [0, 0], [1, float("nan")]])
def test_bad_counts_are_refused(counts: list) -> None:
    with pytest.raises(UserError, match="class_counts"):
        build("balanced_softmax", class_counts=counts)


def test_equal_counts_have_no_smoothing_curve() -> None:
    with pytest.raises(UserError, match="unequal class counts"):
        build("label_aware_smoothing", class_counts=[5, 5, 5])


def test_wrong_shapes_are_named() -> None:
    loss = build("cross_entropy", class_counts=COUNTS)
    logits, target = some()
    with pytest.raises(UserError, match="labels"):
        loss(logits, target[:3])
    with pytest.raises(UserError, match="soft targets"):
        loss(logits, torch.zeros(8, 3))
    with pytest.raises(UserError, match=r"\[batch, classes\]"):
        loss(logits[0], target)


def test_imitating_an_empty_class_leaves_it_out_of_the_softmax() -> None:
    counts = np.array([9, 0, 3])
    loss = build("balanced_softmax", class_counts=counts, zero_counts="imitate")
    logits, _ = some(classes=3)
    target = torch.tensor([0, 2, 0, 2, 2, 0, 0, 2])
    value = loss(logits, target)
    without = build("balanced_softmax", class_counts=counts[[0, 2]])(logits[:, [0, 2]], target // 2)
    assert value.item() == pytest.approx(without.item(), rel=1e-12)


def test_constants_move_with_the_module_and_are_not_saved() -> None:
    for name in ("balanced_softmax", "bal_bce", "ldam", "class_balanced", "lade", "label_aware_smoothing"):
        loss = build(name, class_counts=COUNTS)
        assert list(loss.buffers())
        assert not loss.state_dict()
        moved = build(name, class_counts=COUNTS).to("meta")
        assert all(b.device.type == "meta" for b in moved.buffers())


def test_deferred_weights_begin_with_their_epoch() -> None:
    loss = build("ldam", class_counts=COUNTS, reweight_epoch=160)
    logits, target = some()
    values = []
    for epoch in (0, 159, 160, 199, 3):
        loss.set_epoch(epoch)
        values.append(loss(logits, target).item())
    assert values[0] == values[1] == values[4]
    assert values[2] == values[3] != values[0]
    margins = torch.tensor(ldam_margins(COUNTS), dtype=torch.float32).double()
    adjusted = 30 * (logits - margins[target][:, None] * F.one_hot(target, 4))
    weight = torch.tensor(class_balanced_weights(COUNTS), dtype=torch.float32).double()
    assert values[0] == pytest.approx(F.cross_entropy(adjusted, target).item(), rel=1e-12)
    assert values[2] == pytest.approx(F.cross_entropy(adjusted, target, weight=weight).item(), rel=1e-12)


def test_ldam_of_scaled_logits_is_the_same_loss() -> None:
    logits, target = some()
    plain = build("ldam", class_counts=COUNTS)(logits, target)
    scaled = build("ldam", class_counts=COUNTS, scaled_logits=True)(30 * logits, target)
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-12)


def test_full_lade_adds_the_prior_term() -> None:
    logits, target = some()
    full = build("lade", class_counts=COUNTS, alpha=0.25)(logits, target)
    part = build("lade", class_counts=COUNTS, form="livt")(logits, target)
    prior = build("balanced_softmax", class_counts=COUNTS)(logits, target)
    assert full.item() == pytest.approx((prior + 0.25 * part).item(), rel=1e-12)


def test_equalisation_masks_only_tail_classes_of_others() -> None:
    loss = build("eql", class_counts=COUNTS, tail_ratio=0.1, drop=1.0, seed=3)
    logits, target = some()
    kept = torch.ones(8, 4, dtype=torch.bool)
    kept[:, 2:] = False  # the classes with under a tenth of the images
    kept[torch.arange(8), target] = True
    want = F.cross_entropy(logits.masked_fill(~kept, -1e30), target)
    assert loss(logits, target).item() == pytest.approx(want.item(), rel=1e-12)


def test_equalisation_draws_anew_each_step_and_the_same_for_a_seed() -> None:
    logits, target = some(64)
    streams = []
    for seed in (0, 0, 1):
        loss = build("eql", class_counts=COUNTS, tail_ratio=0.5, drop=0.5, seed=seed)
        streams.append([loss(logits, target).item() for _ in range(4)])
    assert streams[0] == streams[1] != streams[2]
    assert len(set(streams[0])) == 4


# ---- BaGMar ----------------------------------------------------------------------------------------------


def naive_statistics(batches: list, *, accumulate: str) -> tuple[np.ndarray, ...]:
    """The published recursion with C x C matrices: theta, phi."""
    s, p, n = (np.zeros((4, 4)) for _ in range(3))
    theta, phi = np.zeros(4), np.zeros(4)
    for logits, target in batches:
        a = logits.detach().numpy() + np.log(theta + 1e-3) - np.log(phi + 1e-3)[target.numpy()][:, None]
        g = np.exp(a - a.max(1, keepdims=True))
        g = g / g.sum(1, keepdims=True)
        g[np.arange(len(target)), target.numpy()] -= 1
        step = np.zeros((4, 4))
        for row, label in zip(np.abs(g) / len(target), target.numpy(), strict=True):
            step[:, label] += row
        s += step
        added = s if accumulate == "double" else step
        p, n = p + added * np.eye(4), n + added * (1 - np.eye(4))
        theta, phi = p.sum(1), n.sum(0)
    return theta, phi


@pytest.mark.parametrize("accumulate", ["double", "single"])
def test_vectors_carry_what_the_matrices_did(accumulate: str) -> None:
    batches = [some(seed=s) for s in range(9)]
    loss = build("bagmar", class_counts=COUNTS, accumulate=accumulate)
    for logits, target in batches:
        loss(logits, target)
    theta, phi = naive_statistics(batches, accumulate=accumulate)
    np.testing.assert_allclose(loss.theta, theta, rtol=1e-12)
    np.testing.assert_allclose(loss.phi, phi, rtol=1e-12)


def test_the_state_is_a_few_vectors_at_any_number_of_classes() -> None:
    loss = build("bagmar", class_counts=np.ones(8142))
    assert sum(v.numel() for v in loss.state_dict().values()) <= 9 * 8142 + 2


def test_lambda2_changes_the_printed_form_only() -> None:
    for form, equal in (("code", True), ("paper", False)):
        values = []
        for lambda2 in (0.3, 1.7):
            loss = build("bagmar", class_counts=COUNTS, form=form, lambda2=lambda2)
            values.append([loss(*some(seed=s)).item() for s in range(4)][-1])
        assert (values[0] == pytest.approx(values[1], rel=1e-12)) is equal


def test_first_step_is_plain_cross_entropy() -> None:
    logits, target = some()
    value = build("bagmar", class_counts=COUNTS)(logits, target)
    assert value.item() == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-12)


def test_weighting_replaces_the_gradient_and_keeps_the_value() -> None:
    plain = build("bagmar", class_counts=COUNTS)
    weighted = build("bagmar", class_counts=COUNTS, weighting="neg_pos_bal")
    for loss in (plain, weighted):
        loss(*some(seed=1))
    logits, target = some(seed=2)
    weighted.load_state_dict(plain.state_dict())
    ratio = plain.ratio.clone()
    first, second = plain(logits, target), weighted(logits, target)
    assert first.item() == second.item()
    (g,), (h,) = torch.autograd.grad(first, logits), torch.autograd.grad(3 * second, logits)
    off = ~F.one_hot(target, 4).bool()
    torch.testing.assert_close(h, 3 * torch.where(off, g * ratio, g), rtol=1e-12, atol=0)


def test_weighted_columns_keep_their_norm_and_zeros_stay_zero() -> None:
    gradient, target = some()[0].detach(), torch.tensor([0, 1, 0, 1, 3, 3, 0, 1])
    gradient[:, 2] = 0
    got = neg_pos_bal_norm(gradient, target, torch.tensor([0.5, 2.0, 3.0, 1.0]).double())
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got.norm(dim=0), gradient.norm(dim=0))
    assert (got[:, 2] == 0).all()
    assert not torch.allclose(got, neg_pos_bal(gradient, target, torch.tensor([0.5, 2.0, 3.0, 1.0]).double()))


@pytest.mark.parametrize("options", [{}, {"accumulate": "single"}, {"weighting": "neg_pos_bal"}], ids=str)
def test_accumulated_batches_count_as_the_whole_batch(options: dict) -> None:
    whole, parts = (build("bagmar", class_counts=COUNTS, micro_batches=m, **options) for m in (1, 2))
    for seed in range(3):
        logits, target = some(8, seed=seed)
        whole(logits, target)
        for half in (slice(0, 4), slice(4, 8)):
            parts(logits[half], target[half])
        torch.testing.assert_close(parts.totals, whole.totals, rtol=1e-12, atol=1e-15)


def test_a_norm_over_the_batch_is_not_taken_of_its_parts() -> None:
    with pytest.raises(UserError, match=r"neg_pos_bal_norm keeps .* whole batch, which accumulate: 2 cuts"):
        build("bagmar", class_counts=COUNTS, micro_batches=2, weighting="neg_pos_bal_norm")


def test_a_new_epoch_drops_an_unfinished_accumulation() -> None:
    loss, clean = (build("bagmar", class_counts=COUNTS, micro_batches=2) for _ in range(2))
    for one in (loss, clean):
        one.set_epoch(0)
        for seed in range(2):
            one(*some(seed=seed))
    loss(*some(seed=5))
    resumed = build("bagmar", class_counts=COUNTS, micro_batches=2)
    resumed.load_state_dict(loss.state_dict())
    resumed.set_epoch(0)
    assert resumed.waiting == 1  # a restart in mid-epoch goes on
    for one in (loss, clean):
        one.set_epoch(1)
        for seed in range(2):
            one(*some(seed=seed))
    assert torch.equal(loss.totals, clean.totals)


def _rank(rank: int, port: int, weighting: str, queue: object) -> None:
    address = f"tcp://127.0.0.1:{port}"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    loss = build("bagmar", class_counts=COUNTS, weighting=weighting)
    for seed in range(3):
        logits, target = some(8, seed=seed)
        value = loss(logits[rank * 4 : rank * 4 + 4], target[rank * 4 : rank * 4 + 4])
        (gradient,) = torch.autograd.grad(value, logits)
    queue.put((rank, loss.totals.numpy(), gradient.numpy()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["none", "neg_pos_bal_norm"])
def test_two_processes_keep_the_statistics_of_the_global_batch(weighting: str) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [context.Process(target=_rank, args=(r, port, weighting, queue)) for r in range(2)]
    for worker in workers:
        worker.start()
    found = sorted((queue.get(timeout=120) for _ in workers), key=lambda row: row[0])
    for worker in workers:
        worker.join()
    alone = build("bagmar", class_counts=COUNTS, weighting=weighting)
    for seed in range(3):
        logits, target = some(8, seed=seed)
        (gradient,) = torch.autograd.grad(alone(logits, target), logits)
    for _, totals, _ in found:
        np.testing.assert_allclose(totals, alone.totals, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose((found[0][2] + found[1][2]) / 2, gradient, rtol=1e-12, atol=1e-15)


def test_a_threshold_that_is_an_entry_of_a_soft_target() -> None:
    """0.2 in float32 is more than 0.2 in float64; the target's own precision decides."""
    target = torch.tensor([[0.8, 0.2, 0.0]])
    loss = build("bce", class_counts=[3, 2, 1], target_threshold=0.2)
    values = [loss(torch.ones(1, 3, dtype=kind), target).item() for kind in (torch.float32, torch.float64)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert values[0] == pytest.approx(3 * np.log1p(np.e) - 1, rel=1e-6)  # the label's column alone is 1


def test_prior_odds_are_those_of_a_rounded_share() -> None:
    """One class with nearly all images: 1 - pi keeps the rounding of pi, as where pi is stored in float32."""
    loss, pi = build("bal_bce", class_counts=[5000, 2]), np.float32(5000 / 5002)
    assert loss.log_odds.dtype == torch.float32
    expected = np.log(pi) - np.log(np.float32(1) - pi)
    assert loss.log_odds[0].item() == pytest.approx(float(expected), abs=5e-7)
    assert abs(loss.log_odds[0].item() - np.log(2500.0)) > 1e-5


# ---- mixing ----------------------------------------------------------------------------------------------


def test_mixed_loss_weighs_two_labels() -> None:
    loss = build("balanced_softmax", class_counts=COUNTS)
    logits, y = some()
    y2 = y.flip(0)
    value = mixed(loss, logits, y, y2, 0.3)
    assert value.item() == pytest.approx((0.3 * loss(logits, y) + 0.7 * loss(logits, y2)).item(), rel=1e-12)
    same = mixed(loss, logits, y, y2, torch.full((8,), 0.3))
    assert same.item() == pytest.approx(value.item(), rel=1e-6)


def test_losses_that_cannot_be_mixed_say_so() -> None:
    logits, y = some()
    with pytest.raises(UserError, match="cannot be mixed"):
        mixed(build("bagmar", class_counts=COUNTS), logits, y, y, 0.5)
    with pytest.raises(UserError, match="hard labels"):
        remixed(build("focal", class_counts=COUNTS), logits, y, y, torch.full((8,), 0.5))


def test_mixed_targets_sum_to_one_and_add_up_for_equal_labels() -> None:
    target = mixed_targets(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.25, 0.25]), num_classes=4)
    torch.testing.assert_close(target, torch.tensor([[0.25, 0, 0.75, 0], [0, 1.0, 0, 0]]))
    smooth = mixed_targets(torch.tensor([0]), torch.tensor([2]), 0.25, num_classes=4, smoothing=0.2)
    torch.testing.assert_close(smooth, torch.tensor([[0.25, 0.05, 0.65, 0.05]]))


def test_mixup_has_one_lam_on_all_ranks_and_mixup_cutmix_its_own() -> None:
    from lt.engine import Step
    from lt.tasks import mixing

    images, target = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 4, 4), torch.arange(8) % 4
    loss, ranks = build("cross_entropy", class_counts=COUNTS), [Step(3, 1, 2, rank) for rank in (0, 1)]
    for name, options, same in (("mixup", {"alpha": 0.2}, True), ("mixup_cutmix", {}, False)):
        mix = mixing.build(name, num_classes=4, class_counts=COUNTS, **options)
        one, other = (mix(images, target, loss, step)[0] for step in ranks)
        assert torch.equal(one, other) == same, name


@pytest.mark.parametrize(
    ("first", "second", "lam", "share"),
    [
        (0, 2, 0.4, 0.0),  # ten times the images and under half of the picture: all to the rare class
        (0, 2, 0.6, 0.6),
        (2, 0, 0.6, 1.0),
        (2, 0, 0.4, 0.4),
        (0, 1, 0.4, 0.0),  # exactly kappa times
        (2, 2, 0.4, 0.4),
    ],
)
def test_remix_gives_the_label_to_the_rarer_class(first: int, second: int, lam: float, share: float) -> None:
    got = remix_lam(torch.tensor([first]), torch.tensor([second]), lam, class_counts=COUNTS, kappa=3.0, tau=0.5)
    assert got.item() == pytest.approx(share)


def test_logit_adjustment_is_balanced_softmax() -> None:
    assert LOSSES["logit_adjustment"] is LOSSES["balanced_softmax"]
    logits, target = some()
    value = build("logit_adjustment", class_counts=COUNTS, tau=1.3)(logits, target)
    want = F.cross_entropy(logits + 1.3 * torch.log(torch.tensor(COUNTS / COUNTS.sum())), target)
    assert value.item() == pytest.approx(want.item(), rel=1e-12)
