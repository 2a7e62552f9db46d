"""Mixing images and what the loss then sees. Draws come from `stream(seed, "mixup", epoch, step)`.

Partners are of the same rank. Mixup has one lam for the whole batch on every rank (MiSLAS's devices share theirs);
`mixup_cutmix` draws for each rank, as LiVT's processes do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lt.data import mix as mixes
from lt.engine import Step
from lt.errors import pick
from lt.rng import stream

Criterion = Callable[[Tensor], Tensor]
Mixing = Callable[[Tensor, Tensor, nn.Module, Step], tuple[Tensor, Criterion]]


class Mixup:
    """lam * loss(y) + (1 - lam) * loss(y[perm]); lam ~ Beta(alpha, alpha), one a batch."""

    def __init__(self, *, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, images: Tensor, target: Tensor, loss: nn.Module, step: Step) -> tuple[Tensor, Criterion]:
        mix = mixes.draw_mixup(stream(step.seed, "mixup", step.epoch, step.step, 0), len(images), self.alpha)
        other = target[torch.from_numpy(mix.perm).to(target.device, non_blocking=True)]
        from lt.losses.mixup import mixed

        def criterion(logits: Tensor) -> Tensor:
            return mixed(loss, logits, target, other, mix.lam)

        return mixes.apply(images, mix), criterion


class MixupCutmix:
    """timm 0.3.2's mixup or CutMix with soft targets (LiVT)."""

    def __init__(self, *, num_classes: int, smoothing: float = 0.0, **options: Any) -> None:
        self.num_classes, self.smoothing, self.options = num_classes, smoothing, options

    def __call__(self, images: Tensor, target: Tensor, loss: nn.Module, step: Step) -> tuple[Tensor, Criterion]:
        source = stream(step.seed, "mixup", step.epoch, step.step, step.rank)
        mix = mixes.draw_mix_timm(source, images.shape, **self.options)
        soft = mixes.soft_targets(target, self.num_classes, mix, self.smoothing)
        return mixes.apply(images, mix), lambda logits: loss(logits, soft)


class Remix:
    """Mixup whose label share follows the class counts (arXiv 2007.03943): the rarer class takes the label."""

    def __init__(self, *, alpha: float, kappa: float = 3.0, tau: float = 0.5, class_counts: np.ndarray) -> None:
        self.alpha, self.kappa, self.tau = alpha, kappa, tau
        from lt.losses.base import class_vector, counts_array

        self.counts = class_vector(counts_array(class_counts))

    def __call__(self, images: Tensor, target: Tensor, loss: nn.Module, step: Step) -> tuple[Tensor, Criterion]:
        from lt.losses.mixup import remix_lam, remixed

        self.counts = self.counts.to(target.device)
        mix = mixes.draw_mixup(stream(step.seed, "mixup", step.epoch, step.step, 0), len(images), self.alpha)
        other = target[torch.from_numpy(mix.perm).to(target.device, non_blocking=True)]
        lam = remix_lam(target, other, mix.lam, class_counts=self.counts, kappa=self.kappa, tau=self.tau)
        return mixes.apply(images, mix), lambda logits: remixed(loss, logits, target, other, lam)


MIXES: dict[str, Callable[..., Mixing]] = {"mixup": Mixup, "mixup_cutmix": MixupCutmix, "remix": Remix}


def build(name: str, *, num_classes: int, class_counts: np.ndarray, **options: Any) -> Mixing:
    factory = pick("mix", name, MIXES)
    if factory is MixupCutmix:
        options["num_classes"] = num_classes
    if factory is Remix:
        options["class_counts"] = class_counts
    return factory(**options)
