"""RIDE, LDAM-DRW and distillation losses, and their class vectors, against the released code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lt.losses.balanced import ClassBalanced, class_balanced_weights
from lt.losses.experts import Ride, diversity_temperatures
from lt.losses.margin import Ldam, ldam_margins
from lt.losses.softmax import Focal

HERE = Path(__file__).parent / "ride"
LOSSES = np.load(HERE / "losses.npz")
CASES = {k: v for k, v in json.loads((HERE / "losses.json").read_text()).items() if not k.startswith("_")}
VECTORS = np.load(HERE / "class_weights.npz")
SETS = sorted({key.split("/")[0] for key in VECTORS.files})
OURS = {
    "additional_diversity_factor": "diversity_factor",
    "base_diversity_temperature": "temperature",
    "max_m": "max_margin",
    "s": "scale",
}
POINTS = [(name, epoch) for name, case in CASES.items() for epoch in case["epochs"]]


def loss_of(name: str, **more: object) -> Ride:
    options = {OURS.get(k, k): v for k, v in CASES[name]["kw"].items()}
    return Ride(class_counts=LOSSES[f"{name}/cls_num"], **options, **more)


def inputs(name: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The leaf [E, B, C], the target and the teacher's logits."""
    logits = torch.from_numpy(LOSSES[f"{name}/logits"]).to(dtype).requires_grad_()
    teacher = torch.from_numpy(LOSSES[f"{name}/teacher"]).to(dtype)
    return logits, torch.from_numpy(LOSSES[f"{name}/target"]), teacher


@pytest.mark.parametrize("data", SETS)
def test_class_vectors(data: str) -> None:
    counts = VECTORS[f"{data}/cls_num"].astype(np.float64)

    def same(ours: np.ndarray, theirs: str) -> None:
        np.testing.assert_allclose(ours.astype(np.float32), VECTORS[f"{data}/{theirs}"], rtol=1e-6, atol=0)

    same(ldam_margins(counts), "m_list")
    same(class_balanced_weights(counts, beta=0.9999), "w_drw")
    for factor in ("0.05", "0.02", "0.015"):
        ours = diversity_temperatures(counts, reweight_factor=float(factor))
        same(ours, f"w_div_{factor}")
        assert ours.mean() == pytest.approx(float(VECTORS[f"{data}/temperature_mean_{factor}"]), rel=1e-6)


@pytest.mark.parametrize(("name", "epoch"), POINTS)
def test_ride(name: str, epoch: int) -> None:
    loss = loss_of(name)
    loss.set_epoch(epoch - 1)
    logits, target, _ = inputs(name)
    value = loss(logits.transpose(0, 1), target)
    value.backward()
    assert value.item() == pytest.approx(float(LOSSES[f"{name}/ride/ep{epoch}/f64/loss"]), rel=1e-9)
    theirs = LOSSES[f"{name}/ride/ep{epoch}/f64/grad"]
    np.testing.assert_allclose(logits.grad.numpy(), theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
    single = loss(inputs(name, torch.float32)[0].transpose(0, 1), target)
    assert single.item() == pytest.approx(float(LOSSES[f"{name}/ride/ep{epoch}/f32/loss"]), rel=1e-5)


@pytest.mark.parametrize(("name", "epoch"), POINTS)
@pytest.mark.parametrize("repo", ["rideRepo", "batchformerRepo"])
def test_distillation(name: str, epoch: int, repo: str) -> None:
    loss = loss_of(name, distill_expert_multiplier=repo == "rideRepo")
    loss.set_epoch(epoch - 1)
    logits, target, teacher = inputs(name)
    value = loss(logits.transpose(0, 1), target, teacher)
    value.backward()
    key = f"{name}/distill_{repo}/ep{epoch}"
    assert value.item() == pytest.approx(float(LOSSES[f"{key}/f64/loss"]), rel=1e-9)
    theirs = LOSSES[f"{key}/f64/grad"]
    np.testing.assert_allclose(logits.grad.numpy(), theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
    logits, _, teacher = inputs(name, torch.float32)
    single = loss(logits.transpose(0, 1), target, teacher)
    assert single.item() == pytest.approx(float(LOSSES[f"{key}/f32/loss"]), rel=1e-5)


@pytest.mark.parametrize(("name", "epoch"), POINTS)
def test_ldam_drw(name: str, epoch: int) -> None:
    kw = CASES[name]["kw"]
    loss = Ldam(
        class_counts=LOSSES[f"{name}/cls_num"],
        max_margin=kw.get("max_m", 0.5),
        scale=kw.get("s", 30),
        scaled_logits=True,
        reweight_epoch=kw["reweight_epoch"],
    )
    loss.set_epoch(epoch - 1)
    mean = inputs(name)[0].detach().mean(0).requires_grad_()
    value = loss(mean, inputs(name)[1])
    value.backward()
    assert value.item() == pytest.approx(float(LOSSES[f"{name}/ldam/ep{epoch}/f64/loss"]), rel=1e-9)
    theirs = LOSSES[f"{name}/ldam/ep{epoch}/f64/grad"]
    np.testing.assert_allclose(mean.grad.numpy(), theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("name", CASES)
def test_constants_as_stored(name: str) -> None:
    loss = loss_of(name)
    np.testing.assert_allclose(loss.margins.numpy(), LOSSES[f"{name}/m_list"], rtol=1e-6)
    np.testing.assert_allclose(loss.drw_weight.numpy(), LOSSES[f"{name}/w_drw"], rtol=1e-6)
    np.testing.assert_allclose(loss.temperatures.numpy(), LOSSES[f"{name}/w_diversity"], rtol=1e-6)


def test_plain_logits_get_plain_cross_entropy() -> None:
    logits, target = torch.from_numpy(LOSSES["val_ce/logits"]), torch.from_numpy(LOSSES["val_ce/target"])
    assert loss_of("c10_factor0")(logits, target).item() == pytest.approx(float(LOSSES["val_ce/loss"]), rel=1e-9)


def mean_logits() -> tuple[torch.Tensor, torch.Tensor]:
    r = np.random.RandomState(7)
    return torch.from_numpy((r.randn(3, 8, 10) * 2).mean(0)), torch.from_numpy(r.randint(0, 10, 8))


def test_focal() -> None:
    value = Focal(class_counts=LOSSES["c10_factor0/cls_num"], gamma=2.0)(*mean_logits())
    assert value.item() == pytest.approx(float(LOSSES["focal/loss_g2"]), rel=1e-9)


def test_weighted_cross_entropy() -> None:
    value = ClassBalanced(class_counts=LOSSES["c10_factor0/cls_num"])(*mean_logits())
    assert value.item() == pytest.approx(float(LOSSES["ce_reweight/loss"]), rel=1e-9)
