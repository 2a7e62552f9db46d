"""Sigmoid losses of LiVT: the sum over classes of binary cross-entropies, mean over samples."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.errors import UserError
from lt.losses.base import Loss, choose, class_vector, in_range, positive_counts


def dense_target(target: Tensor, like: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Labels as [B,C]: 1 - s + s/C on the label, s/C elsewhere. A soft target is taken as it is."""
    if target.is_floating_point():
        return target.to(like.dtype)
    off = smoothing / like.shape[1]
    return torch.full_like(like, off).scatter_(1, target[:, None], 1.0 - smoothing + off)


def bce(logits: Tensor, target: Tensor, *, classes: str = "sum") -> Tensor:
    """`target` [B,C]. classes: sum (LiVT) or mean (BaGMar's repository) over the columns; mean over samples."""
    total = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return total / (logits.shape[0] if classes == "sum" else logits.numel())


def class_balanced_bce(logits: Tensor, target: Tensor, *, weight: Tensor, smoothing: float = 0.0) -> Tensor:
    """(1/N) sum_n sum_c w_c bce(x_nc, t_nc)."""
    t = dense_target(target, logits, smoothing=smoothing)
    total = F.binary_cross_entropy_with_logits(logits, t, weight=weight.to(logits.dtype), reduction="sum")
    return total / logits.shape[0]


def log_odds(counts: np.ndarray) -> Tensor:
    """log pi_c - log(1 - pi_c), the training odds of class c against the rest; float32 from pi on, as published."""
    pi = class_vector(counts / counts.sum(), dtype=torch.float32)
    return torch.log(pi) - torch.log(1 - pi)


class Bce(Loss):
    soft_targets = True

    def __init__(
        self,
        *,
        class_counts: object,
        smoothing: float = 0.0,
        target_threshold: float | None = None,
        classes: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        self.smoothing = in_range("smoothing", smoothing, 0, 1)
        self.target_threshold = None if target_threshold is None else in_range("target_threshold", target_threshold, 0)
        self.classes = choose("classes", classes, ("sum", "mean"))

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        t = dense_target(target, logits, smoothing=self.smoothing)
        if self.target_threshold is not None:  # a soft target in its own precision: the threshold may be an entry
            t = ((target if target.is_floating_point() else t) > self.target_threshold).to(logits.dtype)
        return bce(logits, t, classes=self.classes)


class BalancedBce(Bce):
    """BCE on x + tau (log pi_c - log(1 - pi_c)), the bias on every class of every sample.

    The published code hard-codes tau = 1 and ignores its own setting; 1.05 is the stated value for Places-LT.
    """

    def __init__(
        self,
        *,
        class_counts: object,
        tau: float = 1.0,
        smoothing: float = 0.0,
        target_threshold: float | None = None,
        classes: Literal["sum", "mean"] = "sum",
        zero_counts: Literal["refuse", "imitate"] = "refuse",
    ) -> None:
        super().__init__(
            class_counts=class_counts, smoothing=smoothing, target_threshold=target_threshold, classes=classes
        )
        counts = positive_counts(class_counts, name="balanced BCE", zero_counts=zero_counts)
        if counts.size == 1 and zero_counts == "refuse":
            raise UserError("balanced BCE needs two or more classes: with one, the prior odds are infinite")
        self.tau = in_range("tau", tau, -float("inf"))
        self.register_buffer("log_odds", log_odds(counts), persistent=False)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        shift = self.log_odds.to(logits.dtype)
        return super().compute(logits + (shift if self.tau == 1.0 else self.tau * shift), target)
