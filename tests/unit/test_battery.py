"""What every loss, sampler, head and post-hoc step must survive. A new entry of a registry is picked up by itself."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
import torch

from lt import posthoc
from lt.errors import UserError
from lt.losses import LOSSES, build
from lt.losses.contrastive import CONTRASTIVE
from lt.models import heads
from lt.sampling.samplers import SAMPLERS
from lt.sampling.samplers import build as build_sampler

COUNTS = np.array([90, 40, 12, 5, 2])
C = len(COUNTS)
OPTIONS = {  # further settings of an entry; every entry also runs with its defaults
    "focal": [{"gamma": 0.5}, {"gamma": 0.0}],
    "class_balanced": [{"form": "bce"}, {"form": "softmax"}, {"form": "focal", "gamma": 0.5}],
    "balanced_softmax": [{"tau": 1.5}],
    "bce": [{"smoothing": 0.1}, {"classes": "mean"}],
    "bal_bce": [{"tau": 1.05, "smoothing": 0.1}],
    "lade": [{"form": "livt"}],
    "eql": [{"drop": 1.0, "tail_ratio": 0.5}],
    "gml": [{"power": 2.0}],
    "label_smoothing": [{"form": "paper"}],
    "label_aware_smoothing": [
        {"shape": s, "power": 2.0, "form": f} for s in ("linear", "exp") for f in ("code", "paper")
    ],
    "ldam": [{"scaled_logits": True}, {"reweight_epoch": 0}],
    "bagmar": [
        {"form": "paper", "lambda1": 1.2, "lambda2": 0.9},
        {"accumulate": "single", "weighting": "neg_pos_bal"},
        {"weighting": "neg_pos_bal_norm"},
        {"criterion": "balanced_softmax"},
    ],
    "ride": [{"reweight_epoch": 0}],
}
ON_LOGITS = [name for name in LOSSES if name not in CONTRASTIVE]  # those on two views: test_contrastive.py
CASES = [(name, options) for name in ON_LOGITS for options in [{}, *OPTIONS.get(name, [])]]
EXPERTS = {"ride": 3}  # losses on [B,E,C]
RANDOM_MASK = {"eql": {"drop": 1.0}}  # the mask is drawn by position: with drop 1 nothing is random
losses = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else repr(v))


def make(name: str, options: dict, counts: np.ndarray = COUNTS) -> torch.nn.Module:
    loss = build(name, class_counts=counts, **options)
    loss.set_epoch(0)
    return loss


def batch(name: str, *, size: int = 8, classes: int = C, dtype=torch.float32, scale: float = 2.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    shape = (size, EXPERTS[name], classes) if name in EXPERTS else (size, classes)
    logits = torch.tensor(rng.standard_normal(shape) * scale, dtype=dtype, requires_grad=True)
    return logits, torch.tensor(rng.integers(0, classes, size))


def run(loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> tuple[float, torch.Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value.shape == ()
    return float(value.detach()), gradient


@losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits(name: str, options: dict, dtype: torch.dtype) -> None:
    loss = make(name, options)
    for high in range(C):
        for label in range(C):
            logits, _ = batch(name, size=3, dtype=dtype)
            extreme = torch.full_like(logits, -1e4)
            extreme[..., high] = 1e4
            value, gradient = run(loss, extreme, torch.full((3,), label))
            assert np.isfinite(value)
            assert torch.isfinite(gradient).all()


@losses
def test_class_without_images(name: str, options: dict) -> None:
    counts = COUNTS.copy()
    counts[3] = 0
    try:
        loss = make(name, options, counts)
    except UserError as refusal:
        assert "3" in str(refusal)
        assert "\n" not in str(refusal)
        return
    logits, _ = batch(name)
    for label in range(C):  # even a sample of that class must not break training
        value, gradient = run(loss, logits, torch.full((8,), label))
        assert np.isfinite(value)
        assert torch.isfinite(gradient).all()


@losses
def test_batch_of_one(name: str, options: dict) -> None:
    logits, target = batch(name, size=1)
    value, gradient = run(make(name, options), logits, target)
    assert np.isfinite(value)
    assert torch.isfinite(gradient).all()


@losses
def test_one_class(name: str, options: dict) -> None:
    try:
        loss = make(name, options, np.array([7]))
    except UserError as refusal:
        assert "\n" not in str(refusal)
        return
    logits, _ = batch(name, classes=1)
    value, gradient = run(loss, logits, torch.zeros(8, dtype=torch.int64))
    assert np.isfinite(value)
    assert torch.isfinite(gradient).all()


@losses
def test_gradient_is_that_of_the_value(name: str, options: dict) -> None:
    if options.get("weighting", "none") != "none":
        pytest.skip("a weighting replaces the gradient on purpose")
    if name == "ride":
        pytest.skip("part of the value is detached on purpose; its golden gradients are in tests/golden")
    logits, target = batch(name, size=4, dtype=torch.float64)
    trained = make(name, options)
    for seed in range(3):  # a state that is not zero
        run(trained, *batch(name, dtype=torch.float64, seed=seed))
    _, gradient = run(copy.deepcopy(trained), logits, target)
    step = 1e-6
    flat = logits.detach().flatten()
    for i in range(0, flat.numel(), 3):
        sides = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[i] += sign * step
            sides.append(run(copy.deepcopy(trained), moved.view_as(logits), target)[0])
        numeric = (sides[0] - sides[1]) / (2 * step)
        assert numeric == pytest.approx(float(gradient.flatten()[i]), rel=1e-5, abs=1e-7)


@losses
def test_float32_and_half_agree_with_float64(name: str, options: dict) -> None:
    logits, target = batch(name, dtype=torch.float64)
    want, exact = run(make(name, options), logits, target)
    got, gradient = run(make(name, options), logits.detach().float(), target)
    assert got == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-6)
    half = logits.detach().to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = make(name, options)(half, target)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(run(make(name, options), half.double(), target)[0], rel=1e-5)


@losses
def test_renaming_the_classes_changes_nothing(name: str, options: dict) -> None:
    options = {**options, **RANDOM_MASK.get(name, {})}
    order = torch.tensor([3, 0, 4, 1, 2])  # new class k is old class order[k]
    first, second = make(name, options), make(name, options, COUNTS[order.numpy()])
    for seed in range(3):
        logits, target = batch(name, dtype=torch.float64, seed=seed)
        value, gradient = run(first, logits, target)
        renamed = torch.argsort(order)[target]
        again, moved = run(second, logits.detach()[..., order], renamed)
        assert again == pytest.approx(value, rel=1e-9)
        torch.testing.assert_close(moved, gradient[..., order], rtol=1e-7, atol=1e-10)


@losses
def test_nothing_leaks_between_calls(name: str, options: dict) -> None:
    logits, target = batch(name)
    loss, other = make(name, options), make(name, options)
    before, was, labels = copy.deepcopy(loss.state_dict()), logits.detach().clone(), target.clone()
    loss.eval()
    run(loss, logits, target)
    assert same_state(loss.state_dict(), before), "evaluation moved the state"
    loss.train()
    value, gradient = run(loss, logits, target)
    for seed in range(3):
        run(loss, *batch(name, seed=seed + 1))
    assert same_state(other.state_dict(), before), "two losses share state"
    again, repeated = run(other, logits, target)
    assert (value, gradient.tolist()) == (again, repeated.tolist())
    assert torch.equal(logits, was)
    assert torch.equal(target, labels)
    if not loss.state_dict():
        assert run(loss, logits, target)[0] == value


@losses
def test_state_comes_back_to_the_last_bit(name: str, options: dict) -> None:
    loss = make(name, options)
    for seed in range(3):
        run(loss, *batch(name, seed=seed))
    restored = make(name, options)
    restored.load_state_dict(copy.deepcopy(loss.state_dict()))
    for seed in range(3, 6):
        want, got = (run(x, *batch(name, seed=seed)) for x in (loss, restored))
        assert want[0] == got[0]
        assert torch.equal(want[1], got[1])
    assert same_state(loss.state_dict(), restored.state_dict())


def same_state(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Generators:
    """Fails where a global generator of random, numpy or torch moved."""

    def __enter__(self) -> None:
        self.before = self.states()

    def __exit__(self, *error: object) -> None:
        assert self.states() == self.before, "a global generator was used"

    @staticmethod
    def states() -> tuple:
        return random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()


@losses
def test_losses_leave_the_global_generators_alone(name: str, options: dict) -> None:
    with Generators():
        run(make(name, options), *batch(name))


@losses
def test_soft_targets_are_taken_or_refused_in_one_line(name: str, options: dict) -> None:
    if name in EXPERTS:
        pytest.skip("takes several experts' logits")
    logits, target = batch(name)
    soft = 0.75 * torch.eye(C)[target] + 0.25 * torch.eye(C)[(target + 1) % C]
    loss = make(name, options)
    if not loss.soft_targets:
        with pytest.raises(UserError, match=r"soft|hard"):
            loss(logits, soft)
    elif options.get("reweight_epoch") is not None:
        with pytest.raises(UserError, match="hard labels"):
            loss(logits, soft)
    else:
        value, gradient = run(loss, logits, soft)
        assert np.isfinite(value)
        assert gradient.abs().sum() > 0


# ---- samplers ------------------------------------------------------------------------------------------

SAMPLER_OPTIONS = {"progressive": {"epochs": 4}, "class_aware": {"k": 3}, "meta": {"init_pow": 0.5}}
LABELS = np.random.default_rng(4).permutation(np.repeat(np.arange(C), [20, 9, 5, 2, 1]))
SOURCES = {
    "python": lambda: random.Random(3),
    "legacy": lambda: np.random.RandomState(3),
    "philox": lambda: np.random.Generator(np.random.Philox(3)),
    "pcg": lambda: np.random.default_rng(3),
    "torch": lambda: torch.Generator().manual_seed(3),
}
samplers = pytest.mark.parametrize("name", SAMPLERS)
sources = pytest.mark.parametrize("source", SOURCES)


def sampler_of(name: str, source: str = "philox", labels: np.ndarray = LABELS, classes: int = C):
    options = SAMPLER_OPTIONS.get(name, {})
    return build_sampler(name, labels=labels, num_classes=classes, source=SOURCES[source](), **options)


@samplers
@sources
def test_samplers_draw_valid_indices_and_touch_no_global(name: str, source: str) -> None:
    with Generators():
        sampler = sampler_of(name, source)
        for epoch, length in enumerate((37, 50, 1, 0, 11)):
            indices = sampler.epoch(epoch, length)
            assert indices.dtype == np.int64
            assert indices.shape == (length,)
            assert length == 0 or (indices.min() >= 0 and indices.max() < len(LABELS))


@samplers
@sources
def test_samplers_resume_exactly(name: str, source: str) -> None:
    sampler = sampler_of(name, source)
    sampler.epoch(0, 41)
    saved = json.loads(json.dumps(sampler.state_dict()))
    want = [sampler.epoch(e, 23) for e in (1, 2)]
    fresh = sampler_of(name, source)
    fresh.load_state_dict(saved)
    for epoch, indices in zip((1, 2), want, strict=True):
        np.testing.assert_array_equal(fresh.epoch(epoch, 23), indices)


@samplers
def test_samplers_do_not_share_state(name: str) -> None:
    first, second = sampler_of(name), sampler_of(name)
    want = first.epoch(0, 30)
    first.epoch(1, 30)
    np.testing.assert_array_equal(second.epoch(0, 30), want)


@samplers
def test_samplers_with_an_empty_class_one_class_and_one_image(name: str) -> None:
    without = LABELS.copy()
    without[without == 3] = 0
    for labels, classes in ((without, C), (np.zeros(6, dtype=int), 1), (np.zeros(1, dtype=int), 1)):
        try:
            sampler = sampler_of(name, "philox", labels, classes)
        except UserError as refusal:
            assert "3" in str(refusal)
            assert classes == C
            continue
        indices = sampler.epoch(0, 40)
        assert indices.shape == (40,)
        assert indices.max() < len(labels)


# ---- heads ---------------------------------------------------------------------------------------------

HEAD_NAMES = [h for h in heads.HEADS if h != "projector"]


@pytest.mark.parametrize("name", HEAD_NAMES)
@pytest.mark.parametrize("classes", [C, 1])
@pytest.mark.parametrize("size", [1, 6])
def test_heads_are_finite(name: str, classes: int, size: int) -> None:
    head = heads.build(name, 4, classes)
    if hasattr(head, "fit"):
        head.fit(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) % classes)
    for scale in (0.0, 1.0, 1e4):
        features = scale * torch.randn(size, 4, generator=torch.Generator().manual_seed(1))
        state = Generators.states()
        logits = head(features)
        assert Generators.states() == state
        assert logits.shape == (size, classes)
        assert torch.isfinite(logits).all()


# ---- post-hoc ------------------------------------------------------------------------------------------


def stored(*, scale: float = 2.0, images: int = 12, classes: int = C, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((images, 4))
    return {
        "logits": rng.standard_normal((images, classes)) * scale,
        "labels": rng.integers(0, classes, images),
        "features": features,
        "weights": rng.standard_normal((classes, 4)),
    }


def scores_of(name: str, data: dict[str, np.ndarray], counts: np.ndarray, **options: object) -> np.ndarray:
    return posthoc.apply({"name": name, **options}, data, class_counts=counts, tuning=data)[0]


steps = pytest.mark.parametrize("name", posthoc.POSTHOC)


@steps
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("scale", "images", "classes"), [(2, 12, C), (1e4, 12, C), (2, 1, C), (2, 12, 1)])
def test_posthoc_scores_rank_every_image(name, dtype, scale, images, classes) -> None:
    data = {
        k: v.astype(dtype) if v.dtype.kind == "f" else v
        for k, v in stored(scale=scale, images=images, classes=classes).items()
    }
    was = copy.deepcopy(data)
    with Generators():
        scores = scores_of(name, data, COUNTS[:classes])
    assert scores.shape == (images, classes)
    assert not np.isnan(scores).any()
    assert np.isfinite(scores.max(axis=1)).all()
    assert all(np.array_equal(data[k], was[k]) for k in was)
    np.testing.assert_array_equal(scores, scores_of(name, data, COUNTS[:classes]))


@steps
def test_posthoc_of_an_empty_class(name: str) -> None:
    counts = COUNTS.copy()
    counts[2] = 0
    scores = scores_of(name, stored(), counts)
    assert not np.isnan(scores).any()
    assert np.isfinite(scores.max(axis=1)).all()


@steps
def test_posthoc_follows_a_renaming_of_the_classes(name: str) -> None:
    order = np.array([3, 0, 4, 1, 2])
    data = stored()
    renamed = {**data, "logits": data["logits"][:, order], "weights": data["weights"][order]}
    renamed["labels"] = np.argsort(order)[data["labels"]]
    first, second = scores_of(name, data, COUNTS), scores_of(name, renamed, COUNTS[order])
    np.testing.assert_allclose(second, first[:, order], rtol=1e-9)
