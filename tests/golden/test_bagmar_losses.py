"""The other criteria of BaGMar's repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lt.losses import build
from lt.losses.balanced import class_balanced_weights
from lt.losses.centroids import discriminative_centroids
from lt.losses.smoothing import smoothing_curve

GOLDEN = np.load(Path(__file__).parent / "bagmar" / "losses.npz")
COUNTS = GOLDEN["freq"]
LAS = {"concave": {}, "linear": {}, "convex": {}, "exp": {"power": 2}}

CASES = {  # golden name: loss, options, precision, tolerance
    "ce": ("cross_entropy", {}, torch.float64, 1e-10),
    "bs_mean": ("balanced_softmax", {}, torch.float64, 1e-10),
    "bce": ("bce", {"classes": "mean"}, torch.float64, 1e-10),
    "las_default": ("label_aware_smoothing", {}, torch.float64, 1e-10),
}
for shape, extra in LAS.items():
    options = {"head": 0.4, "tail": 0.1, "shape": shape, **extra}
    CASES[f"las_{shape}"] = ("label_aware_smoothing", options, torch.float64, 1e-10)
for beta in (0.9, 0.9999):
    CASES[f"cb_softmax_b{beta}"] = ("class_balanced", {"form": "softmax", "beta": beta}, torch.float32, 1e-5)
    for gamma in (0, 0.5, 2):
        options = {"form": "focal", "beta": beta, "gamma": gamma}
        CASES[f"cb_focal_b{beta}_g{gamma}"] = ("class_balanced", options, torch.float32, 1e-5)


def off(actual, expected) -> float:
    actual = np.asarray(actual.detach(), dtype=np.float64)
    expected = np.asarray(expected, dtype=np.float64)
    return float(np.max(np.abs(actual - expected) / (1 + np.abs(expected))))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(case: str) -> None:
    name, options, dtype, tolerance = CASES[case]
    loss = build(name, class_counts=COUNTS, **options)
    logits = torch.tensor(GOLDEN["logits"], dtype=dtype, requires_grad=True)
    value = loss(logits, torch.tensor(GOLDEN["labels"]))
    value.backward()
    assert value.dtype == dtype
    assert off(value, GOLDEN[case + "_val"]) <= tolerance
    assert off(logits.grad, GOLDEN[case + "_grad"]) <= tolerance
    assert np.abs(GOLDEN[case + "_grad"]).max() > 100 * tolerance  # the comparison can fail


def test_balanced_softmax_per_sample() -> None:
    loss = build("balanced_softmax", class_counts=COUNTS)
    logits, labels = torch.tensor(GOLDEN["logits"], requires_grad=True), torch.tensor(GOLDEN["labels"])
    each = torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
    each.sum().backward()
    assert off(each, GOLDEN["bs_none_val"]) <= 1e-10
    assert off(each.sum(), GOLDEN["bs_sum_val"]) <= 1e-10
    for reduction in ("none", "sum"):
        assert off(logits.grad, GOLDEN[f"bs_{reduction}_grad"]) <= 1e-10


def test_discriminative_centroids() -> None:
    features, centroids = (torch.tensor(GOLDEN[f"dc_{k}"], requires_grad=True) for k in ("feat", "centroids"))
    value = discriminative_centroids(features, torch.tensor(GOLDEN["dc_labels"]), centroids)
    value.backward()
    assert off(value, GOLDEN["dc_val"]) <= 1e-10
    assert off(features.grad, GOLDEN["dc_grad_feat"]) <= 1e-10
    assert off(centroids.grad, GOLDEN["dc_grad_centroids"]) <= 1e-10


def test_far_centroids_repel_nothing() -> None:
    features, centroids = torch.zeros(2, 3), torch.full((4, 3), 50.0).requires_grad_()
    value = discriminative_centroids(features, torch.tensor([0, 0]), centroids)
    value.backward()
    assert value.item() == pytest.approx(3 * 50**2 / 2)
    assert centroids.grad[0].tolist() == pytest.approx([2 * 50 / 3 / 2] * 3) and not centroids.grad[1:].any()


def test_equalisation_with_the_drawn_mask() -> None:
    loss = build("eql", class_counts=COUNTS, tail_ratio=float(GOLDEN["eql_lambda"]), drop=float(GOLDEN["eql_gamma"]))
    logits = torch.tensor(GOLDEN["logits"], requires_grad=True)
    value = loss.with_draws(logits, torch.tensor(GOLDEN["labels"]), torch.tensor(GOLDEN["eql_uniform"]))
    value.backward()
    assert off(value, GOLDEN["eql_val"]) <= 1e-10
    assert off(logits.grad, GOLDEN["eql_grad"]) <= 1e-10


@pytest.mark.parametrize("shape", LAS)
def test_smoothing_vector(shape: str) -> None:
    curve = smoothing_curve(COUNTS, head=0.4, tail=0.1, shape=shape, power=LAS[shape].get("power"))
    np.testing.assert_allclose(curve, GOLDEN[f"las_{shape}_smooth"], rtol=1e-6)
    default = smoothing_curve(COUNTS, head=0.3, tail=0.0)
    np.testing.assert_allclose(default, GOLDEN["las_default_smooth"], rtol=1e-6)


def test_weights_sum_to_the_number_of_classes() -> None:
    weights = class_balanced_weights(COUNTS, beta=0.9)
    assert weights.sum() == pytest.approx(len(COUNTS))
    assert weights[0] < weights[-1]
