"""Discriminative centroids (OLTR, as BaGMar's repository carries it): features near their centroid, far from others.

A function only: no recipe of the five papers trains with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lt.losses.base import at_least_float32


def discriminative_centroids(
    features: Tensor, target: Tensor, centroids: Tensor, *, margin: float = 10.0, repel: float = 0.01
) -> Tensor:
    """sum_i |f_i - c_yi|^2 / 2B + repel * clip(margin - sum_{i, j != yi} |f_i - c_j|^2 / BC, 0, 1e6).

    In the first term a centroid moves by its class's mean difference over (count + 1), divided by B, as published.
    """
    features, centroids = at_least_float32(features), at_least_float32(centroids)
    own = _own_centroids(centroids, target)
    attraction = (features - own).square().sum() / (2 * len(features))
    # |f - c|^2 of every pair without [B,C,d]; differences would cost that
    squares = features.square().sum(1)[:, None] + centroids.square().sum(1) - 2 * features @ centroids.T
    others = squares.scatter(1, target[:, None], 0.0).sum() / squares.numel()
    return attraction + repel * (margin - others).clamp(0.0, 1e6)


def _own_centroids(centroids: Tensor, target: Tensor) -> Tensor:
    """c_yi, a sum of whose gradients is divided by the class's (count + 1)."""
    share = 1.0 / (torch.bincount(target, minlength=len(centroids)) + 1).to(centroids.dtype)
    scaled = centroids * share[:, None]
    return F.embedding(target, scaled + (centroids - scaled).detach())
