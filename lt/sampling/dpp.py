"""IP-DPP's verb: under-sample large classes to k a class, as the paper says or as was released.

The released sampler draws uniformly, from a generator seeded with 42 at every call: it runs an exchange chain
on the kernel and returns the chain's first state, the uniform start. So `official` does not look at p, and
every redraw in every run keeps the same images. `exact` and `mcmc` draw from the kernel; `mcmc_last` is what the
released code would do if it read the chain's end: nine transitions later nearly all images are still the start's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lt.errors import UserError, pick
from lt.sampling.balanced import by_class
from lt.sampling.kdpp import Features, RankOne, Source, dppy_draw, exchange, kernel_matrix, log_det, parts

SAMPLERS = {
    "official": "as released: uniform, RandomState(42), the same at every draw, blind to p",
    "uniform": "uniform without replacement from the given source",
    "exact": "k-DPP, exact",
    "mcmc": "k-DPP, exchange chain run until mixed",
    "mcmc_last": "the released chain, read at its last state instead of its first",
    "dppy": "k-DPP by DPPy, small classes only",
}
KERNELS = ("code", "paper", "features")
RELEASED = ("official", "mcmc_last")  # they bring the released source, classes from the last to the first
RELEASED_STEPS = 9  # after the start, of which half are proposals
START_DET = 1e-9  # below it the released chain redraws its start
START_TRIALS = 100


def draw(
    labels: np.ndarray,
    k: int | Mapping[int, int] | Sequence[int],
    *,
    sampler: str,
    kernel: str = "paper",
    p: np.ndarray | None = None,
    features: np.ndarray | None = None,
    source: Source | None = None,
    steps: int | None = None,
) -> np.ndarray:
    """Positions (int64) of a subset with at most `k` samples a class, class after class in label order.

    `p` [N] holds the probability of each sample's own label (kernels code and paper), `features` [N, d] the
    rows of the feature kernel. `k` is one number or one a class. A class with no more than k samples is kept
    whole and uses no randomness. `official` and `mcmc_last` take no source: theirs is part of what was released.
    `steps` of the chain: proposals for `mcmc` (20 k by default), transitions for `mcmc_last` (9, as released).
    """
    pick("sampler", sampler, SAMPLERS)
    pick("kernel", kernel, dict.fromkeys(KERNELS))
    groups = dict(sorted(by_class(labels).items()))
    sizes = {label: _size(k, label) for label in groups}
    if steps is not None and (int(steps) != steps or steps < 1):
        raise UserError(f"dpp: steps is {steps}; expected a whole number, at least 1")
    if sampler in RELEASED:
        values = None
        if sampler == "mcmc_last":
            if kernel == "features":
                raise UserError("dpp: sampler 'mcmc_last' has no feature kernel; expected 'exact' or 'dppy'")
            values = _values(kernel, p, features, len(np.asarray(labels)))
        source = np.random.RandomState(42) if source is None else source
        chosen = _released(groups, sizes, source, values, kernel, steps or RELEASED_STEPS)
        return np.concatenate([chosen[label] for label in groups])
    if source is None:
        raise UserError(f"dpp: sampler '{sampler}' needs a source of randomness; only the released ones have their own")
    values = None if sampler == "uniform" else _values(kernel, p, features, len(np.asarray(labels)))
    picked = []
    for label, positions in groups.items():
        if len(positions) > sizes[label]:
            rows = None if values is None else values[positions]
            try:
                inside = _one_class(len(positions), sizes[label], rows, sampler, kernel, source, steps)
            except UserError as error:
                raise UserError(f"dpp: class {label}: {str(error).removeprefix('dpp: ')}") from None
            positions = positions[inside]
        picked.append(positions)
    return np.concatenate(picked).astype(np.int64)


def describe(
    labels: np.ndarray, picked: np.ndarray, *, p: np.ndarray, kernel: str, previous: np.ndarray | None = None
) -> list[dict[str, float]]:
    """What a draw did, class by class: sizes, mean p before and after, log det, overlap with the last."""
    labels, rows = np.asarray(labels), []
    for label, positions in sorted(by_class(labels).items()):
        inside = np.flatnonzero(np.isin(positions, picked))
        weight, rank_one = parts(p[positions], kernel)
        row = {
            "class": label,
            "available": len(positions),
            "kept": len(inside),
            "mean_p": float(p[positions].mean()),
            "mean_p_kept": float(p[positions[inside]].mean()) if len(inside) else math.nan,
            "log_det": log_det(weight, rank_one / weight, inside),
        }
        if previous is not None:
            row["overlap"] = int(np.isin(positions[inside], previous).sum())
        rows.append(row)
    return rows


def official_chain(
    p: np.ndarray, k: int, source: np.random.RandomState, *, kernel: str = "code", states: int = 10
) -> np.ndarray:
    """The released chain, state by state [states, k], with the released use of the generator.

    Its dense determinants are replaced by the closed form. State 0 is what the released code returns.
    """
    weight, rank_one = parts(p, kernel)
    total, ratio = len(weight), rank_one / weight
    if not 0 < k < total:
        raise UserError(f"dpp: the released chain has nothing to exchange for k={k} of N={total}; expected 0 < k < N")
    for _ in range(START_TRIALS):
        state = source.choice(total, size=k, replace=False)
        level = log_det(weight, ratio, state)
        if level > math.log(START_DET):
            break
    else:
        raise UserError(
            f"dpp: the released chain finds no start with det > {START_DET:g} (N={total}, k={k}, "
            f"kernel {kernel}, log det {level:.1f}); expected sampler 'exact' or 'mcmc'"
        )
    chain, inside = [state], float(ratio[state].sum())
    for _ in range(states - 1):
        state = chain[-1]
        if source.rand() < 0.5:
            place, number = source.choice(k), source.choice(total - k)
            out = state[place]
            # the number-th item that is not in the state
            new = number + np.searchsorted(np.sort(state) - np.arange(k), number, side="right")
            grown = inside - ratio[out] + ratio[new]
            step = math.log(weight[new] / weight[out]) + math.log1p(grown) - math.log1p(inside)
            if source.rand() < math.exp(min(0.0, step)):
                state, inside = state.copy(), grown
                state[place] = new
        chain.append(state)
    return np.array(chain)


def _one_class(
    total: int, k: int, values: np.ndarray | None, sampler: str, kernel: str, source: Source, steps: int | None
) -> np.ndarray:
    if sampler == "uniform":
        return np.sort(source.permutation(total)[:k])
    if kernel == "features":
        if sampler == "exact":
            return Features(values, k).draw(source)
        if sampler == "dppy":
            return dppy_draw(values @ values.T, k, source)
        raise UserError("dpp: sampler 'mcmc' has no feature kernel; expected 'exact' or 'dppy'")
    if sampler == "exact":
        return RankOne(values, k, kernel).draw(source)
    if sampler == "mcmc":
        return exchange(values, k, source, kernel=kernel, steps=steps)
    if math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) > 700:
        raise UserError(
            f"dpp: dppy overflows for N={total}, k={k} and would silently drop the samples of lowest p; "
            "expected sampler 'exact'"
        )
    return dppy_draw(kernel_matrix(values, kernel), k, source)


def _released(
    groups: Mapping[int, np.ndarray],
    sizes: Mapping[int, int],
    source: np.random.RandomState,
    p: np.ndarray | None,
    kernel: str,
    steps: int,
) -> dict[int, np.ndarray]:
    """Classes from last to first. Without p the chain's start, whatever the transitions after it do."""
    if not isinstance(source, np.random.RandomState):
        raise UserError("dpp: the released samplers draw from numpy's RandomState; leave the source out")
    chosen = {}
    for label in reversed(groups):
        positions, k = groups[label], sizes[label]
        total = len(positions)
        if total > k and p is not None:
            chain = official_chain(p[positions], k, source, kernel=kernel, states=steps + 1)
            positions = positions[chain[-1]]
        elif total > k:
            positions = positions[source.choice(total, k, replace=False)]
            for _ in range(steps):  # they only move the stream
                if source.rand() < 0.5:
                    source.choice(k)
                    source.choice(total - k)
                    source.rand()
        chosen[label] = positions
    return chosen


def _size(k: int | Mapping[int, int] | Sequence[int], label: int) -> int:
    try:
        size = k if np.ndim(k) == 0 and not isinstance(k, Mapping) else k[label]
    except (KeyError, IndexError):
        raise UserError(f"dpp: k has no entry for class {label}") from None
    if int(size) != size or size < 1:
        raise UserError(f"dpp: k is {size} for class {label}; expected a whole number, at least 1")
    return int(size)


def _values(kernel: str, p: np.ndarray | None, features: np.ndarray | None, total: int) -> np.ndarray:
    name, values, ndim = ("features", features, 2) if kernel == "features" else ("p", p, 1)
    if values is None:
        raise UserError(f"dpp: kernel '{kernel}' needs {name}")
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != ndim or len(values) != total:
        raise UserError(f"dpp: {name} has shape {values.shape} for {total} labels")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).reshape(total, -1).any(1).sum())
        raise UserError(f"dpp: {name} of {bad} samples is not finite")
    return values
