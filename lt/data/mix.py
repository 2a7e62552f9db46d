"""Mixup and CutMix: drawing apart from applying.

A drawing function takes its source (`lt.rng.stream(seed, "mixup", epoch, step)` in training, a numpy
`RandomState` in a parity test) and returns a `Mix`; `apply` and `soft_targets` draw nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lt.errors import UserError, pick

Source = np.random.Generator | np.random.RandomState
Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Mix:
    """Image i becomes `lam * x_i + (1 - lam) * x_perm[i]`, or, with a box, x_i with the box of x_perm[i].

    `lam` is the share that the label of image i keeps. One number and one box serve the whole batch, or
    there is one for each image (`boxes[i] is None`: image i is blended).
    """

    lam: float | np.ndarray
    perm: np.ndarray
    boxes: Box | tuple[Box | None, ...] | None = None


def draw_mixup(source: Source, batch_size: int, alpha: float, *, perm_source: torch.Generator | None = None) -> Mix:
    """lam ~ Beta(alpha, alpha), then a permutation; alpha 0 gives lam 1 and still draws the permutation.

    lam is not folded to >= 0.5 (MiSLAS). With `perm_source` the permutation is torch's, as published.
    """
    _not_negative("alpha", alpha)
    lam = float(source.beta(alpha, alpha)) if alpha > 0 else 1.0
    if perm_source is None:
        perm = np.asarray(source.permutation(batch_size), dtype=np.int64)
    else:
        perm = torch.randperm(batch_size, generator=perm_source).numpy()
    return Mix(lam, perm)


def draw_mix_timm(
    source: Source,
    shape: Sequence[int],
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: str = "batch",
) -> Mix:
    """timm 0.3.2's Mixup for a batch of `shape` [B, ..., H, W]; the partner is the batch reversed.

    Order of draws in mode `batch`: mix at all?, CutMix or mixup? (only where both are on), lam, then the
    box's row and column. Modes `pair` and `elem` draw these once for each pair and each image. timm insists
    on an even batch; in an odd one the middle image meets itself and stays what it is.
    """
    _not_negative("mixup_alpha", mixup_alpha)
    _not_negative("cutmix_alpha", cutmix_alpha)
    batch, height, width = int(shape[0]), int(shape[-2]), int(shape[-1])
    perm = np.arange(batch, dtype=np.int64)[::-1].copy()
    draw = pick("mixup mode", mode, _MODES)
    lam, boxes = draw(source, (batch, height, width), (mixup_alpha, cutmix_alpha), (prob, switch_prob))
    return Mix(lam, perm, boxes)


def apply(images: Tensor, mix: Mix) -> Tensor:
    """The mixed batch, a new tensor; `images` [B, ..., H, W] are floating point, already normalised."""
    perm = torch.from_numpy(mix.perm).to(images.device, non_blocking=True)
    if isinstance(mix.lam, np.ndarray):
        return _apply_each(images, mix, perm)
    if mix.boxes is not None:
        top, bottom, left, right = mix.boxes
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right][perm]
        return mixed
    if mix.lam == 1.0:
        return images.clone()
    return images * mix.lam + images[perm] * (1.0 - mix.lam)


def soft_targets(target: Tensor, num_classes: int, mix: Mix | None = None, smoothing: float = 0.0) -> Tensor:
    """[B, C] float32: lam * s(y) + (1 - lam) * s(y[perm]); s has 1 - e + e/C at y and e/C elsewhere."""
    off = smoothing / num_classes
    hot = torch.full((len(target), num_classes), off, dtype=torch.float32, device=target.device)
    hot.scatter_(1, target.long().view(-1, 1), 1.0 - smoothing + off)
    if mix is None:
        return hot
    partner = hot[torch.from_numpy(mix.perm).to(target.device, non_blocking=True)]
    if isinstance(mix.lam, np.ndarray):
        lam = torch.from_numpy(mix.lam).to(hot, non_blocking=True).view(-1, 1)
        return hot * lam + partner * (1.0 - lam)
    return hot * mix.lam + partner * (1.0 - mix.lam)


def draw_box(source: Source, *, height: int, width: int, lam: float) -> tuple[Box, float]:
    """CutMix's box for lam, and the lam that its clipped area leaves.

    timm 0.3.2: the box is [c - cut//2, c + cut//2], clipped. timm 1.0 ends it at c + (cut + 1)//2, which
    is another box for every odd cut.
    """
    ratio = np.sqrt(1.0 - lam)
    cut_h, cut_w = int(height * ratio), int(width * ratio)
    row = _integer(source, height)
    column = _integer(source, width)
    top, bottom = max(row - cut_h // 2, 0), min(row + cut_h // 2, height)
    left, right = max(column - cut_w // 2, 0), min(column + cut_w // 2, width)
    return (top, bottom, left, right), 1.0 - (bottom - top) * (right - left) / float(height * width)


def _draw_batch(
    source: Source, size: tuple[int, int, int], alphas: tuple[float, float], probs: tuple[float, float]
) -> tuple[float, Box | None]:
    mixup_alpha, cutmix_alpha = alphas
    if max(alphas) == 0 or not source.random() < probs[0]:
        return 1.0, None
    if min(alphas) > 0:
        cut = bool(source.random() < probs[1])
    else:
        cut = cutmix_alpha > 0
    alpha = cutmix_alpha if cut else mixup_alpha
    lam = float(source.beta(alpha, alpha))
    if not cut or lam == 1.0:
        return lam, None
    box, lam = draw_box(source, height=size[1], width=size[2], lam=lam)
    return lam, box


def _draw_rows(
    source: Source, size: tuple[int, int, int], alphas: tuple[float, float], probs: tuple[float, float]
) -> tuple[np.ndarray, tuple[Box | None, ...]]:
    """All switches, all CutMix lam, all mixup lam, all decisions to mix, then the boxes row by row."""
    rows, height, width = size
    mixup_alpha, cutmix_alpha = alphas
    lam, cut = np.ones(rows), np.zeros(rows, dtype=bool)
    if max(alphas) > 0:
        if min(alphas) > 0:
            cut = np.asarray(source.random(rows)) < probs[1]
            by_cut = source.beta(cutmix_alpha, cutmix_alpha, size=rows)
            drawn = np.where(cut, by_cut, source.beta(mixup_alpha, mixup_alpha, size=rows))
        else:
            cut[:] = cutmix_alpha > 0
            drawn = source.beta(max(alphas), max(alphas), size=rows)
        lam = np.where(np.asarray(source.random(rows)) < probs[0], drawn, 1.0)
    lam = lam.astype(np.float32)  # as timm: these modes cut their boxes from a float32 lam
    boxes: list[Box | None] = [None] * rows
    for row in np.flatnonzero(cut & (lam != 1.0)):
        boxes[row], lam[row] = draw_box(source, height=height, width=width, lam=lam[row])
    return lam, tuple(boxes)


def _draw_pairs(
    source: Source, size: tuple[int, int, int], alphas: tuple[float, float], probs: tuple[float, float]
) -> tuple[np.ndarray, tuple[Box | None, ...]]:
    batch, height, width = size
    lam, boxes = _draw_rows(source, (batch // 2, height, width), alphas, probs)
    middle = batch % 2
    lam = np.concatenate([lam, np.ones(middle, dtype=np.float32), lam[::-1]])
    return lam, boxes + (None,) * middle + boxes[::-1]


_MODES = {"batch": _draw_batch, "pair": _draw_pairs, "elem": _draw_rows}


def _apply_each(images: Tensor, mix: Mix, perm: Tensor) -> Tensor:
    partner = images[perm]
    boxes = mix.boxes or (None,) * len(images)
    blend = np.array([1.0 if box else lam for lam, box in zip(mix.lam, boxes, strict=True)])
    column = (-1,) + (1,) * (images.ndim - 1)
    kept = torch.from_numpy(blend).to(images, non_blocking=True).view(column)
    shared = torch.from_numpy(1.0 - blend).to(images, non_blocking=True).view(column)
    mixed = images * kept + partner * shared
    for row, box in enumerate(boxes):
        if box is not None:
            top, bottom, left, right = box
            mixed[row, ..., top:bottom, left:right] = partner[row, ..., top:bottom, left:right]
    return mixed


def _integer(source: Source, high: int) -> int:
    if isinstance(source, np.random.Generator):
        return int(source.integers(0, high))
    return int(source.randint(0, high))


def _not_negative(name: str, value: float) -> None:
    if not value >= 0 or math.isinf(value):
        raise UserError(f"mixup: {name} is {value}; expected a number >= 0 (0 turns it off)")
