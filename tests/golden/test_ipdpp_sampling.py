"""Kernels, determinants, exact probabilities, the released chain and the released selections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lt.sampling import dpp

DATA = Path(__file__).parent / "ipdpp"
KERNEL, SMALL, LARGE, CHAIN, SAMPLER = (
    np.load(DATA / f"{name}.npz")
    for name in ("ipdpp_kernel", "kdpp_bruteforce", "kdpp_large", "dppy_chain", "ipdpp_sampler")
)


def cases(archive, ending: str) -> list[str]:
    return sorted(name[: -len(ending)] for name in archive.files if name.endswith(ending))


@pytest.mark.parametrize("case", cases(KERNEL, "_P"))
def test_kernel(case: str) -> None:
    p = KERNEL[f"{case}_P"].astype(np.float64)
    code, paper = dpp.kernel_matrix(p, "code"), dpp.kernel_matrix(p, "paper")
    assert np.abs(code - KERNEL[f"{case}_S64"]).max() < 1e-14
    assert np.abs(dpp.kernel_matrix(p.astype(np.float32), "code") - KERNEL[f"{case}_S32"]).max() < 1e-6
    assert np.abs(paper - KERNEL[f"{case}_S_paper"]).max() < 1e-14
    assert np.abs(np.linalg.eigvalsh(code) - KERNEL[f"{case}_eig64"]).max() < 1e-12
    assert np.abs(np.linalg.eigvalsh(paper) - KERNEL[f"{case}_eig_paper"]).max() < 1e-12


@pytest.mark.parametrize("kernel", ["code", "paper"])
@pytest.mark.parametrize("case", cases(SMALL, "_P"))
def test_enumeration(case: str, kernel: str) -> None:
    subsets = SMALL[f"{case}_subsets"]
    law = dpp.RankOne(SMALL[f"{case}_P"], subsets.shape[1], kernel)
    log_det = np.array([law.log_det(subset) for subset in subsets])
    np.testing.assert_allclose(np.exp(log_det), SMALL[f"{case}_{kernel}_det"], rtol=1e-12)
    assert law.log_normaliser() == pytest.approx(float(SMALL[f"{case}_{kernel}_logZ"]), rel=1e-12)
    np.testing.assert_allclose(np.exp(log_det - law.log_normaliser()), SMALL[f"{case}_{kernel}_prob"], rtol=1e-12)
    np.testing.assert_allclose(law.inclusion(), SMALL[f"{case}_{kernel}_incl"], rtol=1e-12)


@pytest.mark.parametrize("kernel", ["code", "paper"])
@pytest.mark.parametrize("case", cases(LARGE, "_P"))
def test_beyond_enumeration(case: str, kernel: str) -> None:
    law = dpp.RankOne(LARGE[f"{case}_P"], int(LARGE[f"{case}_k"]), kernel)
    assert law.log_normaliser() == pytest.approx(float(LARGE[f"{case}_{kernel}_logZ"]), rel=1e-9)
    assert np.abs(law.inclusion() - LARGE[f"{case}_{kernel}_incl"]).max() < 1e-9
    for subset, expected in zip(LARGE[f"{case}_subsets"], LARGE[f"{case}_{kernel}_subset_logdet"], strict=True):
        assert law.log_det(subset) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("case", cases(CHAIN, "_chain"))
def test_released_chain(case: str) -> None:
    expected = CHAIN[f"{case}_chain"]
    source = np.random.RandomState(int(CHAIN[f"{case}_seed"]))
    chain = dpp.official_chain(
        CHAIN[f"{case}_P"],
        expected.shape[1],
        source,
        kernel="paper" if case.startswith("paper") else "code",
        states=len(expected),
    )
    assert np.array_equal(chain, expected)


@pytest.mark.parametrize("case", cases(SAMPLER, "_k_list"))
def test_released_selection(case: str) -> None:
    counts = SAMPLER[f"{case}_counts"]
    labels = np.repeat(np.arange(len(counts)), counts)
    visited = range(len(counts) - 1, -1, -1)  # the released list of k starts at the last class
    k = dict(zip(visited, SAMPLER[f"{case}_k_list"].tolist(), strict=True))
    picked = dpp.draw(labels, k, sampler="official")
    assert np.array_equal(np.bincount(labels[picked]), SAMPLER[f"{case}_selected_counts"])
    inside = picked - (counts.cumsum() - counts)[labels[picked]]
    assert np.array_equal(inside, SAMPLER[f"{case}_selected"])
    shuffled = np.random.RandomState(0).permutation(len(labels))
    mixed = dpp.draw(labels[shuffled], k, sampler="official")
    ranks = np.argsort(np.argsort(labels[shuffled], kind="stable"), kind="stable")
    assert np.array_equal(ranks[mixed], picked)


@pytest.mark.parametrize("case", [c for c in cases(CHAIN, "_chain") if f"{c}_k" in CHAIN.files])
def test_released_chain_read_at_its_end(case: str) -> None:
    p, chain = CHAIN[f"{case}_P"], CHAIN[f"{case}_chain"]
    labels, k = np.zeros(len(p), dtype=np.int64), chain.shape[1]
    given = {"kernel": "code", "p": p, "sampler": "mcmc_last"}
    for steps in (1, 5, 9):
        source = np.random.RandomState(int(CHAIN[f"{case}_seed"]))
        assert np.array_equal(dpp.draw(labels, k, source=source, steps=steps, **given), chain[steps])
    source = np.random.RandomState(int(CHAIN[f"{case}_seed"]))
    assert np.array_equal(dpp.draw(labels, k, source=source, **given), chain[-1])
