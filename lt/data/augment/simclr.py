"""SimCLR's two views as IP-DPP draws them, for images in memory and for files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lt.data.augment import colour, draws
from lt.data.augment import pil_ops as ops
from lt.data.augment.presets import Image_, Preset, functional
from lt.errors import UserError

CACHED = 128  # images of a CPU batch whose float planes stay in the second-level cache


class SimClr(Preset):
    """Resized crop, flip, jitter, grey, blur (always, truncated to uint8); `views` of each image.

    `jitter_strength` is what the published option `num_views` really sets: 2 or 1. Grey images stay grey: on
    three equal channels saturation, hue and greyscale change nothing. Small pictures of things that a mirror or
    a crop of a twelfth turns into others take `mirror: false` and a narrower `scale`.
    """

    views = 2
    _view = draws.CROP_COLUMNS + 1 + 1 + draws.JITTER_COLUMNS + 2

    def __init__(
        self,
        *,
        size: int = 32,
        jitter_strength: float = 2.0,
        views: int = 2,
        scale: Sequence[float] = (0.08, 1.0),
        mirror: bool = True,
        **stats,
    ):
        super().__init__(**stats)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"augmentation 'simclr': scale is {list(scale)}; expected shares of the area, [0.08, 1.0]")
        self.size, self.views, self.columns = size, views, views * self._view
        self.scale, self.mirror = (float(scale[0]), float(scale[1])), mirror
        self.ranges = draws.jitter_ranges(jitter_strength)
        self.radius = int(0.1 * size) // 2

    def parameters(self, source: draws.Source, height: int, width: int) -> dict:
        box = draws.resized_crop_box(source.block(draws.CROP_COLUMNS), height, width, scale=self.scale)
        mirrored = source.flip() and self.mirror
        jittered = source.chance(0.8)
        part = source.block(draws.JITTER_COLUMNS)
        steps = draws.jitter(part, self.ranges) if jittered else []
        grey = source.chance(0.2)
        return {
            "box": box,
            "flip": mirrored,
            "jitter": steps,
            "grey": grey,
            "sigma": source.uniform(0.1, 2.0),
        }

    def _planes(self, images: Tensor, rows: Tensor) -> Tensor:
        """Cropped, resized, perhaps mirrored: [C, B, size, size]."""
        boxes = draws.resized_crop_batch(rows, *images.shape[2:], scale=self.scale)
        mirrored = (rows[:, draws.CROP_COLUMNS] < 0.5) & self.mirror
        return colour.resized_crop(images, boxes, size=self.size, mirrored=mirrored)

    def _one_view(self, images: Tensor, rows: Tensor) -> Tensor:
        c, channels = draws.CROP_COLUMNS, images.shape[1]
        rows = rows.double()
        planes = self._planes(images, rows)
        if channels == 1:
            planes = planes.repeat(3, 1, 1, 1)
        order = colour.ORDERS[(rows[:, c + 2] * len(colour.ORDERS)).long()]
        low, high = torch.tensor(self.ranges, dtype=torch.float64).unbind(1)
        factors = low + (high - low) * rows[:, c + 3 : c + 7]
        planes = colour.colour_jitter(planes, factors, order, rows[:, c + 1] < 0.8)
        planes = colour.greyscale(
            planes, torch.nonzero(rows[:, c + 7] < 0.2).squeeze(1).to(images.device, non_blocking=True)
        )[:channels]
        if self.radius:
            planes = colour.blur(planes, 0.1 + (2.0 - 0.1) * rows[:, c + 8], radius=self.radius)
        return self.normalise(planes.transpose(0, 1).contiguous())

    def _split(self, images: Tensor) -> tuple[Tensor, ...]:
        """What each view starts from."""
        return (images,) * self.views

    def batch(self, images: Tensor, rows: Tensor) -> Tensor | tuple[Tensor, ...]:
        step = CACHED if images.device.type == "cpu" else max(len(images), 1)
        views = tuple(
            torch.cat([self._one_view(*pair) for pair in zip(start.split(step), part.split(step), strict=True)])
            for start, part in zip(self._split(images), rows.split(self._view, 1), strict=True)
        )
        return views if self.views > 1 else views[0]

    def apply_reference(self, image: Image_, drawn: dict) -> Image_:
        TF = functional()
        adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
        image = TF.resized_crop(image, *drawn["box"], [self.size, self.size])
        image = TF.hflip(image) if drawn["flip"] else image
        for op, factor in drawn["jitter"]:
            image = adjust[op](image, factor)
        image = TF.to_grayscale(image, 3) if drawn["grey"] else image
        return blur_reference(image, drawn["sigma"], self.radius) if self.radius else image

    def reference(self, image: Image_, row: Sequence[float]) -> Tensor | tuple[Tensor, ...]:
        source = draws.Row(row)
        views = []
        for _ in range(self.views):
            drawn = self.parameters(source.block(self._view), image.height, image.width)
            views.append(self.normalise_reference(self.apply_reference(image, drawn)))
        return tuple(views) if self.views > 1 else views[0]


class SimClrLarge(SimClr):
    """The same for files of any size: each view is cropped per image, in workers; the colours stay batched."""

    per_image = True

    def sample(self, image: Image_, row: Sequence[float]) -> Tensor:
        """The views' crops, one above the other: uint8 [views C, size, size]."""
        source, crops = draws.Row(row), []
        for _ in range(self.views):
            drawn = self.parameters(source.block(self._view), image.height, image.width)
            crop = ops.resized_crop(image, drawn["box"], self.size, ops.RESAMPLE["bilinear"])
            crops.append(ops.to_tensor(ops.mirror(crop) if drawn["flip"] else crop))
        return torch.cat(crops)

    def _planes(self, images: Tensor, rows: Tensor) -> Tensor:
        return images.float().transpose(0, 1).contiguous()

    def _split(self, images: Tensor) -> tuple[Tensor, ...]:
        return images.split(images.shape[1] // self.views, 1)


def blur_reference(image: Image_, sigma: float, radius: int) -> Image_:
    """Two depthwise convolutions of x / 255 with reflected borders, then truncation to uint8."""
    taps = colour.blur_kernel(torch.tensor([sigma], dtype=torch.float64), radius)[0].float()
    pixels = ops.to_tensor(image).float().div(255).unsqueeze(1)
    pixels = torch.nn.functional.pad(pixels, (radius,) * 4, mode="reflect")
    pixels = torch.nn.functional.conv2d(pixels, taps.view(1, 1, 1, -1))
    pixels = torch.nn.functional.conv2d(pixels, taps.view(1, 1, -1, 1)).squeeze(1)
    return ops.to_pil(pixels.mul(255).clamp(0, 255).byte())
