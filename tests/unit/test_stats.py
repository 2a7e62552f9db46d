from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from lt import metrics, stats
from lt.errors import UserError


def test_summary_and_interval_agree_with_scipy() -> None:
    x = np.random.default_rng(0).normal(50, 2, 7)
    got = stats.summary(x)
    low, high = reference.t.interval(0.95, 6, x.mean(), reference.sem(x))
    assert (got.mean, got.se, got.low, got.high) == pytest.approx((x.mean(), reference.sem(x), low, high))
    one = stats.summary([3.0])
    assert one.n == 1 and one.mean == 3 and math.isnan(one.se) and math.isnan(one.low)
    assert stats.summary([]).n == 0 and math.isnan(stats.summary([]).mean)


def test_paired_t_agrees_with_scipy() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(51, 1, 6), random.normal(50, 1, 6)
    got = stats.compare(dict(enumerate(a)), dict(enumerate(b)))
    assert got.p == pytest.approx(reference.ttest_rel(a, b).pvalue)
    assert got.difference == pytest.approx((a - b).mean())
    assert stats.paired_t(np.ones(5)) == 0 and stats.paired_t(np.zeros(5)) == 1


def test_sign_flip_agrees_with_scipy() -> None:
    d = np.random.default_rng(2).normal(0.6, 1, 7)
    exact = reference.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(d) == pytest.approx(exact.pvalue)
    assert stats.sign_flip(np.ones(5)) == pytest.approx(2 / 32)
    with pytest.raises(UserError, match="at most 20"):
        stats.sign_flip(np.ones(21))


def test_pairs_by_seed_and_no_p_below_five_seeds() -> None:
    a, b = {0: 1.0, 1: 2.0, 2: 4.0, 9: 0.0}, {2: 3.0, 1: 1.5, 0: 0.0, 5: 9.0}
    got = stats.compare(a, b, names=("x", "y"))
    assert got.n == 3 and got.p is None and got.difference == pytest.approx(2.5 / 3)
    assert got.low < got.difference < got.high
    four = {s: float(s) for s in range(4)}
    assert stats.compare(four, dict.fromkeys(four, 0.0)).p is None
    five = {s: float(s) for s in range(5)}
    assert stats.compare(five, dict.fromkeys(five, 0.0)).p is not None
    with pytest.raises(UserError, match="did you mean 'sign_flip'"):
        stats.compare(a, b, test="signflip")


def test_holm() -> None:
    assert stats.holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == [] and stats.holm([None]) == [None]


def test_planned_comparisons() -> None:
    random = np.random.default_rng(3)
    values = {m: dict(enumerate(random.normal(mu, 1, 6))) for m, mu in (("ce", 50), ("a", 53), ("b", 50.2))}
    got = stats.planned(values, [("a", "ce"), ("b", "ce")])
    raw = [c.p for c in got]
    assert [c.p_holm for c in got] == stats.holm(raw)
    assert [(c.a, c.b) for c in got] == [("a", "ce"), ("b", "ce")]
    with pytest.raises(UserError, match="unknown method in a planned comparison 'c'"):
        stats.planned(values, [("c", "ce")])


def top1(correct: np.ndarray, tested: np.ndarray) -> float:
    return correct.sum() / tested.sum()


@pytest.mark.parametrize("within_class", [True, False])
def test_bootstrap_over_images_matches_resampling_them(within_class: bool) -> None:
    random = np.random.default_rng(4)
    labels = np.repeat(np.arange(5), 40)
    hit = random.random(200) < np.linspace(0.9, 0.1, 5)[labels]
    correct, tested = np.bincount(labels[hit], minlength=5), np.bincount(labels)
    got = stats.bootstrap_images(
        correct,
        tested,
        top1,
        source=np.random.default_rng(5),
        rounds=4000,
        within_class=within_class,
    )
    draws = []
    for _ in range(4000):
        if within_class:
            i = np.concatenate([40 * c + random.integers(0, 40, 40) for c in range(5)])
        else:
            i = random.integers(0, 200, 200)
        draws.append(hit[i].mean())
    assert got == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.011)
    again = stats.bootstrap_images(
        correct, tested, top1, source=np.random.default_rng(5), rounds=4000, within_class=within_class
    )
    assert again == got


def test_bootstrap_over_classes() -> None:
    accuracy = np.append(np.random.default_rng(6).random(60), np.nan)
    low, high = stats.bootstrap_classes(accuracy, np.mean, source=np.random.default_rng(7), rounds=4000)
    mean, se = np.nanmean(accuracy), np.nanstd(accuracy) / math.sqrt(60)
    assert (low, high) == pytest.approx((mean - 1.96 * se, mean + 1.96 * se), abs=0.01)
    low, high = stats.bootstrap_classes(accuracy, metrics.harmonic_mean, source=np.random.default_rng(8), rounds=200)
    assert low < metrics.harmonic_mean(accuracy, absent="skip") < high
    none = stats.bootstrap_classes(np.array([np.nan]), np.mean, source=np.random.default_rng(0))
    assert math.isnan(none[0])


def test_selection_bonus() -> None:
    assert stats.selection_bonus([40.0, 52.5, 52.0]) == pytest.approx(0.5)
    assert stats.selection_bonus([1.0, 2.0]) == 0
    assert math.isnan(stats.selection_bonus([]))
