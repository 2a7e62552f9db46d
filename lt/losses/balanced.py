"""Losses that correct for the class prior: balanced softmax, class-balanced weights, LADE, GML."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.losses.base import (
    Loss,
    choose,
    class_vector,
    counts_array,
    global_batch,
    in_range,
    log_prior,
    one_hot,
    pick_target,
    positive_counts,
)
from lt.losses.bce import class_balanced_bce
from lt.losses.softmax import cross_entropy, weighted_cross_entropy


def balanced_softmax(logits: Tensor, target: Tensor, *, log_prior: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy of z + tau log pi (Bal-CE). Raw counts give the same value: a constant cancels."""
    shift = log_prior.to(logits.dtype)
    return cross_entropy(logits + (shift if tau == 1.0 else tau * shift), target)


def class_balanced_weights(class_counts: object, *, beta: float = 0.9999) -> np.ndarray:
    """w_c = (1 - beta) / (1 - beta^n_c), scaled to sum to C. float64."""
    counts = counts_array(class_counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = (1.0 - beta) / (1.0 - np.power(beta, counts))
        return weights / weights.sum() * counts.size


def class_balanced_softmax(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """Binary cross-entropy between softmax probabilities and one-hot labels, w_y on the whole row, mean over B*C.

    Logarithms are cut at -100, as torch's binary cross-entropy does.
    """
    rows = weight.to(logits.dtype)[target][:, None].expand_as(logits)
    return F.binary_cross_entropy(logits.softmax(dim=1), one_hot(target, logits), weight=rows)


def class_balanced_focal(logits: Tensor, target: Tensor, *, weight: Tensor, gamma: float) -> Tensor:
    """sum of w_y exp(-gamma t z - gamma log(1 + exp(-z))) BCE(z, t), divided by B."""
    t = one_hot(target, logits)
    losses = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    modulator = torch.exp(gamma * (F.logsigmoid(logits) - t * logits)) if gamma else 1.0
    return (weight.to(logits.dtype)[target][:, None] * modulator * losses).sum() / logits.shape[0]


def lade_regulariser(logits: Tensor, target: Tensor, *, prior: Tensor, strength: float = 0.1) -> Tensor:
    """-sum_c pi_c [A_c - B_c - strength B_c^2] over the batch.

    A_c: mean own logit of class c's samples; B_c = log mean_n exp(x_nc - log pi_c + log 1/C).
    """
    n, c = logits.shape
    pi = prior.to(logits.dtype)
    own = torch.zeros_like(pi).index_add(0, target, pick_target(logits, target))
    seen = torch.zeros_like(pi).index_add(0, target, torch.ones_like(target, dtype=logits.dtype))
    spread = logits - torch.log(pi + 1e-9) + float(np.log(1.0 / c + 1e-9))
    b = torch.logsumexp(spread, dim=0) - float(np.log(n))
    return -(pi * (own / (seen + 1e-8) - b - strength * b * b)).sum()


def generalised_mean(logits: Tensor, target: Tensor, *, log_counts: Tensor, power: float = 1.0) -> Tensor:
    """Re-weighted generalised mean loss (arXiv 2303.03630): power mean over the batch's classes of -log mean q_y.

    q = softmax(z + log n), cut to [1e-5, 1].
    """
    q = (logits + log_counts.to(logits.dtype)).softmax(dim=1)
    q = pick_target(q, target).clamp(1e-5, 1.0)
    c = logits.shape[1]
    total = torch.zeros(c, dtype=q.dtype, device=q.device).index_add(0, target, q)
    seen = torch.zeros_like(total).index_add(0, target, torch.ones_like(q))
    present = seen > 0
    # absent classes get mean 1, hence value 0; no boolean indexing: it would wait for the device
    value = -torch.log(torch.where(present, total / seen.clamp_min(1), 1.0))
    number = present.sum().to(q.dtype)
    if power == 1.0:
        return value.sum() / number
    return torch.linalg.vector_norm(value, power) / number ** (1.0 / power)


class BalancedSoftmax(Loss):
    soft_targets = True

    def __init__(
        self, *, class_counts: object, tau: float = 1.0, zero_counts: Literal["refuse", "imitate"] = "refuse"
    ) -> None:
        super().__init__()
        counts = positive_counts(class_counts, name="balanced softmax", zero_counts=zero_counts)
        self.tau = in_range("tau", tau, -float("inf"))
        self.register_buffer("log_prior", class_vector(log_prior(counts)), persistent=False)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.tau == 0:
            return cross_entropy(logits, target)
        return balanced_softmax(logits, target, log_prior=self.log_prior, tau=self.tau)


class ClassBalanced(Loss):
    """Class-balanced weights (arXiv 1901.05555) on one of four losses.

    ce: weighted mean of -log p_y (LiVT, RIDE); bce: w_c on every column, sum over classes (LiVT);
    softmax, focal: w_y on the row of element-wise losses (BaGMar's repository).
    """

    def __init__(
        self,
        *,
        class_counts: object,
        form: Literal["ce", "bce", "softmax", "focal"] = "ce",
        beta: float = 0.9999,
        gamma: float = 2.0,
        smoothing: float = 0.0,
        zero_counts: Literal["refuse", "imitate"] = "refuse",
    ) -> None:
        super().__init__()
        self.form = choose("form", form, ("ce", "bce", "softmax", "focal"))
        self.gamma = in_range("gamma", gamma, 0)
        self.smoothing = in_range("smoothing", smoothing, 0, 1)
        beta = in_range("beta", beta, 0, 1 - 1e-12)
        counts = positive_counts(class_counts, name="class-balanced loss", zero_counts=zero_counts)
        weight = class_vector(class_balanced_weights(counts, beta=beta), dtype=torch.float32)
        self.register_buffer("weight", weight, persistent=False)
        self.soft_targets = form == "bce"

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.form == "ce":
            return weighted_cross_entropy(logits, target, weight=self.weight)
        if self.form == "bce":
            return class_balanced_bce(logits, target, weight=self.weight, smoothing=self.smoothing)
        if self.form == "softmax":
            return class_balanced_softmax(logits, target, weight=self.weight)
        return class_balanced_focal(logits, target, weight=self.weight, gamma=self.gamma)


class Lade(Loss):
    """LADE (arXiv 2012.00321). `livt`: the regulariser alone; `full`: balanced softmax + alpha * regulariser."""

    def __init__(
        self,
        *,
        class_counts: object,
        form: Literal["full", "livt"] = "full",
        strength: float = 0.1,
        alpha: float = 0.1,
        zero_counts: Literal["refuse", "imitate"] = "refuse",
    ) -> None:
        super().__init__()
        self.form = choose("form", form, ("full", "livt"))
        self.strength = in_range("strength", strength, 0)
        self.alpha = in_range("alpha", alpha, 0)
        # log(pi + 1e-9) is finite for an empty class; only the prior term of `full` is not
        counts = counts_array(class_counts)
        if form == "full":
            counts = positive_counts(class_counts, name="LADE", zero_counts=zero_counts)
        self.register_buffer("prior", class_vector(counts / counts.sum(), dtype=torch.float32), persistent=False)
        self.register_buffer("log_prior", class_vector(log_prior(counts)), persistent=False)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        everyone = global_batch(logits, target)
        regulariser = lade_regulariser(*everyone, prior=self.prior, strength=self.strength)
        if self.form == "livt":
            return regulariser
        return balanced_softmax(logits, target, log_prior=self.log_prior) + self.alpha * regulariser


class GeneralisedMean(Loss):
    """An empty class never enters the softmax; its samples, should there be any, sit at the floor of 1e-5."""

    def __init__(self, *, class_counts: object, power: float = 1.0) -> None:
        super().__init__()
        self.power = in_range("power", power, 1e-3)
        counts = counts_array(class_counts)
        with np.errstate(divide="ignore"):
            self.register_buffer("log_counts", class_vector(np.log(counts)), persistent=False)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return generalised_mean(*global_batch(logits, target), log_counts=self.log_counts, power=self.power)
