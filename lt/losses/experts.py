"""RIDE: losses on the logits of several experts, distillation from a larger RIDE, targets of the router.

Expert logits are [B, E, C] and already carry the cosine scale s. Source: RIDE, ICLR 2021, arXiv 2010.01809, as
its released code computes it (the paper averages pairwise divergences; the code diverges from the mean).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.errors import UserError
from lt.losses.balanced import balanced_softmax, class_balanced_weights
from lt.losses.base import Loss, at_least_float32, check_target, class_vector, in_range, positive_counts
from lt.losses.margin import ldam_logits, ldam_margins
from lt.losses.softmax import cross_entropy, weighted_cross_entropy

BETA = 0.9999  # of the effective numbers in the deferred re-weighting


def diversity_temperatures(counts: np.ndarray, *, reweight_factor: float = 0.05) -> np.ndarray:
    """v_c = (C p_c g + 1 - g) / max: 1 for the most frequent class, smaller for rare ones. float64."""
    values = counts / counts.sum() * counts.size * reweight_factor + 1 - reweight_factor
    return values / values.max()


def divergence_from_mean(logits: Tensor, mean: Tensor, *, temperature: Tensor | float) -> Tensor:
    """KL(q || p), mean over the batch; q = softmax(mean / T) without gradient, p = softmax(logits / T).

    `temperature` may be a vector [C]: each logit is divided by its own class's value.
    """
    log_p = F.log_softmax(logits / temperature, dim=1)
    q = F.softmax(mean.detach() / temperature, dim=1)
    return F.kl_div(log_p, q, reduction="batchmean")


def distillation(logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.5) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    q = F.softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, q, reduction="batchmean")


class Ride(Loss):
    """sum_e [ f LDAM-DRW(z_e, y) + lambda Tbar^2 KL(softmax(zbar / T) || softmax(z_e / T)) ].

    T = `temperature` until `reweight_epoch`, then T v_c per class and Tbar its mean. lambda (`diversity_factor`) is
    negative: -0.45 on CIFAR, -0.2 elsewhere. Plain logits [B, C] get plain cross-entropy, which is what
    validation and the recipes without per-expert logits use. With lambda exactly 0 the published code takes
    every expert's LDAM term on the mean logits (`collaborative_when_zero`), which changes the base loss too.

    With a teacher's mean logits the sum gets + `distill_factor` T_d^2 KL(teacher || mean), and the whole is taken E
    times: the RIDE code adds it once per expert, the BatchFormer code once (`distill_expert_multiplier: false`).
    """

    def __init__(
        self,
        *,
        class_counts: object | None,
        diversity_factor: float = -0.2,
        temperature: float = 1.0,
        base_loss_factor: float = 1.0,
        max_margin: float = 0.5,
        scale: float = 30.0,
        reweight: bool = True,
        reweight_epoch: int | None = None,
        reweight_factor: float = 0.05,
        collaborative_when_zero: bool = True,
        distill_temperature: float = 1.5,
        distill_factor: float = 1.0,
        distill_expert_multiplier: bool = True,
        zero_counts: Literal["refuse", "imitate"] = "refuse",
    ) -> None:
        super().__init__()
        self.scale = in_range("scale", scale, 0)
        self.classes = None
        if class_counts is not None:
            counts = positive_counts(class_counts, name="RIDE", zero_counts=zero_counts)
            self.classes = counts.size
            reweight_factor = in_range("reweight_factor", reweight_factor, 0, 1)
            self._constant("margins", ldam_margins(counts, max_margin=in_range("max_margin", max_margin, 0)))
            self._constant("drw_weight", class_balanced_weights(counts, beta=BETA))
            self._constant("temperatures", diversity_temperatures(counts, reweight_factor=reweight_factor))
        never = not reweight or class_counts is None or reweight_epoch is None or reweight_epoch < 0
        self.reweight_epoch = None if never else int(reweight_epoch)
        self.diversity_factor = in_range("diversity_factor", diversity_factor, -float("inf"))
        self.temperature = in_range("temperature", temperature, 1e-6)
        self.base_loss_factor = in_range("base_loss_factor", base_loss_factor, 0)
        self.collaborative = collaborative_when_zero and diversity_factor == 0
        self.distill_temperature = in_range("distill_temperature", distill_temperature, 1e-6)
        self.distill_factor = in_range("distill_factor", distill_factor, 0)
        self.distill_expert_multiplier = distill_expert_multiplier
        self.set_epoch(0)

    def _constant(self, name: str, values: np.ndarray) -> None:
        """float32, where the published code rounds them, whatever the logits are."""
        self.register_buffer(name, class_vector(values, dtype=torch.float32), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """0-based; reweight_epoch 160 weights the 161st epoch and those after it."""
        self.reweighting = self.reweight_epoch is not None and epoch + 1 > self.reweight_epoch

    def ldam(self, logits: Tensor, target: Tensor) -> Tensor:
        """LDAM, from `reweight_epoch` on with the effective-number weights; without class counts plain."""
        if self.classes is None:
            return cross_entropy(logits, target)
        if self.classes != logits.shape[1]:
            raise UserError(f"Ride: {self.classes} class counts for {logits.shape[1]} classes")
        moved = ldam_logits(logits, target, margins=self.margins, scale=self.scale, scaled=True)
        if not self.reweighting:
            return cross_entropy(moved, target)
        return weighted_cross_entropy(moved, target, weight=self.drw_weight)

    def forward(self, logits: Tensor, target: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        if logits.ndim == 2 and teacher_logits is None:
            return super().forward(logits, target)
        if logits.ndim != 3 or logits.shape[1] == 0:
            raise UserError(f"Ride: expert logits must be [batch, experts, classes], got {tuple(logits.shape)}")
        check_target(logits[:, 0], target, soft=False, name="Ride")
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            loss = self.compute_experts(logits, target)
            return loss if teacher_logits is None else self.distil(loss, logits, teacher_logits)

    def distil(self, loss: Tensor, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        mean = logits.mean(1)
        if teacher_logits.shape != mean.shape:
            raise UserError(f"Ride: teacher logits {tuple(teacher_logits.shape)} against {tuple(mean.shape)}")
        kd = distillation(mean, teacher_logits.to(mean.dtype), temperature=self.distill_temperature)
        loss = loss + self.distill_factor * kd
        return logits.shape[1] * loss if self.distill_expert_multiplier else loss

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target)

    def compute_experts(self, logits: Tensor, target: Tensor) -> Tensor:
        mean = logits.mean(1)
        temperature: Tensor | float = self.temperature
        factor: Tensor | float = self.diversity_factor * self.temperature**2
        if self.reweighting:
            temperature = self.temperature * self.temperatures.to(logits.dtype)
            factor = self.diversity_factor * temperature.mean() ** 2
        total = logits.new_zeros(())
        for expert in logits.unbind(1):
            base = self.ldam(mean if self.collaborative else expert, target)
            total = total + self.base_loss_factor * base
            if self.diversity_factor != 0:
                total = total + factor * divergence_from_mean(expert, mean, temperature=temperature)
        return total


def over_streams(
    loss: Callable[..., Tensor],
    streams: Sequence[Tensor],
    target: Tensor,
    *extra: Tensor,
    weights: Sequence[float],
) -> Tensor:
    """sum_k weights_k loss(stream_k, target): the shared classifier of BatchFormer has two streams."""
    if len(streams) != len(weights):
        raise UserError(f"{len(streams)} streams of logits against {len(weights)} weights")
    terms = [w * loss(logits, target, *extra) for w, logits in zip(weights, streams, strict=True)]
    return torch.stack(terms).sum()


def balanced_softmax_two_streams(logits: Tensor, target: Tensor, *, log_prior: Tensor) -> Tensor:
    """Balanced softmax on [encoded; by-pass] logits [2B, C] with labels [B]: first half + second half + all.

    As the released BatchFormer code sums them, i.e. 1.5 times the sum of the halves.
    """
    if len(logits) != 2 * len(target):
        raise UserError(f"expected logits of two streams, {2 * len(target)} rows, got {len(logits)}")
    encoded, plain = at_least_float32(logits).chunk(2)
    halves = balanced_softmax(encoded, target, log_prior=log_prior) + balanced_softmax(
        plain, target, log_prior=log_prior
    )
    return 1.5 * halves


def router_targets(sums: Tensor, target: Tensor) -> Tensor:
    """[B, E - 1]: experts 0..i together are wrong and those up to some later expert are right.

    `sums` [B, E, C]: sum of the logits of experts 0..i.
    """
    right = sums.argmax(2) == target[:, None]
    later = right.flip(1).cummax(1).values.flip(1)  # right at i or at any later point
    return ~right[:, :-1] & later[:, 1:]


def router_loss(gates: Tensor, wanted: Tensor, *, pos_weight: float = 100.0) -> Tensor:
    """Mean over gates and batch of binary cross-entropy; `gates`, `wanted` [B, E - 1]."""
    if gates.numel() == 0 or gates.shape != wanted.shape:
        raise UserError(
            f"router: gates {tuple(gates.shape)} for targets {tuple(wanted.shape)}; expected [B, E - 1], E > 1"
        )
    gates = at_least_float32(gates)
    weight = torch.as_tensor(pos_weight, dtype=gates.dtype, device=gates.device)
    return F.binary_cross_entropy_with_logits(gates, wanted.to(gates.dtype), pos_weight=weight)


LOSSES: dict[str, Callable[..., Loss]] = {"ride": Ride}
