"""How likely an image is to be kept, against p: what the figure `inclusion` shows of the samplers."""

from __future__ import annotations

import numpy as np

from lt.errors import UserError
from lt.sampling.kdpp import SCALES, RankOne, Source


def against_p(
    p: np.ndarray, k: int, *, draws: int, source: Source
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of one class with probabilities `p`: frequency in so many subsets of size k, and the exact probability.

    Both by sampler: the code's kernel, the paper's, uniform. The arguments of `lt.figures.inclusion_against_p` are
    (path, p, frequency, expected=probability).
    """
    p = np.asarray(p, dtype=np.float64)
    if not 0 < k < len(p):
        raise UserError(f"inclusion: k is {k} of {len(p)} images; expected 0 < k < N")
    if draws < 1:
        raise UserError(f"inclusion: {draws} draws; expected at least 1")
    frequency, probability = {}, {}
    for kernel in SCALES:
        law, name = RankOne(p, k, kernel), f"{kernel} kernel"
        kept = np.concatenate([law.draw(source) for _ in range(draws)])
        frequency[name] = np.bincount(kept, minlength=len(p)) / draws
        probability[name] = law.inclusion()
    kept = np.concatenate([source.permutation(len(p))[:k] for _ in range(draws)])
    frequency["uniform"] = np.bincount(kept, minlength=len(p)) / draws
    probability["uniform"] = np.full(len(p), k / len(p))
    return frequency, probability
