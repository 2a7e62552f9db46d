"""Sums of independent coin flips: the workhorse behind subsets of fixed size.

Elementary symmetric polynomials e_k(w) overflow float64 for large N. With odds c w_i = q_i/(1 - q_i) and c
such that sum q = k, e_k(w) = prod(1 + c w_i) c^-k P(k heads): the probability is near its peak, and
everything else is a logarithm.
"""

from __future__ import annotations

import math

import numpy as np

from lt.errors import UserError

Source = np.random.Generator | np.random.RandomState
_DIRECT = 64  # coefficients; longer products go through the FFT


class ConditionalPoisson:
    """k-subsets with P(A) proportional to prod_A w: flip coins until exactly k show heads.

    Exact for any c; with sum q = k about 2.5 standard deviations of the sum are tried per subset.
    """

    def __init__(self, log_weight: np.ndarray, k: int) -> None:
        self.k, self.total = k, len(log_weight)
        if not 0 <= k <= self.total or not self.total:
            raise UserError(f"dpp: no subset of size k={k} in a class of {self.total}; expected 0 <= k <= N")
        self.log_c = _tilt(log_weight, k)
        self.q = _expit(self.log_c + log_weight)
        # log of prod(1 + c w) c^-k
        self.log_scale = float(np.logaddexp(0.0, self.log_c + log_weight).sum() - k * self.log_c)
        spread = math.sqrt(float((self.q * (1 - self.q)).sum()))
        self.rows = max(1, min(int(2.5 * spread) + 1, 20_000 // self.total))

    def draw(self, source: Source) -> np.ndarray:
        """Positions, ascending."""
        if self.k == self.total:
            return np.arange(self.total)
        while True:
            heads = source.random((self.rows, self.total)) < self.q
            hits = np.flatnonzero(heads.sum(1) == self.k)
            if len(hits):
                return np.flatnonzero(heads[hits[0]])


def pair_polynomials(q: np.ndarray, mark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (in t, length N + 1) of prod(1 - q + q t) and of the same with one factor i replaced by
    mark_i, summed over i. By halves: O(N log^2 N)."""
    total = len(q)
    size = 1 << max(0, (total - 1).bit_length())
    plain, marked = np.zeros((size, 2)), np.zeros((size, 2))
    plain[:, 0] = 1.0
    plain[:total, 0], plain[:total, 1] = 1 - q, q
    marked[:total, 0] = mark
    while len(plain) > 1:
        a, b, c, d = plain[::2], plain[1::2], marked[::2], marked[1::2]
        plain, marked = _product(a, b), _product(c, b) + _product(a, d)
    return plain[0, : total + 1], marked[0, : total + 1]


def leave_one_out(
    q: np.ndarray, mark: np.ndarray, plain: np.ndarray, marked: np.ndarray, at: int
) -> tuple[np.ndarray, np.ndarray]:
    """For every i, without item i: coefficient `at` of the plain product and `at - 1` of the marked one.

    Division by (1 - q + q t) from below where q < 1/2 and from above elsewhere, so that errors shrink.
    """
    one, two = np.empty(len(q)), np.empty(len(q))
    low = q < 0.5
    one[low], two[low] = _divide_up(q[low], mark[low], plain, marked, at)
    one[~low], two[~low] = _divide_down(q[~low], mark[~low], plain, marked, at)
    return one, two


def _divide_up(
    q: np.ndarray, mark: np.ndarray, plain: np.ndarray, marked: np.ndarray, at: int
) -> tuple[np.ndarray, np.ndarray]:
    one, two, before = np.zeros_like(q), np.zeros_like(q), np.zeros_like(q)
    for m in range(at + 1):
        one = (plain[m] - q * one) / (1 - q)
        before, two = two, (marked[m] - mark * one - q * two) / (1 - q)
    return one, before


def _divide_down(
    q: np.ndarray, mark: np.ndarray, plain: np.ndarray, marked: np.ndarray, at: int
) -> tuple[np.ndarray, np.ndarray]:
    one, two = np.zeros_like(q), np.zeros_like(q)  # coefficients m of the quotients, from m = N
    wanted = np.zeros_like(q)
    for m in range(len(plain) - 1, max(at, 1) - 1, -1):
        two = (marked[m] - mark * one - (1 - q) * two) / q
        one = (plain[m] - (1 - q) * one) / q
        if m - 1 == at:
            wanted = one
    return wanted, two if at else np.zeros_like(q)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row product of polynomials of equal length."""
    length = a.shape[1]
    if length > _DIRECT:
        width = 2 * length - 1
        return np.fft.irfft(np.fft.rfft(a, width) * np.fft.rfft(b, width), width)
    out = np.zeros((len(a), 2 * length - 1))
    for shift in range(length):
        out[:, shift : shift + length] += a[:, shift : shift + 1] * b
    return out


def _tilt(log_weight: np.ndarray, k: int) -> float:
    """log c with sum of c w/(1 + c w) = k, by halving."""
    total = len(log_weight)
    reach = math.log(total) + 40
    low, high = -float(log_weight.max()) - reach, -float(log_weight.min()) + reach
    if k in (0, total):
        return high if k else low
    for _ in range(60):
        middle = (low + high) / 2
        if _expit(middle + log_weight).sum() < k:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _expit(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)
