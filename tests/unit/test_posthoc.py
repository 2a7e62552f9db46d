"""Post-hoc steps at their edges: zero columns, other splits' statistics, tau chosen openly, huge logits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lt import posthoc
from lt.errors import UserError

COUNTS = np.array([90, 30, 9, 3])


def data(seed: int = 0, images: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, images)
    logits = rng.standard_normal((images, 4)) + 1.5 * np.eye(4)[labels] + np.log(COUNTS / COUNTS.sum())
    return {"logits": logits, "labels": labels, "features": rng.standard_normal((images, 3))}


def test_a_zero_column_scores_zero_and_is_never_predicted() -> None:
    logits = data()["logits"]
    logits[:, 2] = -1e5
    for tau in (0.5, 1.0, 2.0):
        scores = posthoc.prediction_normalisation(logits, tau)
        assert np.isfinite(scores).all()
        assert (scores[:, 2] == 0).all()
        p = posthoc.softmax(logits)
        want = p[:, [0, 1, 3]] / p.sum(0)[[0, 1, 3]] ** tau
        np.testing.assert_allclose(scores[:, [0, 1, 3]], want, rtol=1e-12)
    sweep = posthoc.pn_sweep(logits, np.zeros(len(logits)), posthoc.TAUS)
    assert not (sweep["predictions"] == 2).any()


def test_column_sums_that_overflow_float32_do_not() -> None:
    logits = data()["logits"].astype(np.float32)
    logits[:, 2] = -60.0
    logits[0, 2] = -50.0  # p about 1e-22: its square leaves float32
    scores = posthoc.prediction_normalisation(logits, 2.0)
    assert np.isfinite(scores).all()
    exact = posthoc.prediction_normalisation(logits.astype(np.float64), 2.0)
    np.testing.assert_array_equal(scores.argmax(1), exact.argmax(1))


@pytest.mark.parametrize("low", [-300.0, -700.0])
def test_column_sums_whose_power_leaves_float64_still_rank(low: float) -> None:
    logits = data()["logits"]
    logits[:, 2] += low
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    log_m = np.logaddexp.reduce(log_p, axis=0)
    want = [(log_p - tau * log_m).argmax(1) for tau in (2.0, 5.0)]
    assert all((w == 2).any() for w in want)
    for tau, ranked in zip((2.0, 5.0), want, strict=True):
        scores = posthoc.prediction_normalisation(logits, tau)
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(scores.argmax(1), ranked)
    sweep = posthoc.pn_sweep(logits, np.zeros(len(logits)), (2.0, 5.0))
    np.testing.assert_array_equal(sweep["predictions"], want)


def test_statistics_of_another_split_and_their_scale() -> None:
    test, val = data(0), data(1, 50)
    sums = posthoc.column_sums(val["logits"])
    scores = posthoc.prediction_normalisation(test["logits"], 1.0, stats=sums)
    np.testing.assert_allclose(scores, posthoc.softmax(test["logits"]) / sums, rtol=1e-12)
    larger = posthoc.prediction_normalisation(test["logits"], 1.0, stats=7 * sums)
    np.testing.assert_array_equal(scores.argmax(1), larger.argmax(1))
    for bad in (sums[:2], -sums, 0 * sums, sums * np.nan):
        with pytest.raises(UserError, match="column sums"):
            posthoc.prediction_normalisation(test["logits"], 1.0, stats=bad)


def test_sweep_equals_one_tau_at_a_time() -> None:
    stored = data()
    sweep = posthoc.pn_sweep(stored["logits"], stored["labels"], posthoc.TAUS)
    for t, tau in enumerate(posthoc.TAUS):
        predicted = posthoc.prediction_normalisation(stored["logits"], tau).argmax(1)
        np.testing.assert_array_equal(sweep["predictions"][t], predicted)
        assert sweep["top1"][t] == (predicted == stored["labels"]).mean()
    assert len(set(sweep["top1"])) > 3


def test_tau_is_tuned_on_the_named_split() -> None:
    test, val = data(0), data(1)
    scores, found = posthoc.apply({"name": "pn", "tau": "tuned"}, test, class_counts=COUNTS, tuning=val)
    want = posthoc.best_tau(posthoc.pn_sweep(val["logits"], val["labels"], posthoc.TAUS))
    assert found["tau"] == want
    assert found["tau_selected_on"] == "val"
    assert found["pn_stats"] == "test"
    assert len(found["sweep"]["top1"]) == 21
    np.testing.assert_array_equal(scores, posthoc.prediction_normalisation(test["logits"], want))
    choice = {"name": "pn", "tau": "tuned", "tau_selected_on": "test"}
    _, found = posthoc.apply(choice, test, class_counts=COUNTS)
    assert found["tau"] == posthoc.best_tau(posthoc.pn_sweep(test["logits"], test["labels"], posthoc.TAUS))
    assert found["tau_selected_on"] == "test"


def test_the_smallest_of_equal_taus_is_taken() -> None:
    assert posthoc.best_tau({"taus": np.array([0.0, 0.1, 0.2]), "top1": np.array([0.5, 0.7, 0.7])}) == 0.1


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "pnn"}, "unknown posthoc step 'pnn'"),
        ({"name": "pn", "taus_": [1]}, "no option 'taus_'"),
        ({"name": "pn", "tau": "best"}, "a number or tuned"),
        ({"name": "pn", "tau": -1.0}, "at least 0"),
        ({"name": "pn", "tau": "tuned"}, "tuning split"),
        ({"name": "pn", "stats": "val"}, "tuning split"),
        ({"name": "pn", "stats": "tset"}, "stats must be one of"),
        ({"name": "tau_norm"}, "hold no weights"),
        ({"name": "ncm"}, "training split"),
    ],
)
def test_messages(choice: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        posthoc.apply(choice, data(), class_counts=COUNTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("logits", [np.zeros(3), np.zeros((0, 3)), np.array([[0.0, np.nan]]), np.array([[np.inf, 0]])])
def test_bad_logits_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(UserError, match="logits"):
        posthoc.prediction_normalisation(logits)


def test_logit_adjustment() -> None:
    logits = data()["logits"]
    prior = np.log(COUNTS / COUNTS.sum())
    np.testing.assert_allclose(posthoc.logit_adjust(logits, COUNTS, 1.5), logits - 1.5 * prior, rtol=1e-12)
    np.testing.assert_array_equal(posthoc.logit_adjust(logits, COUNTS, 0.0), logits)
    empty = posthoc.logit_adjust(logits, [90, 0, 9, 3])
    assert (empty.argmax(1) != 1).all()
    with pytest.raises(UserError, match="4 class counts"):
        posthoc.logit_adjust(logits, [1, 2])


def test_half_precision_logits_are_cast_up() -> None:
    logits = data()["logits"].astype(np.float16)
    scores = posthoc.prediction_normalisation(logits)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, posthoc.prediction_normalisation(logits.astype(np.float32)))


def test_zero_weight_rows_stay_zero() -> None:
    weights = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(posthoc.tau_norm_weights(weights, 1.0), [[0.6, 0.8], [0, 0]])


def test_class_means_of_an_absent_class_and_far_features() -> None:
    features = np.array([[1e4, 0.0], [1e4 + 1, 0.0], [1e4, 2.0]], dtype=np.float32)
    classifier = posthoc.class_means(features, [0, 0, 2], 3, kind="un")
    logits = posthoc.ncm(features, classifier, kind="un")
    np.testing.assert_allclose(logits[:, [0, 2]], [[-0.25, -4], [-0.25, -5], [-4.25, 0]], atol=1e-3)
    assert (logits.argmax(1) == [0, 0, 2]).all()


def test_no_torch_on_this_path() -> None:
    code = "import sys, lt.posthoc; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
