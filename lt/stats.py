"""Statistics over seeds, images and classes; scipy.special only, as scipy.stats is slow to import."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lt.errors import UserError, pick

MIN_SEEDS_FOR_P = 5  # below it an interval is shown and no p-value


@dataclass(frozen=True)
class Summary:
    n: int
    mean: float
    sd: float
    se: float
    low: float
    high: float


def summary(values: Iterable[float], *, level: float = 0.95) -> Summary:
    """Mean, sd (n - 1), standard error and t interval; sd, se and interval are NaN for one value."""
    x = np.asarray(list(values), np.float64)
    n = len(x)
    if n == 0:
        return Summary(0, *[math.nan] * 5)
    mean = float(x.mean())
    if n == 1:
        return Summary(1, mean, *[math.nan] * 4)
    sd = float(x.std(ddof=1))
    se = sd / math.sqrt(n)
    half = t_quantile(n - 1, level) * se
    return Summary(n, mean, sd, se, mean - half, mean + half)


def t_quantile(df: int, level: float = 0.95) -> float:
    """Two-sided: 2.776 for 4 degrees of freedom at 95 %."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2))


@dataclass(frozen=True)
class Comparison:
    """`a` minus `b` over the seeds that both have."""

    a: str
    b: str
    n: int
    difference: float
    se: float
    low: float
    high: float
    p: float | None
    p_holm: float | None = None


def paired_t(differences: np.ndarray) -> float:
    """Two-sided p of the paired t test; no spread at all gives 0 (or 1 where all differences are 0)."""
    from scipy.special import stdtr

    s = summary(differences)
    if s.se == 0:
        return float(s.mean == 0)
    return float(2 * stdtr(s.n - 1, -abs(s.mean / s.se)))


def sign_flip(differences: np.ndarray) -> float:
    """Exact two-sided permutation p: share of the 2^n sign patterns at least as far from 0."""
    d = np.asarray(differences, np.float64)
    if len(d) > 20:
        raise UserError(f"sign_flip: expected at most 20 seeds (2^n patterns), got {len(d)}; use 't'")
    signs = np.array(list(itertools.product((1, -1), repeat=len(d))))
    sums = np.abs(signs @ d)
    return float(np.mean(sums >= abs(d.sum()) - 1e-12 * max(1.0, np.abs(d).sum())))


TESTS: dict[str, Callable[[np.ndarray], float]] = {"t": paired_t, "sign_flip": sign_flip}


def compare(
    a: Mapping[int, float], b: Mapping[int, float], *, names: tuple[str, str] = ("a", "b"), test: str = "t"
) -> Comparison:
    """Paired comparison of two methods given as {seed: value}; p is None below five common seeds."""
    chosen = pick("paired test", test, TESTS)
    seeds = sorted(set(a) & set(b))
    d = np.array([a[s] - b[s] for s in seeds], np.float64)
    s = summary(d)
    p = chosen(d) if s.n >= MIN_SEEDS_FOR_P else None
    return Comparison(*names, s.n, s.mean, s.se, s.low, s.high, p)


def planned(
    values: Mapping[str, Mapping[int, float]], pairs: Sequence[tuple[str, str]], *, test: str = "t"
) -> list[Comparison]:
    """The comparisons named beforehand, p Holm-corrected over all of them that have one."""
    for name in itertools.chain.from_iterable(pairs):
        pick("method in a planned comparison", name, dict(values))
    found = [compare(values[a], values[b], names=(a, b), test=test) for a, b in pairs]
    return [replace(c, p_holm=p) for c, p in zip(found, holm([c.p for c in found]), strict=True)]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Step-down adjusted p: running max of (m - rank) p, at most 1. None stays, uncounted."""
    tested = sorted((i for i, p in enumerate(p_values) if p is not None), key=lambda i: p_values[i])
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, i in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return math.nan, math.nan
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def bootstrap_images(
    correct: np.ndarray,
    tested: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], float],
    *,
    source: np.random.Generator,
    rounds: int = 1000,
    level: float = 0.95,
    within_class: bool = True,
) -> tuple[float, float]:
    """Percentile interval of `statistic(correct, tested)` when the test images are drawn again.

    Only the counts per class and outcome matter, so a draw is a binomial per class (class sizes stay, as
    the test sets are balanced by design) or one multinomial over all (class, outcome) cells.
    """
    correct, tested = np.asarray(correct, np.int64), np.asarray(tested, np.int64)
    draws = np.empty(rounds)
    total = int(tested.sum())
    if total == 0:
        return math.nan, math.nan
    rate = correct / np.maximum(tested, 1)
    cells = np.concatenate([correct, tested - correct]) / total
    for r in range(rounds):
        if within_class:
            draws[r] = statistic(source.binomial(tested, rate), tested)
        else:
            hit, miss = source.multinomial(total, cells).reshape(2, -1)
            draws[r] = statistic(hit, hit + miss)
    return _percentiles(draws, level)


def bootstrap_classes(
    accuracy: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    source: np.random.Generator,
    rounds: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of `statistic(class accuracies)` when the tested classes are drawn again."""
    accuracy = np.asarray(accuracy, np.float64)
    accuracy = accuracy[~np.isnan(accuracy)]
    if not len(accuracy):
        return math.nan, math.nan
    index = source.integers(0, len(accuracy), (rounds, len(accuracy)))
    return _percentiles(np.array([statistic(accuracy[i]) for i in index]), level)


def selection_bonus(by_epoch: Sequence[float]) -> float:
    """What choosing the epoch on the test set adds: best minus last, from the snapshots' accuracies."""
    values = np.asarray(by_epoch, np.float64)
    return float(values.max() - values[-1]) if len(values) else math.nan
