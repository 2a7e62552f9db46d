"""From draws to parameters. A drawing function takes its source as an argument.

The product passes `Row`, the uniforms of one sample in the epoch's table; a parity test passes an object with
the same methods over `random`, `numpy.random` or `torch`. Batched presets compute the same parameters from
many rows at once (`*_batch`), in float64 so that both ways round alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

ORDERS = tuple(itertools.permutations(range(4)))  # of brightness, contrast, saturation, hue
TRIES = 10  # of a crop or an erased box before giving up (torchvision, timm)
CROP_COLUMNS = 2 * TRIES + 2
JITTER_COLUMNS = 5
Box = tuple[int, int, int, int]  # top, left, height, width


class Source(Protocol):
    def uniform(self, low: float, high: float) -> float: ...
    def below(self, n: int) -> int: ...
    def chance(self, p: float) -> bool: ...
    def flip(self) -> bool: ...
    def sign(self) -> int: ...
    def gauss(self, mean: float, std: float) -> float: ...
    def order(self) -> tuple[int, ...]: ...
    def picks(self, n: int, k: int) -> list[int]: ...
    def block(self, width: int) -> Source: ...


class Row:
    """One sample's uniforms in [0, 1), taken from left to right."""

    def __init__(self, values: Sequence[float]):
        self._values = values if type(values) is list else np.asarray(values, dtype=np.float64).tolist()
        self._next = 0

    def _take(self) -> float:
        self._next += 1
        return self._values[self._next - 1]

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._take()

    def below(self, n: int) -> int:
        return int(self._take() * n)

    def chance(self, p: float) -> bool:
        return self._take() < p

    def flip(self) -> bool:
        """Whether to mirror; by itself, because published pipelines draw it from another generator."""
        return self.chance(0.5)

    def sign(self) -> int:
        return -1 if self._take() < 0.5 else 1

    def gauss(self, mean: float, std: float) -> float:
        edge = 2.0**-25  # half a step of a float32 uniform: keeps the quantile finite at 0
        return NormalDist(mean, std).inv_cdf(min(max(self._take(), edge), 1 - edge))

    def order(self) -> tuple[int, ...]:
        return ORDERS[self.below(len(ORDERS))]

    def picks(self, n: int, k: int) -> list[int]:
        return [self.below(n) for _ in range(k)]

    def block(self, width: int) -> Row:
        """The next `width` columns as a row: what comes after does not shift if fewer are used."""
        part = Row(self._values[self._next : self._next + width])
        self._next += width
        return part


def crop_offset(source: Source, slack_y: int, slack_x: int) -> tuple[int, int]:
    return source.below(slack_y + 1), source.below(slack_x + 1)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """The largest central box whose aspect lies in `ratio`: what is taken when every try failed."""
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop_box(
    source: Source,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """RandomResizedCrop: area uniform in `scale`, log aspect in `ratio`, ten tries, then the centre."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        area = height * width * source.uniform(*scale)
        aspect = math.exp(source.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = crop_offset(source, height - h, width - w)
            return top, left, h, w
    return _central_box(height, width, ratio)


def resized_crop_batch(
    rows: Tensor,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """`resized_crop_box` of many rows [B, CROP_COLUMNS] at once: int64 [B, 4]."""
    u = rows[:, :CROP_COLUMNS].double()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, 0 : 2 * TRIES : 2])
    aspect = torch.exp(low + (high - low) * u[:, 1 : 2 * TRIES : 2])
    w, h = torch.sqrt(area * aspect).round().long(), torch.sqrt(area / aspect).round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first), h.gather(1, first)
    top = (u.gather(1, 2 * first + 2) * (height - h + 1)).long()
    left = (u.gather(1, 2 * first + 3) * (width - w + 1)).long()
    boxes = torch.cat([top, left, h, w], 1)
    centre = torch.tensor(_central_box(height, width, ratio))
    return torch.where(fits.any(1, keepdim=True), boxes, centre)


def jitter(source: Source, ranges: Sequence[tuple[float, float] | None]) -> list[tuple[int, float]]:
    """(operation, factor) in drawn order; operations as in ORDERS; a range of None leaves one out."""
    order = source.order()
    factors = [None if span is None else source.uniform(*span) for span in ranges]
    return [(op, factors[op]) for op in order if factors[op] is not None]


def jitter_ranges(strength: float) -> tuple[tuple[float, float], ...]:
    """SimCLR's colour strength s: brightness, contrast, saturation 1 +- 0.8 s (not below 0), hue +- 0.2 s."""
    span = (max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength)
    return (span, span, span, (-0.2 * strength, 0.2 * strength))


ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)


def erase_box(source: Source, height: int, width: int, *, p: float) -> Box | None:
    """Random erasing: with probability `p` a box of ERASE_AREA of the image, smaller on both sides."""
    if not source.chance(p):
        return None
    low, high = math.log(ERASE_ASPECT[0]), math.log(ERASE_ASPECT[1])
    for _ in range(TRIES):
        area = source.uniform(*ERASE_AREA) * height * width
        aspect = math.exp(source.uniform(low, high))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w < width and h < height:
            top, left = crop_offset(source, height - h, width - w)
            return top, left, h, w
    return None
