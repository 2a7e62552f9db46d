"""Label-aware smoothing, mixup cross-entropy and the generalised mean loss of BTM and MiSLAS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lt.losses import build
from lt.losses.mixup import mixed
from lt.losses.smoothing import smoothing_curve

FOLDER = Path(__file__).parent / "btm"
GOLDEN = np.load(FOLDER / "losses.npz")
LAS = [k.split("__")[0] for k in GOLDEN.files if k.startswith("las_") and k.endswith("__eps")]
SHAPES = {"las_linear": ("linear", None), "las_convex": ("convex", None), "las_exp_p05": ("exp", 0.5)}
CIFAR = {"cifar10": (5000, 10), "cifar100": (500, 100)}


def off(actual, expected) -> float:
    actual = np.asarray(actual.detach(), dtype=np.float64)
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


def smoothing_loss(case: str):
    shape, power = SHAPES.get(case, ("concave", None))
    head, tail = GOLDEN[case + "__headtail"].tolist()
    counts = GOLDEN[case + "__counts"]
    return build("label_aware_smoothing", class_counts=counts, head=head, tail=tail, shape=shape, power=power)


@pytest.mark.parametrize("case", LAS)
def test_label_aware_smoothing(case: str) -> None:
    loss = smoothing_loss(case)
    np.testing.assert_array_equal(loss.smoothing.numpy(), GOLDEN[case + "__eps"])
    target = torch.tensor(GOLDEN[case + "__target"])
    for bits, dtype, tolerance in (("64", torch.float64, 1e-12), ("32", torch.float32, 1e-6)):
        logits = torch.tensor(GOLDEN[case + "__logits"]).to(dtype).requires_grad_()
        value = loss(logits, target)
        value.backward()
        assert off(value, GOLDEN[f"{case}__loss{bits}"]) <= tolerance
        assert off(logits.grad, GOLDEN[f"{case}__grad{bits}"]) <= tolerance


@pytest.mark.parametrize("key", [k for k in GOLDEN.files if k.startswith("eps__cifar")])
def test_smoothing_of_released_cifar_settings(key: str) -> None:
    data, factor = key.removeprefix("eps__").split("_")
    largest, classes = CIFAR[data]
    counts = [int(largest * float(factor) ** (c / (classes - 1))) for c in range(classes)]
    want = GOLDEN[key]
    head, tail = (round(float(v), 3) for v in (want[0], want[-1]))
    curve = smoothing_curve(counts, head=head, tail=tail).astype(np.float32)
    np.testing.assert_array_equal(curve, want)


def test_paper_form_differs_and_keeps_the_mass_of_the_label() -> None:
    case = "las_cifar10_if100"
    head, tail = GOLDEN[case + "__headtail"].tolist()
    counts = GOLDEN[case + "__counts"]
    paper = build("label_aware_smoothing", class_counts=counts, head=head, tail=tail, form="paper")
    logits, target = torch.tensor(GOLDEN[case + "__logits"]), torch.tensor(GOLDEN[case + "__target"])
    e = torch.tensor(GOLDEN[case + "__eps"])[target]
    soft = (e.double() / 9)[:, None].expand(-1, 10).scatter(1, target[:, None], (1 - e).double()[:, None])
    want = -(soft * logits.log_softmax(1)).sum(1).mean()
    assert off(paper(logits, target), want.numpy()) <= 1e-12
    assert off(paper(logits, target), GOLDEN[case + "__loss64"]) > 1e-3


@pytest.mark.parametrize("case", ["mix_ce", "mix_las"])
def test_mixed_loss(case: str) -> None:
    loss = build("cross_entropy", class_counts=np.ones(10)) if case == "mix_ce" else smoothing_loss(case)
    logits = torch.tensor(GOLDEN[case + "__logits"], requires_grad=True)
    y = torch.tensor(GOLDEN[case + "__y"])
    value = mixed(loss, logits, y, y[torch.tensor(GOLDEN[case + "__perm"])], float(GOLDEN[case + "__lam"]))
    value.backward()
    assert off(value, GOLDEN[case + "__loss64"]) <= 1e-12
    assert off(logits.grad, GOLDEN[case + "__grad64"]) <= 1e-12


def test_smoothing_after_weight_scaling() -> None:
    loss = smoothing_loss("lws")
    x = torch.tensor(GOLDEN["lws__x"], requires_grad=True)
    scale = torch.tensor(GOLDEN["lws__learned_norm"], requires_grad=True)
    value = loss(x * scale, torch.tensor(GOLDEN["lws__target"]))
    value.backward()
    assert off(value, GOLDEN["lws__loss64"]) <= 1e-12
    assert off(x.grad, GOLDEN["lws__grad_x"]) <= 1e-12
    assert off(scale.grad, GOLDEN["lws__grad_learned_norm"]) <= 1e-12


@pytest.mark.parametrize("case", ["gml_p1", "gml_p2"])
def test_generalised_mean(case: str) -> None:
    loss = build("gml", class_counts=GOLDEN[case + "__counts"], power=float(GOLDEN[case + "__p"]))
    logits = torch.tensor(GOLDEN[case + "__logits"], requires_grad=True)
    value = loss(logits, torch.tensor(GOLDEN[case + "__target"]))
    value.backward()
    assert off(value, GOLDEN[case + "__loss64"]) <= 1e-12
    assert off(logits.grad, GOLDEN[case + "__grad64"]) <= 1e-12


@pytest.mark.parametrize(("data", "head", "tail"), [("imagenet_lt", 0.3, 0.0), ("places_lt", 0.4, 0.1)])
def test_smoothing_of_the_large_sets(data: str, head: float, tail: float) -> None:
    counts = json.loads((FOLDER / f"class_counts_{data}.json").read_text())["counts"]
    curve = smoothing_curve(np.sort(counts)[::-1], head=head, tail=tail)
    np.testing.assert_array_equal(curve.astype(np.float32), GOLDEN["eps__" + data])
