"""What a training step of RIDE, its router and BatchFormer means, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lt import losses, models, tasks
from lt.engine import Step
from lt.errors import UserError
from lt.losses.experts import balanced_softmax_two_streams, distillation, router_loss
from lt.stages.networks import check_groups, load_weights

COUNTS = np.array([40, 20, 10, 5, 3])
C = len(COUNTS)
STEP = Step(seed=0, epoch=0, step=0)


def net(arch: str = "ride_resnet8", **options: object) -> torch.nn.Module:
    return models.build(arch, C, seed=0, in_channels=1, **options).train()


def ride(**options: object) -> torch.nn.Module:
    return losses.build("ride", class_counts=COUNTS, **{"reweight_epoch": 2, **options})


def batch(size: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    images = torch.tensor(rng.standard_normal((size, 1, 8, 8)), dtype=torch.float32)
    return {"image": images, "target": torch.tensor(rng.integers(0, C, size))}


def experts(model: torch.nn.Module, **options: object) -> object:
    given = {"loss": ride(), "mix": None, **options}
    task = tasks.build("experts", model=model, **given)
    task.start_epoch(0)
    return task


def test_the_loss_is_ride_on_the_experts_logits() -> None:
    model, data = net(), batch()
    got = experts(model)(model, data, STEP)
    wanted = ride()(copy.deepcopy(model).train().expert_logits(data["image"]), data["target"])
    assert torch.equal(got["loss"], wanted)
    assert got["logits"].shape == (12, C) and not got["logits"].requires_grad


@pytest.mark.parametrize(("add_bt", "weights"), [(1, (1.0,)), (33, (1.0, 1.0)), (32, (0.01, 1.01))])
def test_batchformers_streams_are_weighted_as_released(add_bt: int, weights: tuple[float, ...]) -> None:
    model, data = net(add_bt=add_bt, encoder_dropout=0.0), batch()
    wanted = copy.deepcopy(model).train().streams(data["image"])
    got = experts(model)(model, data, STEP)["loss"]
    parts = [w * ride()(z, data["target"]) for w, z in zip(weights, wanted, strict=True)]
    torch.testing.assert_close(got, sum(parts))


@pytest.mark.parametrize("add_bt", [1, 12, 13, 32, 33])
def test_the_encoder_learns_and_sees_the_other_samples_in_training_only(add_bt: int) -> None:
    model, data = net(add_bt=add_bt, encoder_dropout=0.0), batch()
    experts(model)(model, data, STEP)["loss"].backward()
    norms = [p.grad.norm().item() for n, p in model.named_parameters() if "batchformer" in n and n.endswith("weight")]
    assert len(norms) >= 6 and min(norms) > 0
    changed = torch.cat([data["image"][:1], batch(11, seed=9)["image"]])
    for module in model.modules():  # the batch's own statistics would mix samples as well
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    first = [model.streams(images)[0][0] for images in (data["image"], changed)]
    assert not torch.allclose(*first, atol=1e-4)
    model.eval()
    first = [model(images)[0] for images in (data["image"], changed)]
    torch.testing.assert_close(*first)


@pytest.mark.parametrize("multiplier", [True, False])
def test_distillation_adds_the_teacher_once_or_once_an_expert(multiplier: bool) -> None:
    model, teacher, data = net(), net(experts=6), batch()
    loss = ride(distill_expert_multiplier=multiplier)
    task = experts(model, loss=loss, teacher=teacher)
    logits = copy.deepcopy(model).expert_logits(data["image"])
    with torch.no_grad():
        taught = copy.deepcopy(teacher).train()(data["image"])
    wanted = ride()(logits, data["target"]) + distillation(logits.mean(1), taught)
    torch.testing.assert_close(task(model, data, STEP)["loss"], wanted * (3 if multiplier else 1))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teacher_never_learns_and_runs_in_the_mode_asked_for(mode: str) -> None:
    model, teacher, data = net(), net(experts=6).eval(), batch()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    task = experts(model, teacher=teacher, teacher_mode=mode)
    assert teacher.training == (mode == "train")
    task(model, data, STEP)["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    after = teacher.state_dict()
    parameters = {n for n, _ in teacher.named_parameters()}
    assert all(torch.equal(after[k], before[k]) for k in parameters)
    drifted = any(not torch.equal(after[k], before[k]) for k in before if k.endswith("running_mean"))
    assert drifted == (mode == "train")


def test_the_state_needs_no_teacher_because_its_statistics_are_never_read() -> None:
    model, data = net(), batch()
    fresh, used = net(experts=6), net(experts=6)
    task = experts(model, teacher=used)
    first = task(copy.deepcopy(model), data, STEP)["loss"]
    for seed in range(3):
        task(copy.deepcopy(model), batch(seed=seed), STEP)
    again = experts(model, teacher=fresh)(copy.deepcopy(model), data, STEP)["loss"]
    assert torch.equal(first, again)


def test_what_draws_at_random_says_so() -> None:
    assert not experts(net()).stochastic
    assert experts(net(add_bt=33)).stochastic
    assert experts(net(use_experts="rand")).stochastic
    assert experts(net(), teacher=net(experts=6, add_bt=33)).stochastic


def test_reweighting_follows_the_epoch() -> None:
    model, data = net(), batch()
    task = experts(model)
    values = []
    for epoch in range(4):
        task.start_epoch(epoch)
        values.append(task(copy.deepcopy(model), data, STEP)["loss"].item())
    assert values[0] == values[1] != values[2] == values[3]


@pytest.mark.parametrize("counts", [[40, 20, 10, 5, 0]])
def test_a_class_without_images_is_refused_by_name(counts: list[int]) -> None:
    for name in ("ride", "ldam"):
        with pytest.raises(UserError, match=r"class 4"):
            losses.build(name, class_counts=np.array(counts))


def test_refusals() -> None:
    plain = models.build("resnet8", C, seed=0)
    with pytest.raises(UserError, match="has no experts"):
        tasks.build("experts", model=plain, loss=ride(), mix=None)
    with pytest.raises(UserError, match="expected ride"):
        tasks.build("experts", model=net(), loss=losses.build("cross_entropy", class_counts=COUNTS), mix=None)
    with pytest.raises(UserError, match="mix"):
        tasks.build("experts", model=net(), loss=ride(), mix=object())
    with pytest.raises(UserError, match="teacher_mode"):
        tasks.build("experts", model=net(), loss=ride(), teacher=net(experts=6), teacher_mode="evl")
    with pytest.raises(UserError, match="takes no 'teecher'"):
        tasks.build("experts", model=net(), loss=ride(), teecher=net(experts=6))
    with pytest.raises(UserError, match="no router"):
        tasks.build("route", model=net())
    with pytest.raises(UserError, match="one expert"):
        tasks.build("route", model=net(router=True, top_k=2, experts=1))
    with pytest.raises(UserError, match="no BatchFormer"):
        tasks.build("two_streams", model=plain, loss=losses.build("balanced_softmax", class_counts=COUNTS))


# The router


def test_only_the_router_learns_and_nothing_else_moves() -> None:
    trained = net()
    routed = net(router=True, top_k=3)
    drawn = {k: v.clone() for k, v in routed.state_dict().items() if k.startswith("router.")}
    load_weights(routed, trained.state_dict(), what="frozen", where="stage1")
    before = {k: v.clone() for k, v in routed.state_dict().items()}
    assert all(torch.equal(before[k], v) for k, v in drawn.items())
    assert all(torch.equal(before[k], v) for k, v in trained.state_dict().items())
    optimiser = torch.optim.SGD([p for p in routed.parameters() if p.requires_grad], lr=0.1)
    task = tasks.build("route", model=routed, pos_weight=100.0)
    for seed in range(2):
        routed.train()
        result = task(routed, batch(seed=seed), STEP)
        optimiser.zero_grad()
        result["loss"].backward()
        optimiser.step()
    moved = {k for k, v in routed.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith("router.") for k in moved)
    assert result["logits"].shape == (12, C)


def test_a_first_stage_with_batchformer_feeds_a_router_without_it() -> None:
    routed = net(router=True, top_k=3)
    load_weights(routed, net(add_bt=33).state_dict(), what="frozen", where="stage1")
    with pytest.raises(UserError, match=r"stage1: router\."):
        load_weights(routed, net().state_dict(), what="all", where="stage1")


# Balanced softmax with BatchFormer


def test_two_streams_are_the_released_sum() -> None:
    model = models.build("resnet8", C, seed=0, in_channels=1)
    models.add_batchformer(model, seed=1, heads=4, dropout=0.0).train()
    loss, data = losses.build("balanced_softmax", class_counts=COUNTS), batch()
    task = tasks.build("two_streams", model=model, loss=loss, mix=None)
    logits = copy.deepcopy(model)(data["image"])
    log_prior = torch.tensor(COUNTS / COUNTS.sum()).log()
    wanted = balanced_softmax_two_streams(logits, data["target"], log_prior=log_prior)
    got = task(model, data, STEP)
    torch.testing.assert_close(got["loss"].double(), wanted.double(), rtol=1e-5, atol=1e-5)
    got["loss"].backward()
    norms = [p.grad.norm() for n, p in model.named_parameters() if "batchformer" in n and n.endswith("weight")]
    assert min(norms) > 0 and len(got["logits"]) == len(data["target"])


@pytest.mark.parametrize(
    ("accumulate", "world", "across", "fits"),
    [(1, 1, False, True), (4, 1, False, True), (8, 1, False, False), (1, 4, False, True), (1, 8, False, False),
     (1, 8, True, True), (8, 8, True, False)],
)  # fmt: skip
def test_groups_are_never_cut_unnoticed(accumulate: int, world: int, across: bool, fits: bool) -> None:
    options = {"group_size": 128, "across_ranks": across}
    params = {"options": options, "batchformer": None, "batch": 512, "accumulate": accumulate}
    if fits:
        return check_groups(params, world=world)
    with pytest.raises(UserError, match="group_size"):
        check_groups(params, world=world)


@pytest.mark.parametrize(
    ("accumulate", "world", "fits"), [(1, 1, True), (1, 8, True), (1, 16, False), (16, 1, False), (2, 8, False)]
)
def test_groups_of_batch_normalisation_are_never_cut_either(accumulate: int, world: int, fits: bool) -> None:
    params = {"options": {}, "batchformer": None, "bn_group": 32, "batch": 256, "accumulate": accumulate}
    if fits:
        return check_groups(params, world=world)
    with pytest.raises(UserError, match=r"bn_group: groups of 32 .* on \d+ ranks; accumulate less, or start fewer"):
        check_groups(params, world=world)


def test_a_router_of_one_expert_is_refused() -> None:
    with pytest.raises(UserError, match="one expert leaves nothing"):
        models.build("ride_resnet8", 5, seed=0, experts=1, router=True, top_k=3)
    with pytest.raises(UserError, match="E > 1"):
        router_loss(torch.zeros(3, 0), torch.zeros(3, 0))


# tau-normalisation, as the merge of one model


def test_tau_norm_rescales_linear_classifiers_and_refuses_others(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    from lt.merge import merge_files

    state = net(head="linear").state_dict()
    save_file(state, tmp_path / "one.safetensors")
    merge_files([tmp_path / "one.safetensors"], "tau_norm", tmp_path / "out.safetensors", tau=0.5)
    found = load_file(tmp_path / "out.safetensors")
    weight = state["experts.1.fc.weight"]
    torch.testing.assert_close(found["experts.1.fc.weight"], weight / weight.norm(dim=1, keepdim=True) ** 0.5)
    assert not found["experts.2.fc.bias"].any() and torch.equal(found["conv1.weight"], state["conv1.weight"])
    with pytest.raises(UserError, match="one model, got 2"):
        merge_files([tmp_path / "one.safetensors"] * 2, "tau_norm", tmp_path / "out.safetensors", tau=0.5)
    save_file(net().state_dict(), tmp_path / "cosine.safetensors")
    with pytest.raises(UserError, match="cosine classifier"):
        merge_files([tmp_path / "cosine.safetensors"], "tau_norm", tmp_path / "out.safetensors", tau=0.5)
