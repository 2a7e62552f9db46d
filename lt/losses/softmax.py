"""Softmax cross-entropy, focal loss and the equalisation loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lt import distributed, rng
from lt.losses.base import Loss, counts_array, in_range, pick_target


def cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy; with `weight` the weighted mean sum(w_y l) / sum(w_y). Soft targets: mean of -t log p."""
    if target.is_floating_point():
        return -(target.to(logits.dtype) * F.log_softmax(logits, dim=1)).sum(1).mean()
    return F.cross_entropy(logits, target, weight=None if weight is None else weight.to(logits.dtype))


def weighted_cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """The weighted mean over the batch of all ranks; the ranks' values are then weighed by their images."""
    if distributed.world() == 1:
        return cross_entropy(logits, target, weight=weight)
    own = weight.to(logits.dtype)[target]
    losses = F.cross_entropy(logits, target, reduction="none")
    weights, images = distributed.total(torch.stack([own.sum(), own.new_tensor(len(own))]))
    return (own * losses).sum() / weights * (images / len(own))


def focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """mean of (1 - p_y)^gamma * (-log p_y)."""
    log_p = pick_target(F.log_softmax(logits, dim=1), target)
    # kept above zero: for gamma < 1 the power has no derivative at p_y = 1
    miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(logits.dtype).tiny)
    return -(miss**gamma * log_p).mean()


def equalised_logits(logits: Tensor, target: Tensor, *, tail: Tensor, dropped: Tensor) -> Tensor:
    """Logits with the tail classes of `dropped` [B,C] removed (log 0), except each sample's own class."""
    remove = (dropped & tail).scatter(1, target[:, None], False)
    return logits.masked_fill(remove, float("-inf"))


class CrossEntropy(Loss):
    soft_targets = True

    def __init__(self, *, class_counts: object) -> None:
        super().__init__()

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target)


class Focal(Loss):
    def __init__(self, *, class_counts: object, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = in_range("gamma", gamma, 0)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal(logits, target, gamma=self.gamma)


class Equalisation(Loss):
    """Softmax equalisation loss (EQL v1): tail classes are left out of the softmax of other classes' samples.

    w_ij = 1 - b_ij [n_j / sum n < tail_ratio] [j != y_i], b_ij ~ Bernoulli(drop); cross-entropy of z + log w.
    The mask of step t is a function of (seed, t, rank); t is part of the state.
    """

    on_device = False

    def __init__(self, *, class_counts: object, tail_ratio: float = 5e-3, drop: float = 0.9, seed: int = 0) -> None:
        super().__init__()
        counts = counts_array(class_counts)
        self.tail_ratio = in_range("tail_ratio", tail_ratio, 0, 1)
        self.drop = in_range("drop", drop, 0, 1)
        self.seed = int(seed)
        tail = torch.from_numpy(counts / counts.sum() < self.tail_ratio)
        self.register_buffer("tail", tail, persistent=False)
        self.step = 0

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.with_draws(logits, target, self._draws(logits))

    def with_draws(self, logits: Tensor, target: Tensor, uniform: Tensor) -> Tensor:
        dropped = uniform < self.drop
        return F.cross_entropy(equalised_logits(logits, target, tail=self.tail, dropped=dropped), target)

    def _draws(self, logits: Tensor) -> Tensor:
        generator = torch.Generator(device=logits.device)
        generator.manual_seed(rng.torch_seed(self.seed, "noise", self.step, distributed.rank()))
        if self.training:
            self.step += 1
        return torch.rand(logits.shape, generator=generator, device=logits.device)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.step])

    def set_extra_state(self, state: Tensor) -> None:
        self.step = int(state[0])
