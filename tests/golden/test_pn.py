"""Prediction normalisation, tau-norm and class means against the published code's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lt import metrics, posthoc

HERE = Path(__file__).parent
PN = np.load(HERE / "bagmar" / "pn.npz")
HEADS = np.load(HERE / "bagmar" / "classifiers.npz")
RIDE = np.load(HERE / "ride" / "misc.npz")


def off(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(actual - expected) / (1 + np.abs(expected))))


@pytest.mark.parametrize("group", "ab")
def test_scores_and_predictions(group: str) -> None:
    logits = PN[f"{group}/logits"]
    assert off(posthoc.softmax(logits), PN[f"{group}/softmax_probs"]) <= 1e-10
    assert off(posthoc.column_sums(logits), PN[f"{group}/class_l1_norm"]) <= 1e-10
    for t, tau in enumerate(PN[f"{group}/taus"]):
        scores = posthoc.prediction_normalisation(logits, float(tau))
        assert off(scores, PN[f"{group}/pn_new_scores"][t]) <= 1e-10
        np.testing.assert_array_equal(scores.argmax(1), PN[f"{group}/pn_preds"][t])


@pytest.mark.parametrize("group", "ab")
@pytest.mark.parametrize("rows", [4096, 7])
def test_sweep(group: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posthoc, "ROWS", rows)
    sweep = posthoc.pn_sweep(PN[f"{group}/logits"], PN[f"{group}/labels"], PN[f"{group}/taus"])
    np.testing.assert_array_equal(sweep["predictions"], PN[f"{group}/pn_preds"])
    np.testing.assert_allclose(sweep["top1"], PN[f"{group}/pn_acc"], rtol=1e-12)
    best = int(np.argmax(PN[f"{group}/pn_acc"]))
    assert posthoc.best_tau(sweep) == PN[f"{group}/taus"][best]


def judged(group: str, pred: np.ndarray) -> dict[str, np.ndarray]:
    labels, counts = PN[f"{group}/labels"], PN[f"{group}/train_counts"]
    found = metrics.evaluate_predictions(pred, labels, class_counts=counts, form="bagmar")
    names = {"acc": "top1", "many": "many", "med": "medium", "few": "few", "f1": "f1"}
    accuracy = metrics.class_accuracy(pred, labels, len(counts))
    return {golden: found[ours] / 100 for golden, ours in names.items()} | {"cls_acc": accuracy}


@pytest.mark.parametrize("group", "ab")
def test_accuracies_with_and_without(group: str) -> None:
    for name, value in judged(group, PN[f"{group}/logits"].argmax(1)).items():
        np.testing.assert_allclose(value, PN[f"{group}/base_{name}"], rtol=1e-12, err_msg=name)
    for t, tau in enumerate(PN[f"{group}/taus"]):
        pred = posthoc.prediction_normalisation(PN[f"{group}/logits"], float(tau)).argmax(1)
        for name, value in judged(group, pred).items():
            np.testing.assert_allclose(value, PN[f"{group}/pn_{name}"][t], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("group", "ab")
def test_tau_zero_is_the_plain_prediction(group: str) -> None:
    logits = PN[f"{group}/logits"]
    scores = posthoc.prediction_normalisation(logits, 0.0)
    np.testing.assert_array_equal(scores.argmax(1), PN[f"{group}/base_preds"])


def test_tau_normalised_weights_and_logits() -> None:
    for tau, want in zip(HEADS["tau_W_p"], HEADS["tau_W"], strict=True):
        np.testing.assert_allclose(posthoc.tau_norm_weights(HEADS["W"], tau), want, rtol=1e-5)
    logits = posthoc.tau_norm(HEADS["test_feats"], HEADS["W"], 1.0)
    np.testing.assert_allclose(logits, HEADS["tau_logits_p1"], rtol=1e-5, atol=1e-5)
    for tau in (0.5, 1):
        got = posthoc.tau_norm_weights(HEADS["W"].astype(np.float64), tau)
        np.testing.assert_allclose(got, HEADS[f"normalizer_W_tau{tau}"], rtol=1e-5)
    for i in range(3):
        got = posthoc.tau_norm_weights(RIDE[f"tnorm/w{i}"], 0.6968)
        np.testing.assert_allclose(got, RIDE[f"tnorm/out{i}"], rtol=1e-6)


def test_tau_norm_table() -> None:
    """Many, medium, few and the mean over classes in percent, by exponent, as the published script prints them."""
    counts = np.bincount(HEADS["train_labels"], minlength=len(HEADS["W"]))
    for power, row in zip(HEADS["tau_p"], HEADS["tau_table"], strict=True):
        pred = posthoc.tau_norm(HEADS["test_feats"], HEADS["W"], float(power)).argmax(1)
        found = metrics.evaluate_predictions(pred, HEADS["test_labels"], class_counts=counts, form="bagmar")
        ours = [found[name] for name in ("many", "medium", "few", "mean")]
        np.testing.assert_allclose(ours, row, atol=0.00501)


@pytest.mark.parametrize("kind", posthoc.NCM_FEATURES)
def test_class_means(kind: str) -> None:
    classifier = posthoc.class_means(HEADS["train_feats"], HEADS["train_labels"], 5, kind=kind)
    np.testing.assert_allclose(classifier["centre"], HEADS["knn_mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(classifier["means"], HEADS[f"knn_{kind}cs"], rtol=1e-5, atol=1e-6)
    for distance in posthoc.NCM_DISTANCES:
        got = posthoc.ncm(HEADS["test_feats"], classifier, kind=kind, distance=distance)
        np.testing.assert_allclose(got, HEADS[f"knn_{kind}_{distance}"], rtol=1e-5, atol=1e-5)
