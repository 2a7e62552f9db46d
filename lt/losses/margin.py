"""Margins: LDAM with deferred re-weighting, and BaGMar (GALA), whose margins come from accumulated gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt import distributed
from lt.errors import UserError
from lt.losses.balanced import class_balanced_weights
from lt.losses.base import (
    Loss,
    choose,
    class_vector,
    counts_array,
    in_range,
    pick_target,
    positive_counts,
    top_two,
)
from lt.losses.softmax import cross_entropy, weighted_cross_entropy


def ldam_margins(class_counts: object, *, max_margin: float = 0.5) -> np.ndarray:
    """m_c = max_margin n_c^(-1/4) / max_k n_k^(-1/4). float64; 0 for the largest class only in the limit."""
    counts = counts_array(class_counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = 1.0 / np.sqrt(np.sqrt(counts))
        return raw * (max_margin / raw.max())


def ldam_logits(logits: Tensor, target: Tensor, *, margins: Tensor, scale: float, scaled: bool) -> Tensor:
    """scale * (x - m_y at y); with `scaled` the logits already hold the factor (cosine heads)."""
    m = margins.to(logits.dtype)[target][:, None]
    if scaled:
        return logits.scatter_add(1, target[:, None], -scale * m)
    return scale * logits.scatter_add(1, target[:, None], -m)


class Ldam(Loss):
    """LDAM (arXiv 1906.07413). `reweight_epoch`: class-balanced weights from that 0-based epoch on (DRW).

    Soft targets follow LiVT: the two largest entries, mean of t1 l(i1) + t2 l(i2).
    """

    soft_targets = True

    def __init__(
        self,
        *,
        class_counts: object,
        max_margin: float = 0.5,
        scale: float = 30.0,
        scaled_logits: bool = False,
        reweight_epoch: int | None = None,
        beta: float = 0.9999,
        zero_counts: Literal["refuse", "imitate"] = "refuse",
    ) -> None:
        super().__init__()
        counts = positive_counts(class_counts, name="LDAM", zero_counts=zero_counts)
        self.scale = in_range("scale", scale, 0)
        self.scaled_logits = bool(scaled_logits)
        self.reweight_epoch = reweight_epoch
        self.reweighted = False
        max_margin = in_range("max_margin", max_margin, 0)
        beta = in_range("beta", beta, 0, 1 - 1e-12)
        # float32, as the published codes store them
        margins = class_vector(ldam_margins(counts, max_margin=max_margin), dtype=torch.float32)
        weight = class_vector(class_balanced_weights(counts, beta=beta), dtype=torch.float32)
        self.register_buffer("margins", margins, persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.reweighted = self.reweight_epoch is not None and epoch >= self.reweight_epoch

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return self._soft(logits, target)
        adjusted = self._adjusted(logits, target)
        if not self.reweighted:
            return cross_entropy(adjusted, target)
        return weighted_cross_entropy(adjusted, target, weight=self.weight)

    def _adjusted(self, logits: Tensor, target: Tensor) -> Tensor:
        return ldam_logits(logits, target, margins=self.margins, scale=self.scale, scaled=self.scaled_logits)

    def _soft(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.reweighted:
            raise UserError("LDAM with deferred re-weighting takes hard labels; mix the losses of two labels instead")
        shares, labels = top_two(target, logits)
        total = logits.new_zeros(logits.shape[0])
        for share, label in zip(shares.unbind(1), labels.unbind(1), strict=True):
            total = total + share * F.cross_entropy(self._adjusted(logits, label), label, reduction="none")
        return total.mean()


def bagmar_logits(
    logits: Tensor,
    target: Tensor,
    *,
    theta: Tensor,
    phi: Tensor,
    lambda1: float = 1.0,
    lambda2: float = 1.0,
    eps: float = 1e-3,
    form: str = "code",
) -> Tensor:
    """z_ij + lambda1 log(theta_j + eps) - lambda2 log(phi_{y_i} + eps).

    `code`: on every class, so that lambda2 only shifts a row; `paper`: on all but the target.
    """
    rise = (lambda1 * torch.log(theta + eps)).to(logits.dtype)
    fall = (lambda2 * torch.log(phi + eps)).to(logits.dtype)[target]
    moved = logits + rise - fall[:, None]
    if form == "code":
        return moved
    return moved.scatter(1, target[:, None], logits.gather(1, target[:, None]))


class _GivenGradient(torch.autograd.Function):
    """A value whose gradient with respect to the logits is given."""

    @staticmethod
    def forward(ctx: object, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


class BaGMar(Loss):
    """BaGMar / GALA (arXiv 2403.09036): margins log theta_j, theta_j = gradient mass of class j from its own samples.

    State, moved after every training step by |h|, h = d loss / d logits after the weighting: three sums a class
    (row 0: of a class's own samples; row 1: of one class's samples over the other logits; row 2: of one logit
    over the other classes' samples). `accumulate: double` adds the running sums themselves at every step, as the
    published code does; `single` adds the step. Kept in float64 and saved with the model: a resumed run goes on
    with the same bits. In eval mode there is no margin and no update.

    `micro_batches` batches make one update of the state (gradient accumulation); over several processes the
    sums are those of the global batch.
    """

    stateful = True

    def __init__(
        self,
        *,
        class_counts: object,
        lambda1: float = 1.0,
        lambda2: float = 1.0,
        form: Literal["code", "paper"] = "code",
        accumulate: Literal["double", "single"] = "double",
        weighting: Literal["none", "neg_pos_bal", "neg_pos_bal_norm"] = "none",
        criterion: str = "cross_entropy",
        criterion_options: dict[str, object] | None = None,
        eps: float = 1e-3,
        micro_batches: int = 1,
    ) -> None:
        super().__init__()
        from lt.losses import build  # the registry holds this class too

        classes = counts_array(class_counts).size
        self.lambda1, self.lambda2 = in_range("lambda1", lambda1, 0), in_range("lambda2", lambda2, 0)
        self.form = choose("form", form, ("code", "paper"))
        self.accumulate = choose("accumulate", accumulate, ("double", "single"))
        self.weighting = choose("weighting", weighting, tuple(WEIGHTINGS))
        self.eps = in_range("eps", eps, 1e-12)
        self.micro_batches = int(in_range("micro_batches", micro_batches, 1))
        if self.weighting == "neg_pos_bal_norm" and self.micro_batches > 1:
            raise UserError(
                f"weighting: neg_pos_bal_norm keeps the norm of a column over the whole batch, which accumulate: "
                f"{self.micro_batches} cuts; set accumulate: 1, or weighting: neg_pos_bal"
            )
        if criterion == "bagmar":
            raise UserError("criterion: bagmar cannot be its own criterion")
        options = criterion_options or {}
        self.closed_form = criterion == "cross_entropy" and not options
        self.criterion = build(criterion, class_counts=class_counts, **options)
        for name in ("sums", "totals", "pending"):
            self.register_buffer(name, torch.zeros(3, classes, dtype=torch.float64))
        # host numbers: batches since the last update, epoch
        self.waiting, self.epoch = 0, -1

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.waiting, self.epoch])

    def set_extra_state(self, state: Tensor) -> None:
        self.waiting, self.epoch = state.tolist()

    @property
    def theta(self) -> Tensor:
        """[C] gradient mass of class j from its own samples."""
        return self.totals[0]

    @property
    def phi(self) -> Tensor:
        """[C] gradient mass that class k's samples put on the other logits."""
        return self.totals[1]

    @property
    def ratio(self) -> Tensor:
        """[C] positive over negative gradient mass of a logit; 1 before the first step."""
        return (self.totals[0] + 1e-10) / (self.totals[2] + 1e-10)

    def set_epoch(self, epoch: int) -> None:
        """A new epoch drops what an unfinished accumulation left, as its gradients are dropped."""
        self.criterion.set_epoch(epoch)
        if epoch != self.epoch:
            self.pending.zero_()
            self.waiting, self.epoch = 0, epoch

    def adjusted(self, logits: Tensor, target: Tensor) -> Tensor:
        """The logits of the training loss."""
        return bagmar_logits(
            logits,
            target,
            theta=self.theta,
            phi=self.phi,
            lambda1=self.lambda1,
            lambda2=self.lambda2,
            eps=self.eps,
            form=self.form,
        )

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if not self.training:
            return self.criterion(logits, target)
        with torch.no_grad():
            value, gradient = self._value_and_gradient(self.adjusted(logits, target), target)
            used = WEIGHTINGS[self.weighting](gradient, target, self.ratio)
            self._observe(used, target)
        return _GivenGradient.apply(logits, value, used)

    def _value_and_gradient(self, adjusted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The criterion on the adjusted logits, and (softmax - one-hot) / B or whatever autograd says."""
        if self.closed_form:
            log_p = F.log_softmax(adjusted, dim=1)
            value = -pick_target(log_p, target).mean()
            gradient = log_p.exp_()
            gradient.scatter_add_(1, target[:, None], gradient.new_full((len(target), 1), -1.0))
            return value, gradient.div_(len(target))
        leaf = adjusted.detach().requires_grad_()
        with torch.enable_grad():
            value = self.criterion(leaf, target)
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    def _observe(self, used: Tensor, target: Tensor) -> None:
        mass = used.abs()
        own = pick_target(mass, target)
        rest = mass.scatter(1, target[:, None], 0.0)
        rows = (_by_class(own, target, rest), _by_class(rest.sum(1), target, rest), rest.sum(0))
        step = torch.stack(rows).to(self.pending.dtype)
        self.pending += _mean_over_ranks(step, len(target)) / self.micro_batches
        self.waiting += 1
        if self.waiting < self.micro_batches:
            return
        self.sums += self.pending
        self.totals += self.sums if self.accumulate == "double" else self.pending
        self.pending.zero_()
        self.waiting = 0


def _by_class(values: Tensor, target: Tensor, like: Tensor) -> Tensor:
    """Sum of values [B] by class [C]; through a matrix, because index_add on a GPU adds in no fixed order."""
    return torch.zeros_like(like).scatter_(1, target[:, None], values[:, None]).sum(0)


def _mean_over_ranks(x: Tensor, images: int) -> Tensor:
    """Each rank divides by its own batch; the mean over the global batch weighs them by their images."""
    if distributed.world() == 1:
        return x
    weighed = distributed.total(torch.cat([x.flatten() * images, x.new_tensor([images])]))
    return (weighed[:-1] / weighed[-1]).view_as(x)


def _as_it_is(gradient: Tensor, target: Tensor, ratio: Tensor) -> Tensor:
    return gradient


def neg_pos_bal(gradient: Tensor, target: Tensor, ratio: Tensor) -> Tensor:
    """g_ij r_j off the target, g_ij on it."""
    weighted = gradient * ratio.to(gradient.dtype)
    return weighted.scatter(1, target[:, None], gradient.gather(1, target[:, None]))


def neg_pos_bal_norm(gradient: Tensor, target: Tensor, ratio: Tensor) -> Tensor:
    """The same, then each column scaled back to the L2 norm it had over the (global) batch.

    A column of zeros stays zero; the published code makes it NaN.
    """
    weighted = neg_pos_bal(gradient, target, ratio)
    squares = torch.stack([(gradient.double() ** 2).sum(0), (weighted.double() ** 2).sum(0)])
    if distributed.world() > 1:
        squares *= len(target) ** 2  # each rank divided by its own images, which may be fewer than another's
    before, after = distributed.total(squares).sqrt()
    factor = torch.where(after > 0, before / after, 1.0)
    return weighted * factor.to(gradient.dtype)


WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "none": _as_it_is,
    "neg_pos_bal": neg_pos_bal,
    "neg_pos_bal_norm": neg_pos_bal_norm,
}
