"""Every loss of LiVT's code, on hard and on mixed targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lt.losses import build
from lt.losses.balanced import class_balanced_weights
from lt.losses.base import log_prior, top_two
from lt.losses.margin import ldam_margins
from lt.losses.smoothing import smoothing_curve

GOLDEN = np.load(Path(__file__).parent / "livt" / "losses.npz")
LOSSES = {
    "CE": ("cross_entropy", {}),
    "CE_hard": ("cross_entropy", {}),
    "LS_CE_0.1": ("label_smoothing", {"smoothing": 0.1}),
    "BalCE_tau1": ("balanced_softmax", {}),
    "BalCE_tau1.5": ("logit_adjustment", {"tau": 1.5}),
    "BCE": ("bce", {}),
    "BCE_ls0.1": ("bce", {"smoothing": 0.1}),
    "BCE_thr0.2": ("bce", {"target_threshold": 0.2}),
    "BalBCE": ("bal_bce", {}),
    "BalBCE_ls0.1": ("bal_bce", {"smoothing": 0.1}),
    "BalBCE_K1.05": ("bal_bce", {"tau": 1.05}),
    "CB_BCE": ("class_balanced", {"form": "bce"}),
    "CB_CE": ("class_balanced", {"form": "ce"}),
    "LDAM": ("ldam", {}),
    "LADE": ("lade", {"form": "livt"}),
    "MiSLAS_concave": ("label_aware_smoothing", {}),
    "MiSLAS_linear": ("label_aware_smoothing", {"shape": "linear"}),
    "MiSLAS_convex": ("label_aware_smoothing", {"shape": "convex"}),
    "MiSLAS_exp": ("label_aware_smoothing", {"shape": "exp", "power": 2}),
}
EXACT = ("CE", "CE_hard", "LS_CE_0.1", "BCE", "BCE_ls0.1", "BCE_thr0.2")
CASES = [k.rsplit("/", 1)[0] for k in GOLDEN.files if k.endswith("/value64")]


def test_every_golden_loss_is_covered() -> None:
    assert {c.split("/")[1] for c in CASES} == set(LOSSES)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(case: str) -> None:
    group, golden_name, kind = case.split("/")
    name, options = LOSSES[golden_name]
    loss = build(name, class_counts=GOLDEN[f"{group}/cls_num"], **options)
    target = torch.tensor(GOLDEN[f"{group}/{kind}"])
    target = target.long() if kind == "hard" else target
    logits = torch.tensor(GOLDEN[f"{group}/logits"], requires_grad=True)
    value = loss(logits, target)
    value.backward()
    tolerance = 1e-12 if golden_name in EXACT else 5e-7
    want, gradient = float(GOLDEN[case + "/value64"]), GOLDEN[case + "/grad64"]
    assert abs(value.item() - want) <= tolerance * abs(want)
    assert np.abs(logits.grad.numpy() - gradient).max() <= tolerance * np.abs(gradient).max()
    want = float(GOLDEN[case + "/value32"])
    assert abs(loss(logits.detach().float(), target).item() - want) <= 2e-6 * abs(want)


@pytest.mark.parametrize("group", "ABC")
@pytest.mark.parametrize("kind", ["soft00", "soft01", "one00"])
@pytest.mark.parametrize("bits", [64, 32])
def test_top_two_picks_the_same_labels(group: str, kind: str, bits: int) -> None:
    like = torch.zeros((), dtype=torch.float64 if bits == 64 else torch.float32)
    _, labels = top_two(torch.tensor(GOLDEN[f"{group}/{kind}"]), like)
    np.testing.assert_array_equal(labels.numpy(), GOLDEN[f"{group}/{kind}_top2_{bits}"])


@pytest.mark.parametrize("group", "ABC")
def test_constants(group: str) -> None:
    counts = GOLDEN[f"{group}/cls_num"]
    np.testing.assert_allclose(ldam_margins(counts), GOLDEN[f"{group}/const/LDAM.m_list"], rtol=1e-6)
    np.testing.assert_allclose(class_balanced_weights(counts), GOLDEN[f"{group}/const/CB_CE.weight"], rtol=1e-6)
    np.testing.assert_allclose(class_balanced_weights(counts), GOLDEN[f"{group}/const/CB_BCE.weight"], rtol=1e-6)
    for shape in ("concave", "linear", "convex", "exp"):
        curve = smoothing_curve(counts, head=0.3, tail=0.0, shape=shape, power=2)
        np.testing.assert_allclose(curve, GOLDEN[f"{group}/const/MiSLAS_{shape}.smooth"], rtol=1e-6, atol=1e-7)
    share = np.exp(log_prior(counts.astype(np.float64)))
    for name in ("BalBCE.pi", "LADE.prior"):
        np.testing.assert_allclose(share, GOLDEN[f"{group}/const/{name}"], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(np.log(share), GOLDEN[f"{group}/const/BalCE_tau1.prior"], rtol=1e-6)
