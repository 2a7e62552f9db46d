from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2

from lt.errors import UserError
from lt.rng import stream
from lt.sampling import dpp, kdpp

P8 = np.array([0.02, 0.15, 0.35, 0.5, 0.71, 0.88, 0.97, 0.999])


def enumerated(matrix: np.ndarray, k: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    subsets = list(combinations(range(len(matrix)), k))
    det = np.array([np.linalg.det(matrix[np.ix_(s, s)]) for s in subsets])
    return subsets, det / det.sum()


def fits(draw, matrix: np.ndarray, k: int, *, draws: int) -> tuple[float, float]:
    """p-values of the drawn subsets under the enumerated law and under the uniform one."""
    subsets, probability = enumerated(matrix, k)
    index = {subset: i for i, subset in enumerate(subsets)}
    seen = np.bincount([index[tuple(draw().tolist())] for _ in range(draws)], minlength=len(subsets))
    values = []
    for law in (probability, np.full(len(subsets), 1 / len(subsets))):
        assert not seen[law < 1e-12].any()
        rare = draws * law < 5  # chi-square needs more; they count together
        found = np.append(seen[~rare], seen[rare].sum() if rare.any() else [])
        expected = np.append(draws * law[~rare], draws * law[rare].sum() if rare.any() else [])
        statistic = ((found - expected) ** 2 / expected).sum()
        values.append(float(chi2.sf(statistic, len(found) - 1)))
    return values[0], values[1]


@pytest.mark.parametrize("kernel", ["code", "paper"])
@pytest.mark.parametrize(("total", "k"), [(8, 3), (8, 1), (7, 5), (6, 2), (5, 4)])
def test_exact_against_enumeration(total: int, k: int, kernel: str) -> None:
    law, source = kdpp.RankOne(P8[-total:], k, kernel), stream(1, "subset", total, k, kernel)
    matrix = kdpp.kernel_matrix(P8[-total:], kernel)
    fit, uniform = fits(lambda: law.draw(source), matrix, k, draws=20_000)
    assert fit > 1e-3
    if kernel == "paper":
        assert uniform < 1e-6


@pytest.mark.parametrize("kernel", ["code", "paper"])
def test_exchange_chain_against_enumeration(kernel: str) -> None:
    source = stream(2, "subset", kernel)
    matrix = kdpp.kernel_matrix(P8, kernel)
    fit, uniform = fits(lambda: kdpp.exchange(P8, 3, source, kernel=kernel), matrix, 3, draws=6_000)
    assert fit > 1e-3
    assert kernel == "code" or uniform < 1e-6


@pytest.mark.parametrize(("dimension", "k"), [(4, 3), (4, 4), (12, 3), (6, 1)])
def test_feature_kernel_against_enumeration(dimension: int, k: int) -> None:
    features = np.random.RandomState(dimension).randn(8, dimension) * np.linspace(0.2, 2, 8)[:, None]
    law, source = kdpp.Features(features, k), stream(3, "subset", dimension, k)
    fit, uniform = fits(lambda: law.draw(source), features @ features.T, k, draws=12_000)
    assert fit > 1e-3
    assert uniform < 1e-6
    det = [np.linalg.det((features @ features.T)[np.ix_(s, s)]) for s in combinations(range(8), k)]
    assert law.log_normaliser() == pytest.approx(np.log(np.sum(det)), rel=1e-10)


def test_dppy_agrees() -> None:
    matrix, source = kdpp.kernel_matrix(P8, "paper"), stream(4, "subset")
    fit, uniform = fits(lambda: kdpp.dppy_draw(matrix, 3, source), matrix, 3, draws=2_500)
    assert fit > 1e-3
    assert uniform < 1e-6


def deciles(values: np.ndarray, p: np.ndarray) -> np.ndarray:
    return values[np.argsort(p)].reshape(10, -1).mean(1)


CARD = np.array([0.165, 0.139, 0.119, 0.106, 0.097, 0.088, 0.081, 0.074, 0.067, 0.063])


def test_paper_kernel_prefers_small_p_as_published() -> None:
    p, draws = np.random.RandomState(0).beta(4, 1, 5000), 200
    law, source = kdpp.RankOne(p, 500, "paper"), stream(5, "subset")
    expected = law.inclusion()
    assert expected.sum() == pytest.approx(500, rel=1e-10)
    seen = np.bincount(np.concatenate([law.draw(source) for _ in range(draws)]), minlength=5000) / draws
    error = np.sqrt(deciles(expected * (1 - expected), p) / (500 * draws))
    assert (np.abs(deciles(seen, p) - deciles(expected, p)) < 3 * error).all()
    for found in (expected, seen):  # the published row is of other p from Beta(4, 1)
        assert (np.abs(deciles(found, p) - CARD) < 3 * error).all()
    assert (np.abs(deciles(seen, p) - 0.1)[[0, 1, 8, 9]] > 20 * error[[0, 1, 8, 9]]).all()


def test_chain_mixes_at_size() -> None:
    p, draws = np.random.RandomState(0).beta(4, 1, 1000), 150
    expected = kdpp.RankOne(p, 100, "paper").inclusion()
    source = stream(6, "subset")
    chains = [kdpp.exchange(p, 100, source, kernel="paper") for _ in range(draws)]
    seen = np.bincount(np.concatenate(chains), minlength=1000) / draws
    error = np.sqrt(deciles(expected * (1 - expected), p) / (100 * draws))
    assert (np.abs(deciles(seen, p) - deciles(expected, p)) < 3.5 * error).all()
    assert abs(deciles(seen, p)[0] - 0.1) > 10 * error[0]


def test_code_kernel_is_uniform_in_practice() -> None:
    p = np.random.RandomState(0).beta(4, 1, 5000)
    assert np.abs(deciles(kdpp.RankOne(p, 500, "code").inclusion(), p) - 0.1).max() < 5e-4


@pytest.mark.parametrize("k", [1, 2, 150, 299, 300])
def test_normaliser_and_inclusion_by_another_route(k: int) -> None:
    p = np.random.RandomState(k).beta(8, 0.5, 300)
    law = kdpp.RankOne(p, k, "paper")
    values = np.log(np.linalg.eigvalsh(kdpp.kernel_matrix(p, "paper")))
    row = np.full(k + 1, -np.inf)
    row[0] = 0.0
    for value in values:
        row[1:] = np.logaddexp(row[1:], value + row[:-1])
    assert law.log_normaliser() == pytest.approx(row[k], rel=1e-9, abs=1e-9)
    inclusion = law.inclusion()
    assert inclusion.sum() == pytest.approx(k, rel=1e-9)
    assert ((inclusion > 0) & (inclusion < 1 + 1e-9)).all()


@pytest.mark.parametrize("p", [np.ones(30), np.zeros(30), np.full(30, 0.4)])
@pytest.mark.parametrize("kernel", ["code", "paper"])
def test_constant_p_is_uniform(p: np.ndarray, kernel: str) -> None:
    law, source = kdpp.RankOne(p, 5, kernel), stream(7, "subset")
    np.testing.assert_allclose(law.inclusion(), 5 / 30, rtol=1e-6)
    seen = np.bincount(np.concatenate([law.draw(source) for _ in range(3000)]), minlength=30)
    assert chi2.sf(((seen - 500) ** 2 / 500).sum(), 29) > 1e-3
    assert len(kdpp.exchange(p, 5, source, kernel=kernel)) == 5


def test_p_of_a_half_precise_softmax_may_round_above_1() -> None:
    law = kdpp.RankOne(np.r_[np.full(29, 1 + 1e-7), 1.0], 5, "paper")
    np.testing.assert_allclose(law.inclusion(), 5 / 30, rtol=1e-6)


def test_extreme_p_still_draws() -> None:
    for p in (np.r_[np.zeros(10), np.ones(9990)], np.r_[0.0, np.ones(99)], np.r_[np.zeros(99), 1.0]):
        for k in (1, 5, len(p) // 2, len(p) - 1):
            picked = kdpp.RankOne(p, k, "paper").draw(stream(8, "subset"))
            assert len(np.unique(picked)) == k


LABELS = np.random.RandomState(1).permutation(np.repeat([0, 1, 2, 5], [40, 6, 25, 12]))
P = np.random.RandomState(2).beta(4, 1, len(LABELS))


@pytest.mark.parametrize("sampler", ["official", "uniform", "exact", "mcmc", "dppy"])
@pytest.mark.parametrize("kernel", ["code", "paper"])
def test_draw_caps_each_class_and_repeats(sampler: str, kernel: str) -> None:
    def once() -> np.ndarray:
        source = None if sampler == "official" else stream(9, "subset", sampler)
        return dpp.draw(LABELS, 10, sampler=sampler, kernel=kernel, p=P, source=source)

    picked = once()
    assert picked.dtype == np.int64
    assert len(np.unique(picked)) == len(picked)
    assert LABELS[picked].tolist() == [0] * 10 + [1] * 6 + [2] * 10 + [5] * 10
    assert np.array_equal(picked, once())
    assert np.array_equal(picked[10:16], np.flatnonzero(LABELS == 1))


def test_k_by_class_and_features() -> None:
    features = np.random.RandomState(3).randn(len(LABELS), 12)
    for sampler in ("exact", "dppy"):
        picked = dpp.draw(
            LABELS,
            {0: 7, 1: 2, 2: 40, 5: 1},
            sampler=sampler,
            kernel="features",
            features=features,
            source=stream(0, "subset"),
        )
        assert np.bincount(LABELS[picked], minlength=6).tolist() == [7, 2, 25, 0, 0, 1]


def test_official_is_blind_to_p_and_to_time() -> None:
    first = dpp.draw(LABELS, 10, sampler="official", p=P)
    assert np.array_equal(first, dpp.draw(LABELS, 10, sampler="official"))
    carried = np.random.RandomState(42)
    draws = [dpp.draw(LABELS, 10, sampler="official", source=carried) for _ in range(2)]
    assert np.array_equal(first, draws[0])
    assert not np.array_equal(*draws)


def test_description_of_a_draw() -> None:
    before = dpp.draw(LABELS, 10, sampler="uniform", source=stream(0, "subset", 0))
    picked = dpp.draw(LABELS, 10, sampler="exact", p=P, source=stream(0, "subset", 1))
    rows = dpp.describe(LABELS, picked, p=P, kernel="paper", previous=before)
    assert [(r["class"], r["available"], r["kept"]) for r in rows] == [
        (0, 40, 10),
        (1, 6, 6),
        (2, 25, 10),
        (5, 12, 10),
    ]
    inside = np.flatnonzero(np.isin(np.flatnonzero(LABELS == 2), picked))
    sub = kdpp.kernel_matrix(P[LABELS == 2], "paper")[np.ix_(inside, inside)]
    assert rows[2]["log_det"] == pytest.approx(np.linalg.slogdet(sub)[1], rel=1e-10)
    assert rows[1]["overlap"] == 6
    assert sum(r["overlap"] for r in rows) == len(np.intersect1d(before, picked))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "exakt"}, "unknown sampler 'exakt'; did you mean 'exact'"),
        ({"kernel": "papers"}, "unknown kernel 'papers'; did you mean 'paper'"),
        ({"source": None}, "needs a source"),
        ({"p": None}, "kernel 'paper' needs p"),
        ({"p": P[:-1]}, r"p has shape \(82,\) for 83 labels"),
        ({"p": np.where(P > 0.9, np.nan, P)}, r"p of \d+ samples is not finite"),
        ({"p": P * 2}, "class 0: p spans .* expected probabilities"),
        ({"k": 0}, "k is 0 for class 0"),
        ({"k": {0: 5}}, "no entry for class 1"),
        ({"k": [5, 5, 2.5, 1, 1, 1]}, "k is 2.5 for class 2"),
        ({"kernel": "features"}, "needs features"),
        ({"kernel": "features", "features": np.ones((83, 3))}, "class 0: the feature kernel has rank 1"),
        ({"kernel": "features", "features": np.eye(83), "sampler": "mcmc"}, "has no feature kernel"),
        ({"sampler": "official"}, "leave the source out"),
        ({"sampler": "mcmc_last", "source": None, "p": None}, "kernel 'paper' needs p"),
        ({"sampler": "mcmc", "steps": 0}, "steps is 0"),
    ],
)
def test_mistakes_are_named(change: dict, words: str) -> None:
    given = {"k": 10, "sampler": "exact", "p": P, "source": stream(0, "subset"), **change}
    with pytest.raises(UserError, match=words):
        dpp.draw(LABELS, given.pop("k"), **given)


def test_dppy_is_refused_where_it_is_wrong() -> None:
    matrix, source = kdpp.kernel_matrix(P8, "paper"), stream(0, "subset")
    for k in (0, 8, 9):
        with pytest.raises(UserError, match="expected 0 < k < N"):
            kdpp.dppy_draw(matrix, k, source)
    with pytest.raises(UserError, match="not finite"):
        kdpp.dppy_draw(matrix * np.nan, 3, source)
    p = np.full(1100, 0.5)
    with pytest.raises(UserError, match="class 0: dppy overflows for N=1100, k=500"):
        dpp.draw(np.zeros(1100, int), 500, sampler="dppy", p=p, source=source)
    with pytest.raises(UserError, match="beyond float64"):
        kdpp.dppy_draw(np.eye(120) * 1e6, 60, source)
    with pytest.raises(UserError, match="beyond float64"):  # underflow
        kdpp.dppy_draw(np.eye(12) * 1e-200, 2, source)
    with pytest.raises(UserError, match="has rank 1, below k=2"):
        kdpp.dppy_draw(kdpp.kernel_matrix(np.ones(20), "paper"), 2, source)


@pytest.mark.parametrize("kernel", ["code", "paper"])
def test_sizes_at_the_ends(kernel: str) -> None:
    source = stream(0, "subset")
    for k in (0, 8):
        assert kdpp.RankOne(P8, k, kernel).draw(source).tolist() == list(range(k))
        assert kdpp.RankOne(P8, k, kernel).inclusion() == pytest.approx(np.full(8, k / 8))
        assert kdpp.exchange(P8, k, source, kernel=kernel).tolist() == list(range(k))
        with pytest.raises(UserError, match="expected 0 < k < N"):
            dpp.official_chain(P8, k, np.random.RandomState(0), kernel=kernel)
    for wrong in (-1, 9):
        for make in (lambda k: kdpp.RankOne(P8, k, kernel), lambda k: kdpp.exchange(P8, k, source, kernel=kernel)):
            with pytest.raises(UserError, match="in a class of 8"):
                make(wrong)
    for make in (lambda p: kdpp.RankOne(p, 0, kernel), lambda p: kdpp.kernel_matrix(p, kernel)):
        with pytest.raises(UserError, match="no image"):
            make(np.zeros(0))
    with pytest.raises(UserError, match="expected probabilities"):
        kdpp.kernel_matrix(np.array([0.5, -0.3]), kernel)


def dense_chain(p: np.ndarray, k: int, source: np.random.RandomState) -> np.ndarray:
    """The released way: the whole kernel, a determinant for every proposal."""
    matrix = kdpp.kernel_matrix(p, "code")
    state = source.choice(len(p), size=k, replace=False)
    level, chain = np.linalg.det(matrix[np.ix_(state, state)]), [state]
    for _ in range(9):
        state = chain[-1]
        if source.rand() < 0.5:
            swapped = state.copy()
            place = source.choice(k)
            swapped[place] = np.delete(np.arange(len(p)), state)[source.choice(len(p) - k)]
            proposed = np.linalg.det(matrix[np.ix_(swapped, swapped)])
            if source.rand() < proposed / level:
                state, level = swapped, proposed
        chain.append(state)
    return np.array(chain)


@pytest.mark.slow
def test_released_chain_is_identical_and_200_times_faster() -> None:
    p, seconds = np.random.RandomState(0).beta(4, 1, 5000), []
    start = time.perf_counter()
    expected = dense_chain(p, 500, np.random.RandomState(42))
    dense = time.perf_counter() - start
    for _ in range(5):
        start = time.perf_counter()
        chain = dpp.official_chain(p, 500, np.random.RandomState(42))
        seconds.append(time.perf_counter() - start)
        assert np.array_equal(chain, expected)
    assert dense > 200 * sorted(seconds)[2]


def test_released_chain_cannot_start_on_the_paper_kernel() -> None:
    with pytest.raises(UserError, match=r"finds no start .* expected sampler 'exact'"):
        dpp.official_chain(np.full(500, 0.9), 100, np.random.RandomState(0), kernel="paper")


def test_exact_draw_of_a_head_class_is_quick() -> None:
    p, seconds = np.random.RandomState(0).beta(4, 1, 5000), []
    for i in range(3):
        start = time.perf_counter()
        kdpp.RankOne(p, 500, "paper").draw(stream(i, "subset"))
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[1] < 0.3


def test_100_000_images_in_little_time_and_memory() -> None:
    p = np.random.RandomState(0).beta(4, 1, 100_000)
    labels = np.zeros(len(p), dtype=np.int64)
    tracemalloc.start()
    start = time.perf_counter()
    picked = dpp.draw(labels, 1000, sampler="exact", p=p, source=stream(0, "subset"))
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(picked)) == 1000
    assert seconds < 30
    assert peak < 100e6


def test_numpy_only() -> None:
    code = "import sys, lt.sampling.dpp; print({'torch', 'scipy', 'dppy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
