"""Label smoothing, uniform and by class size (MiSLAS)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.errors import UserError
from lt.losses.base import Loss, choose, class_vector, counts_array, in_range, pick_target, top_two

SHAPES = ("concave", "linear", "convex", "exp")


def smoothing_curve(
    class_counts: object, *, head: float, tail: float, shape: str = "concave", power: float | None = None
) -> np.ndarray:
    """Smoothing of each class between `tail` (rarest) and `head` (most frequent). float64; nan for equal counts."""
    choose("shape", shape, SHAPES)
    counts = counts_array(class_counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (counts - counts.min()) / (counts.max() - counts.min())
        if shape == "concave":
            return tail + (head - tail) * np.sin(u * np.pi / 2)
        if shape == "linear":
            return tail + (head - tail) * u
        if shape == "convex":
            return head + (head - tail) * np.sin(1.5 * np.pi + u * np.pi / 2)
        if power is None:
            raise UserError("label-aware smoothing: shape exp needs a power")
        return tail + (head - tail) * np.power(u, power)


def smoothed(logits: Tensor, target: Tensor, *, smoothing: Tensor | float, form: str = "code") -> Tensor:
    """Per sample, e = smoothing of its class.

    code: (1 - e) nll_y + e mean_j nll_j, so the label keeps 1 - e + e/C;
    paper: (1 - e) nll_y + e/(C-1) sum_{j != y} nll_j.
    """
    nll = -F.log_softmax(logits, dim=1)
    own = pick_target(nll, target)
    if isinstance(smoothing, Tensor):
        smoothing = smoothing[target]
        # the complement is taken in the precision of the stored vector (float32), as the published code does
        keep, e = (1.0 - smoothing).to(logits.dtype), smoothing.to(logits.dtype)
    else:
        keep, e = 1.0 - smoothing, smoothing
    if form == "code":
        return keep * own + e * nll.mean(1)
    return keep * own + e * (nll.sum(1) - own) / max(logits.shape[1] - 1, 1)


class LabelSmoothing(Loss):
    def __init__(
        self, *, class_counts: object, smoothing: float = 0.1, form: Literal["code", "paper"] = "code"
    ) -> None:
        super().__init__()
        self.smoothing = in_range("smoothing", smoothing, 0, 1)
        self.form = choose("form", form, ("code", "paper"))

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return smoothed(logits, target, smoothing=self.smoothing, form=self.form).mean()


class LabelAwareSmoothing(Loss):
    """MiSLAS, stage 2. Soft targets follow LiVT: the two largest entries, mean of t1 l(i1) + t2 l(i2)."""

    soft_targets = True

    def __init__(
        self,
        *,
        class_counts: object,
        head: float = 0.3,
        tail: float = 0.0,
        shape: Literal["concave", "linear", "convex", "exp"] = "concave",
        power: float | None = None,
        form: Literal["code", "paper"] = "code",
        equal_counts: Literal["refuse", "imitate"] = "refuse",
    ) -> None:
        super().__init__()
        self.form = choose("form", form, ("code", "paper"))
        choose("equal_counts", equal_counts, ("refuse", "imitate"))
        head, tail = in_range("head", head, 0, 1), in_range("tail", tail, 0, 1)
        counts = counts_array(class_counts)
        if counts.min() == counts.max() and equal_counts == "refuse":
            raise UserError(
                f"label-aware smoothing needs unequal class counts (all {counts.size} classes have "
                f"{counts[0]:g} images); use label_smoothing"
            )
        curve = smoothing_curve(counts, head=head, tail=tail, shape=shape, power=power)
        # rounded to float32 first, as the published code stores it
        self.register_buffer("smoothing", class_vector(curve, dtype=torch.float32), persistent=False)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        if not target.is_floating_point():
            return smoothed(logits, target, smoothing=self.smoothing, form=self.form).mean()
        shares, labels = top_two(target, logits)
        total = logits.new_zeros(logits.shape[0])
        for share, label in zip(shares.unbind(1), labels.unbind(1), strict=True):
            total = total + share * smoothed(logits, label, smoothing=self.smoothing, form=self.form)
        return total.mean()
