"""Balanced negative sampling (BNS): contrastive losses over two views with labels.

Lin and Yuan, Long-Tailed Recognition via Information-Preservable Two-Stage Learning (arXiv 2510.08836).
`bns` is what the released code computes, `bns_eq12` what the paper's equation 12 says: two functions.
A contrastive loss is called as `loss(first, second, labels)` on the projections [B, d] of the two views.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lt.errors import UserError, nearest, pick
from lt.losses.base import Loss, at_least_float32


def bns(
    first: Tensor, second: Tensor, labels: Tensor, labels_second: Tensor | None = None, *, tau: float = 0.5
) -> Tensor:
    """-(1/M) sum_a [log sigmoid(pos_a) + log sigmoid(-neg_a)] over the M = 2B projections of both views.

    With e = exp(cos/tau): pos_a is the mean of e over the other projections of a's label (its own second view
    among them; 0 if there is none), neg_a the sum of e over other labels divided by M, as released, not by
    their number. `labels_second` where the second view has labels of its own.
    """
    labels_second = labels if labels_second is None else labels_second
    _check(first, second, labels, tau=tau)
    _check(second, first, labels_second, tau=tau)
    with torch.autocast(first.device.type, enabled=False):
        z = torch.cat([_unit(first), _unit(second)])
        limit = math.log(torch.finfo(z.dtype).max)
        if 1.001 / tau > limit:  # the margin: cosines may round above 1
            kind = str(z.dtype).removeprefix("torch.")
            needed = f"expected at least {1.001 / limit:.4f}"
            raise UserError(f"bns: tau is {tau:g}, exp(1/tau) overflows in {kind}; {needed}")
        label = torch.cat([labels, labels_second])
        same = label[:, None] == label[None, :]
        other = (~same).to(z.dtype) / len(z)
        alike = same.fill_diagonal_(False).to(z.dtype)
        alike /= alike.sum(1, keepdim=True).clamp(min=1)
        similar = (z @ z.T / tau).exp()
        # weighted before they are summed: a sum of terms below the overflow may lie above it
        pos, neg = (similar * alike).sum(1), (similar * other).sum(1)
        return -(F.logsigmoid(pos) + F.logsigmoid(-neg)).mean()


def bns_eq12(first: Tensor, second: Tensor, labels: Tensor, *, tau: float = 0.5) -> Tensor:
    """Equation 12 over a whole batch: q from the first view, v from the second, mean over the anchors i.

    L_i = -(1/|A_i|) sum_{a in A_i} [log s(q_a v_i/tau) + sum_{j: y_j != y_i} log s(-q_a v_j/tau)], s the
    sigmoid, A_i all items of i's label, i among them. The paper leaves the numbers of positives and negatives
    open; taking all of the batch is this project's reading. Here the sigmoid takes the cosine itself.
    """
    _check(first, second, labels, tau=tau)
    with torch.autocast(first.device.type, enabled=False):
        cosine = _unit(first) @ _unit(second).T / tau
        same = labels[:, None] == labels[None, :]
        alike = same.to(cosine.dtype)
        # the mean over A_i, summed over i, visits every row of negatives exactly once
        pos = F.logsigmoid(cosine) * (alike / alike.sum(1, keepdim=True))
        neg = F.logsigmoid(-cosine) * (1 - alike)
        return -(pos + neg).sum() / len(cosine)


class Views(Loss):
    """A loss on the projections of two views, as a task calls it: `loss(first, second, labels)`."""

    name: str
    tau: float

    def forward(self, first: Tensor, second: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise UserError(f"loss {type(self).__name__} compares two views of an image; set task: contrast")
        return CONTRASTIVE[self.name](first, second, labels, tau=self.tau)


class Bns(Views):
    name = "bns"

    def __init__(self, class_counts: object, *, tau: float = 0.5) -> None:
        super().__init__()
        self.tau = tau


class BnsEq12(Views):
    name = "bns_eq12"

    def __init__(self, class_counts: object, *, tau: float = 0.5) -> None:
        super().__init__()
        self.tau = tau


CONTRASTIVE: dict[str, Callable[..., Tensor]] = {"bns": bns, "bns_eq12": bns_eq12}


def build(name: str, **options: object) -> Callable[..., Tensor]:
    """The contrastive loss of that name with its options set."""
    function = pick("contrastive loss", name, CONTRASTIVE)
    known = [n for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UserError(f"contrastive loss '{name}' has no option '{option}'{nearest(option, known)}")
    return partial(function, **options)


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1, at least float32.

    The released code normalises twice, with floors 1e-12 and 1e-8: a row of zeros stays zero, one of any
    other length that matters comes out at 1. A zero row has no direction: it gets no gradient here, where
    the floors would give it one of 1e20.
    """
    x = at_least_float32(x)
    x = torch.where(x.detach().abs().amax(1, keepdim=True) > 0, x, x.detach())
    return F.normalize(F.normalize(x, eps=1e-12), eps=1e-8)


def _check(view: Tensor, other: Tensor, labels: Tensor, *, tau: float) -> None:
    if view.ndim != 2 or view.shape != other.shape or not len(view):
        raise UserError(
            f"contrastive loss: views of shape {tuple(view.shape)} and {tuple(other.shape)}; "
            "expected two of the same [batch, features]"
        )
    if labels.shape != view.shape[:1] or labels.is_floating_point():
        raise UserError(
            f"contrastive loss: labels of shape {tuple(labels.shape)} ({labels.dtype}) for "
            f"{len(view)} samples; expected one whole number a sample"
        )
    if not tau > 0 or math.isinf(tau):
        raise UserError(f"contrastive loss: tau is {tau}; expected a number above 0")
