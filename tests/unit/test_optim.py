"""Schedules, optimisers and parameter groups: options, messages, and what the engine relies on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from lt.errors import UserError
from lt.optim import SCHEDULES, layer_decay_groups, optimizer, param_groups, plain, schedule

NEEDED = {
    "coslrwarmup": {"warmup_epochs": 2, "base_lr": 0.05},
    "ride": {"step1": 6, "step2": 8, "gamma": 0.1},
    "step": {"step_size": 3},
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(1, 2))


class Vit(nn.Module):
    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.patch_embed = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_never_negative_and_never_above_the_base(name: str) -> None:
    rate = schedule(name, lr=0.1, epochs=12, steps_per_epoch=5, **NEEDED.get(name, {}))
    values = [rate(e, s) for e in range(12) for s in range(5)]
    assert min(values) >= 0
    assert max(values) <= 0.1 + 1e-15
    assert max(values) > 0
    assert values == [rate(e, s) for e in range(12) for s in range(5)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "did you mean 'cosine'"),
        ("cosine", {"warmup": 3}, "no option 'warmup'"),
        ("coslrwarmup", {"warmup_epochs": 1, "base_lr": 0.05}, "2 or more"),
        ("coslrwarmup", {"warmup_epochs": 12, "base_lr": 0.05}, "below epochs"),
        ("coslrwarmup", {}, "needs warmup_epochs, base_lr"),
        ("mae", {"warmup_epochs": 12}, "below epochs"),
        ("mae", {"accumulate": 0}, "accumulate"),
        ("ride", {"step1": 9, "step2": 8, "gamma": 0.1}, "step1"),
        ("coslr_official", {"entry": "tran"}, "entry"),
        ("step", {"step_size": 0}, "step_size"),
    ],
)
def test_a_wrong_schedule_is_one_line(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        schedule(name, lr=0.1, epochs=12, steps_per_epoch=5, **options)
    assert "\n" not in str(caught.value)


def test_cosine_is_torchs() -> None:
    weight = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([weight], lr=0.2)
    official = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=10, eta_min=0.01)
    rate = schedule("cosine", lr=0.2, epochs=10, steps_per_epoch=1, min_lr=0.01)
    for epoch in range(10):
        assert rate(epoch, 0) == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
        reference.step()
        official.step()


def test_the_first_update_of_a_warmup_has_rate_zero() -> None:
    rate = schedule("mae", lr=0.1, epochs=10, steps_per_epoch=4, warmup_epochs=2)
    assert rate(0, 0) == 0
    assert rate(1, 0) == pytest.approx(0.05)
    assert rate(2, 0) == pytest.approx(0.1)


def test_groups_of_each_rule() -> None:
    model = Small()
    (everything,) = param_groups(model, weight_decay=0.1)
    assert everything["weight_decay"] == 0.1
    assert len(everything["params"]) == len(list(model.parameters()))
    free, decayed = param_groups(model, weight_decay=0.1, rule="no_decay_1d")
    assert (free["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    assert free["names"] == ["conv.bias", "bn.weight", "bn.bias", "fc.bias"]
    assert decayed["names"] == ["scale", "conv.weight", "fc.weight"]
    assert param_groups(model, weight_decay=0.1, rule="mae")[0]["names"] == free["names"]


def test_a_part_of_the_network_can_have_its_own_rate() -> None:
    groups = param_groups(Small(), weight_decay=0.1, lr_scales={"fc": 0.05})
    assert [(g["lr_scale"], g["names"][0]) for g in groups] == [(1.0, "scale"), (0.05, "fc.weight")]
    with pytest.raises(UserError, match="begins with 'fcc'"):
        param_groups(Small(), weight_decay=0.1, lr_scales={"fcc": 0.05})


def test_frozen_parameters_are_left_out() -> None:
    model = Small()
    model.conv.requires_grad_(False)
    (group,) = param_groups(model, weight_decay=0.0)
    assert not any(n.startswith("conv") for n in group["names"])
    model.requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameter"):
        param_groups(model, weight_decay=0.0)


def test_layer_decay_scales_by_depth() -> None:
    groups = layer_decay_groups(Vit(), weight_decay=0.05, decay=0.5)
    scale = {n: g["lr_scale"] for g in groups for n in g["names"]}
    assert scale["cls_token"] == scale["patch_embed.weight"] == 0.5**3
    assert scale["blocks.0.weight"] == 0.5**2
    assert scale["blocks.1.weight"] == 0.5
    assert scale["head.weight"] == scale["fc_norm.weight"] == 1.0
    decay = {n: g["weight_decay"] for g in groups for n in g["names"]}
    assert decay["pos_embed"] == decay["head.bias"] == 0.0
    assert decay["head.weight"] == 0.05
    assert groups[0]["names"] == ["cls_token", "pos_embed", "patch_embed.bias"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "layer_decy"}, "did you mean 'layer_decay'"),
        ({"rule": "layer_decay"}, "needs decay"),
        ({"rule": "layer_decay", "decay": 0.5}, "blocks"),
        ({"rule": "all", "decay": 0.5}, "no option 'decay'"),
    ],
)
def test_a_wrong_rule_is_one_line(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        param_groups(Small(), weight_decay=0.1, **options)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_optimisers_step_at_the_rate_that_the_engine_sets(name: str) -> None:
    torch.manual_seed(0)
    model = Small()
    optimiser = optimizer(name, param_groups(model, weight_decay=0.1, lr_scales={"fc": 0.0}))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.fc(model.bn(model.conv(torch.randn(2, 3, 5, 5))).mean((2, 3))).mul(model.scale).sum().backward()
    optimiser.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters()), "a rate that nobody set moved a weight"
    for group in optimiser.param_groups:
        group["lr"] = 0.1 * group["lr_scale"]
    optimiser.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "conv.weight" in moved
    assert not any(n.startswith("fc") for n in moved)


def test_fused_sgd_takes_the_plain_step() -> None:
    results = []
    for make in (
        lambda p: optimizer("sgd", [{"params": p, "weight_decay": 1e-3}], momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, foreach=False),
    ):
        weight = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
        optimiser = make([weight])
        optimiser.param_groups[0]["lr"] = 0.1
        for _ in range(4):
            weight.grad = weight.detach() ** 2
            optimiser.step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-14, atol=0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_first_step_that_is_skipped_leaves_nothing_behind(nesterov: bool) -> None:
    """Gradient scaling skips steps, the first ones above all: the buffers of a skipped step must still be zero."""
    weights = []
    for skipped in (0, 1):
        p = nn.Parameter(torch.ones(1000))
        made = optimizer("sgd", [{"params": [p]}], momentum=0.9, nesterov=nesterov)
        made.param_groups[0]["lr"] = 0.1
        assert not made.state[p]["momentum_buffer"].any()  # torch's own would be memory that nobody wrote
        p.grad = torch.full_like(p, float("inf"))
        for flag in [1.0] * skipped + [0.0, 0.0]:
            made.found_inf = torch.tensor(flag)
            made.step()
            p.grad = torch.ones_like(p)
        weights.append(p.detach().clone())
        p.grad = None
    assert not torch.isfinite(weights[0]).any()  # the step that was not skipped
    assert weights[1].unique().item() == pytest.approx(
        1 - 0.1 * ((1.9 if nesterov else 1.0) + (2.71 if nesterov else 1.9))
    )


def test_options_of_an_optimiser_are_checked() -> None:
    groups = param_groups(Small(), weight_decay=0.0)
    with pytest.raises(UserError, match="no option 'nestrov'; did you mean 'nesterov'"):
        optimizer("sgd", groups, nestrov=True)
    with pytest.raises(UserError, match="unknown optimizer"):
        optimizer("sgdd", groups)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_plain_optimiser_takes_the_same_steps(kind: type[torch.optim.Optimizer]) -> None:
    def trained(make: type[torch.optim.Optimizer]) -> tuple[torch.Tensor, dict]:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        first = make([weight], lr=0.1, weight_decay=0.01)
        for step in range(4):
            if step == 2:
                state, first = first.state_dict(), make([weight], lr=0.1, weight_decay=0.01)
                first.load_state_dict(state)
            first.zero_grad()
            (weight.sin() ** 2).sum().backward()
            first.step()
        assert not weight.grad.requires_grad
        return weight.detach(), first.state_dict()["param_groups"]

    (ours, groups), (torchs, expected) = trained(plain(kind)), trained(kind)
    assert torch.equal(ours, torchs) and groups == expected


def test_training_does_not_load_the_compiler() -> None:
    code = """
import sys, torch
from lt import optim
for name in optim.OPTIMIZERS:
    model = torch.nn.Linear(3, 2)
    made = optim.optimizer(name, optim.param_groups(model, weight_decay=0.1))
    model(torch.ones(4, 3)).sum().backward()
    made.step(), made.zero_grad(), made.load_state_dict(made.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
