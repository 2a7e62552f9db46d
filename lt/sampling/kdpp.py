"""The laws behind IP-DPP: subsets of fixed size k with P(A) proportional to det S_A.

Lin and Yuan, Long-Tailed Recognition via Information-Preservable Two-Stage Learning (arXiv 2510.08836).
Per class, with p_i the model's probability of image i's own label and s = sum p, the kernel is
S = diag(D) + alpha p p', D_i = 1 - alpha p_i s; alpha = 1/N in the paper, 1/N^2 in the released code.
Then det S_A = prod_A D_i (1 + sum_A r_i), r_i = alpha p_i^2 / D_i, and nothing here builds S but for dppy.
"""

from __future__ import annotations

import math

import numpy as np

from lt.errors import UserError, nearest
from lt.sampling.poisson_binomial import ConditionalPoisson, leave_one_out, pair_polynomials

Source = np.random.Generator | np.random.RandomState

SCALES = {"code": 2, "paper": 1}  # alpha = N ** -scale
FLOOR = 1e-12  # of D: with every p = 1 the paper's kernel has rank 1; then all subsets weigh the same


class RankOne:
    """The k-DPP of one class under the kernel of the paper or of the released code.

    Exact draws: a k-subset with P(A) proportional to prod_A D_i, accepted with probability
    (1 + sum_A r)/(1 + the largest such sum). O(N) memory; nothing overflows, whatever N and k.
    """

    def __init__(self, p: np.ndarray, k: int, kernel: str = "paper") -> None:
        self.k = k
        self.weight, rank_one = parts(p, kernel)
        self.ratio = rank_one / self.weight
        self.base = ConditionalPoisson(np.log(self.weight), k)
        self.top = 1 + np.sort(self.ratio)[::-1][:k].sum()

    def draw(self, source: Source) -> np.ndarray:
        """Positions in the class, ascending."""
        while True:
            subset = self.base.draw(source)
            if source.random() * self.top <= 1 + self.ratio[subset].sum():
                return subset

    def log_det(self, subset: np.ndarray) -> float:
        return log_det(self.weight, self.ratio, subset)

    def log_normaliser(self) -> float:
        """log of the sum of det S_A over all subsets of size k."""
        plain, marked = pair_polynomials(self.base.q, self.base.q * self.ratio)
        return self.base.log_scale + math.log(plain[self.k] + (marked[self.k - 1] if self.k else 0.0))

    def inclusion(self) -> np.ndarray:
        """P(i in A) for every i, in O(Nk)."""
        k, q = self.k, self.base.q
        mark = q * self.ratio
        plain, marked = pair_polynomials(q, mark)
        one, two = leave_one_out(q, mark, plain, marked, k - 1)
        return ((q + mark) * one + q * two) / (plain[k] + marked[k - 1])


class Features:
    """The k-DPP of the kernel L = F F' from features F [N, d], through its d x d dual.

    k eigenvectors are drawn with P proportional to the product of their eigenvalues, then k points from the
    projection they span. O(N d^2 + N k^2); exact needs k <= rank.
    """

    def __init__(self, features: np.ndarray, k: int) -> None:
        features = np.asarray(features, dtype=np.float64)
        values, vectors = np.linalg.eigh(features.T @ features)
        kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
        if kept.sum() < k:
            raise UserError(
                f"dpp: the feature kernel has rank {int(kept.sum())}; expected at least k={k}, "
                "no larger subset has a positive determinant"
            )
        self.k, self.values = k, values[kept]
        self.basis = features @ (vectors[:, kept] / np.sqrt(self.values))  # orthonormal columns
        self.base = ConditionalPoisson(np.log(self.values), k)

    def draw(self, source: Source) -> np.ndarray:
        """Positions in the class, ascending."""
        span = self.basis[:, self.base.draw(source)]
        left = (span**2).sum(1)  # squared distance of each row to the rows already taken
        taken, directions = [], np.empty((self.k, len(span)))
        for step in range(self.k):
            cumulative = left.cumsum()
            item = int(np.searchsorted(cumulative, source.random() * cumulative[-1], side="right"))
            item = min(item, len(span) - 1)
            direction = span @ span[item] - directions[:step, item] @ directions[:step]
            directions[step] = direction / math.sqrt(left[item])
            left = np.maximum(left - directions[step] ** 2, 0.0)
            taken.append(item)
            left[taken] = 0.0
        return np.sort(np.array(taken, dtype=np.int64))

    def log_normaliser(self) -> float:
        plain, _ = pair_polynomials(self.base.q, np.zeros_like(self.base.q))
        return self.base.log_scale + math.log(plain[self.k])


def kernel_matrix(p: np.ndarray, kernel: str = "paper") -> np.ndarray:
    """S, dense [N, N], in the type of p: for checks and for dppy; nothing else here builds it."""
    p = np.asarray(p)
    _check_probabilities(p)
    scale = p.dtype.type(alpha(len(p), kernel))
    matrix = scale * np.outer(p, p)
    np.fill_diagonal(matrix, 1 - scale * p * (p.sum() - p))
    return matrix


def exchange(p: np.ndarray, k: int, source: Source, *, kernel: str, steps: int | None = None) -> np.ndarray:
    """Last state of an exchange chain from a uniform start; 20 k `steps` by default, at least 200.

    The chain's relaxation time is about k (N - k)/N proposals. A ratio of determinants costs O(1).
    """
    weight, rank_one = parts(p, kernel)
    total = len(weight)
    if not 0 <= k <= total:
        raise UserError(f"dpp: no subset of size k={k} in a class of {total}; expected 0 <= k <= N")
    if k in (0, total):  # nothing to exchange
        return np.arange(k)
    steps = max(200, 20 * k) if steps is None else steps
    order = source.permutation(total)  # the first k are in
    ratio = rank_one / weight
    mass = 1 + float(ratio[order[:k]].sum())
    order, level, slope = order.tolist(), weight.tolist(), ratio.tolist()
    ways = zip(
        (source.random(steps) * k).astype(np.int64).tolist(),
        (k + source.random(steps) * (total - k)).astype(np.int64).tolist(),
        source.random(steps).tolist(),
        strict=True,
    )
    for inside, outside, uniform in ways:
        a, b = order[inside], order[outside]
        proposed = mass - slope[a] + slope[b]
        if uniform * level[a] * mass < level[b] * proposed:
            order[inside], order[outside] = b, a
            mass = proposed
    return np.sort(np.array(order[:k], dtype=np.int64))


def dppy_draw(matrix: np.ndarray, k: int, source: Source) -> np.ndarray:
    """One exact draw by DPPy from a dense kernel; refused where DPPy is known to be wrong."""
    total = len(matrix)
    if not np.isfinite(matrix).all():
        raise UserError("dpp: the kernel holds values that are not finite; dppy would call it asymmetric")
    if not 0 < k < total:
        raise UserError(f"dpp: dppy is wrong or fails for k={k} of N={total}; expected 0 < k < N")
    values = np.linalg.eigvalsh(matrix)
    rank = int((values > values[-1] * total * np.finfo(np.float64).eps).sum())
    if rank < k:
        raise UserError(f"dpp: the kernel has rank {rank}, below k={k}; dppy would draw from rounding errors")
    row = np.zeros(k + 1)
    row[0] = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        for value in np.maximum(values, 0.0):
            row[1:] += value * row[:-1]
    if not np.isfinite(row).all() or row[k] < np.finfo(np.float64).tiny:
        raise UserError(
            f"dpp: N={total}, k={k} is beyond float64 in dppy's elementary symmetric polynomials, its draws "
            "would be wrong; expected sampler 'exact'"
        )
    from dppy.finite_dpps import FiniteDPP

    if not isinstance(source, np.random.RandomState):  # the only kind it takes
        source = np.random.RandomState(source.integers(0, 2**32, size=4, dtype=np.uint32))
    return np.sort(np.array(FiniteDPP("likelihood", L=matrix).sample_exact_k_dpp(size=k, random_state=source)))


def alpha(total: int, kernel: str) -> float:
    if kernel not in SCALES:
        raise UserError(f"dpp: kernel '{kernel}' is not made from p{nearest(kernel, SCALES)}")
    return 1.0 / total ** SCALES[kernel]


def parts(p: np.ndarray, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal D, floored, and alpha p^2."""
    p = np.asarray(p, dtype=np.float64)
    _check_probabilities(p)
    p = np.minimum(p, 1.0)  # a float32 soft-max may round above
    scale = alpha(len(p), kernel)
    return np.maximum(1 - scale * p * p.sum(), FLOOR), scale * p**2


def _check_probabilities(p: np.ndarray) -> None:
    if not len(p):
        raise UserError("dpp: p of no image; expected at least one")
    if not (p >= 0).all() or (p > 1 + 1e-6).any():  # NaN fails the first
        raise UserError(f"dpp: p spans {p.min()} to {p.max()}; expected probabilities")


def log_det(weight: np.ndarray, ratio: np.ndarray, subset: np.ndarray) -> float:
    return float(np.log(weight[subset]).sum() + np.log1p(ratio[subset].sum()))
