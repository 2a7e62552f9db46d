"""What happens to one image (`sample`), to a batch (`batch`), and the ordinary way (`reference`).

Images that are equal in size stay one uint8 tensor and are augmented as a batch. What only Pillow does the
published way (AutoAugment, RandAugment, resized crops of files) happens per image, in workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lt.data.augment import batched, colour, draws, fast, policies
from lt.data.augment import pil_ops as ops
from lt.errors import UserError, pick

Image_ = Image.Image


def functional() -> Any:
    """torchvision's functions, imported where a reference is asked for: start-up is paid by every job."""
    import lt.compat  # noqa: F401, I001  (first: torchvision may not import without it)
    from torchvision.transforms import functional as TF

    return TF


class Preset:
    """Base: no augmentation, normalise only. `mean=None` keeps x / 255."""

    columns = 0  # uniforms per sample
    views = 1
    per_image = False  # whether `sample` does anything, so that workers pay
    fast = False  # whether `sample` takes images as arrays [H, W, C] instead of Pillow's

    def __init__(self, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        self.mean, self.std = tuple(mean or (0.0,)), tuple(std or (1.0,))
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def sample(self, image: Image_, row: Sequence[float]) -> Tensor:
        """Per-image part: uint8 [C, H, W]."""
        return ops.to_tensor(image)

    def batch(self, images: Tensor, rows: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Batched part: uint8 [B, C, H, W] and its rows [B, columns] (on the CPU) to normalised floats."""
        return self.normalise(images)

    def reference(self, image: Image_, row: Sequence[float]) -> Tensor | tuple[Tensor, ...]:
        """One image the ordinary torchvision way under the same draws: float [C, H, W]."""
        return self.normalise_reference(image)

    def normalise(self, images: Tensor) -> Tensor:
        device = images.device
        if device not in self._constants:
            mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (self.mean, self.std))
            self._constants[device] = ((1 / (255 * std)).float().to(device), (mean / std).float().to(device))
        return batched.normalise(images, *self._constants[device])

    def normalise_reference(self, image: Image_) -> Tensor:
        TF = functional()
        tensor = TF.to_tensor(image)
        channels = len(tensor)
        mean, std = (v if len(v) == channels else v * channels for v in (self.mean, self.std))
        return TF.normalize(tensor, mean, std)


class CropFlip(Preset):
    """Zero padding, random crop of the image's own size, flip; with `degrees`, rotation by +- that (RIDE).

    Digits are no digits in a mirror: `mirror: false` there.
    """

    def __init__(self, *, pad: int = 4, degrees: float = 0.0, mirror: bool = True, **stats):
        super().__init__(**stats)
        self.pad, self.degrees, self.mirror = pad, degrees, mirror
        self.columns = 4 if degrees else 3

    def parameters(self, source: draws.Source) -> tuple[int, int, bool, float]:
        top, left = draws.crop_offset(source, 2 * self.pad, 2 * self.pad)
        mirrored = source.flip() and self.mirror
        return top, left, mirrored, source.uniform(-self.degrees, self.degrees) if self.degrees else 0.0

    def batch(self, images: Tensor, rows: Tensor) -> Tensor:
        rows = rows.double()
        offsets = (rows[:, :2] * (2 * self.pad + 1)).long()
        mirrored = ((rows[:, 2:3] < 0.5) & self.mirror).long()
        top, left, which = torch.cat([offsets, mirrored], 1).to(images.device, non_blocking=True).unbind(1)
        images = batched.crop_flip(images, top, left, which, pad=self.pad)
        if self.degrees:
            images = batched.rotate(images, (-self.degrees + 2 * self.degrees * rows[:, 3]).tolist())
        return self.normalise(images)

    def apply_reference(self, image: Image_, top: int, left: int, mirrored: bool, degrees: float) -> Image_:
        TF = functional()
        image = TF.crop(TF.pad(image, self.pad), top, left, image.height, image.width)
        image = TF.hflip(image) if mirrored else image
        return TF.rotate(image, degrees) if self.degrees else image

    def reference(self, image: Image_, row: Sequence[float]) -> Tensor:
        return self.normalise_reference(self.apply_reference(image, *self.parameters(draws.Row(row))))


class AutoAugmentCutout(Preset):
    """BaGMar on CIFAR: crop, flip, AutoAugment (Pillow, per image); Cutout before normalising (batched)."""

    per_image = True
    columns = 3 + policies.AUTOAUGMENT_COLUMNS + 2

    def __init__(self, *, pad: int = 4, length: int = 16, **stats):
        super().__init__(**stats)
        self.pad, self.length = pad, length

    def parameters(self, source: draws.Source) -> tuple[int, int, bool, list[policies.Step]]:
        top, left = draws.crop_offset(source, 2 * self.pad, 2 * self.pad)
        return top, left, source.flip(), policies.autoaugment_steps(source)

    def apply(self, image: Image_, top: int, left: int, mirrored: bool, steps: list[policies.Step]) -> Image_:
        image = ops.pad_crop(image, top, left, self.pad)
        return policies.apply_autoaugment(ops.mirror(image) if mirrored else image, steps)

    def sample(self, image: Image_, row: Sequence[float]) -> Tensor:
        return ops.to_tensor(self.apply(image, *self.parameters(draws.Row(row))))

    def batch(self, images: Tensor, rows: Tensor) -> Tensor:
        size = torch.tensor(images.shape[2:])
        y, x = (rows[:, -2:].double() * size).long().to(images.device, non_blocking=True).unbind(1)
        return self.normalise(batched.cutout(images, y, x, length=self.length))

    def reference(self, image: Image_, row: Sequence[float]) -> Tensor:
        image = self.apply(image, *self.parameters(draws.Row(row)))
        end = draws.Row(row[-2:])
        y, x, half = end.below(image.height), end.below(image.width), self.length // 2
        tensor = ops.to_tensor(image).float().div(255)
        tensor[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (tensor - mean) / std


class Large(Preset):
    """Files: resized crop, flip, then optional jitter, RandAugment and (batched) random erasing.

    `fast`: torch resizes, within 1/255 of Pillow, and a jitter that nothing follows is done in the batch. The draws
    are the same.
    """

    per_image = True

    def __init__(
        self,
        *,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
        reflect: int = 0,
        jitter: float = 0.0,
        operations: tuple[policies.Level, ...] = (),
        magnitude: float = 0.0,
        resamples: tuple[str, ...] = ("bicubic",),
        fill: tuple[int, ...] | None = None,
        p_erase: float = 0.0,
        fast: bool = False,
        **stats,
    ):
        super().__init__(**stats)
        self.size, self.scale, self.reflect, self.fast = size, tuple(scale), reflect, fast
        self.interpolation = interpolation
        self.resample = pick("interpolation", interpolation, ops.RESAMPLE)
        span = (1 - jitter, 1 + jitter)
        self.ranges = (span, span, span, None) if jitter else None
        self.operations, self.magnitude, self.resamples = operations, magnitude, resamples
        self.fill = fill or tuple(min(255, round(255 * v)) for v in self.mean)
        self.p_erase = p_erase
        self.late_jitter = fast and bool(jitter) and not operations
        self._erase_from = draws.CROP_COLUMNS + 1
        self._erase_from += draws.JITTER_COLUMNS if jitter else 0
        self._erase_from += policies.RANDAUGMENT_COLUMNS if operations else 0
        self.columns = self._erase_from + (1 + draws.CROP_COLUMNS + 2 if p_erase else 0)

    def parameters(self, source: draws.Source, height: int, width: int) -> dict:
        drawn: dict = {"box": draws.resized_crop_box(source.block(draws.CROP_COLUMNS), height, width, scale=self.scale)}
        drawn["flip"] = source.flip()
        drawn["jitter"] = draws.jitter(source.block(draws.JITTER_COLUMNS), self.ranges) if self.ranges else []
        drawn["steps"] = []
        if self.operations:
            part = source.block(policies.RANDAUGMENT_COLUMNS)
            drawn["steps"] = policies.randaugment_steps(
                part, self.operations, magnitude=self.magnitude, resamples=self.resamples
            )
        return drawn

    def apply(self, image: Image_, drawn: dict) -> Image_:
        image = ops.resized_crop(image, drawn["box"], self.size, self.resample)
        return self.recolour(ops.mirror(image) if drawn["flip"] else image, drawn)

    def recolour(self, image: Image_, drawn: dict) -> Image_:
        image = ops.jitter(image, drawn["jitter"])
        for name, argument, resample in drawn["steps"]:
            image = policies.apply_step(image, name, argument, resample=resample, fill=self.fill)
        return image

    def draw_and_apply(self, image: Image_, row: Sequence[float]) -> Image_:
        image = ops.reflect_pad(image, self.reflect) if self.reflect else image
        return self.apply(image, self.parameters(draws.Row(row), image.height, image.width))

    def sample(self, image: Image_ | np.ndarray, row: Sequence[float]) -> Tensor:
        return self._fast_sample(image, row) if self.fast else ops.to_tensor(self.draw_and_apply(image, row))

    def _fast_sample(self, pixels: np.ndarray, row: Sequence[float]) -> Tensor:
        edge = ((self.reflect, self.reflect), (self.reflect, self.reflect), (0, 0))
        pixels = np.pad(pixels, edge[: pixels.ndim], "reflect") if self.reflect else pixels
        drawn = self.parameters(draws.Row(row), *pixels.shape[:2])
        out = fast.resized_crop(pixels, drawn["box"], self.size, self.interpolation, drawn["flip"])
        if self.late_jitter or not (drawn["jitter"] or drawn["steps"]):
            return out
        return ops.to_tensor(self.recolour(ops.to_pil(out), drawn))

    def jitter_batch(self, images: Tensor, rows: Tensor) -> Tensor:
        """The same factors in the same order as one image at a time, on the device."""
        drawn = rows[:, draws.CROP_COLUMNS + 1 :].double()
        low, high = self.ranges[0]
        factors = torch.cat([low + (high - low) * drawn[:, 1:4], torch.zeros(len(rows), 1)], 1)
        order = colour.ORDERS[(drawn[:, 0] * len(draws.ORDERS)).long()]
        order = order.masked_fill(order == 3, -1)  # no hue
        planes = images.float().transpose(0, 1).contiguous()
        active = torch.ones(len(rows), dtype=torch.bool)
        return colour.colour_jitter(planes, factors, order, active).transpose(0, 1)

    def erasures(self, rows: Tensor, height: int, width: int) -> tuple[list[int], list[draws.Box], list[int]]:
        """Which samples lose a box, the boxes, and the keys of the noise in them."""
        which, boxes, keys = [], [], []
        for number in torch.nonzero(rows[:, self._erase_from] < self.p_erase).flatten().tolist():
            row = rows[number, self._erase_from :].tolist()
            box = draws.erase_box(draws.Row(row), height, width, p=self.p_erase)
            if box is not None:
                which.append(number)
                boxes.append(box)
                keys.append(int(row[-2] * 2**24) << 24 | int(row[-1] * 2**24))
        return which, boxes, keys

    def batch(self, images: Tensor, rows: Tensor) -> Tensor:
        out = self.normalise(self.jitter_batch(images, rows) if self.late_jitter else images)
        which, boxes, keys = self.erasures(rows, *images.shape[2:]) if self.p_erase else ([], [], [])
        if which:
            chosen, where, key = (torch.tensor(v).to(out.device, non_blocking=True) for v in (which, boxes, keys))
            out[chosen] = batched.erase(out[chosen], where, batched.pixel_noise(key, tuple(out.shape[1:])))
        return out

    def reference(self, image: Image_, row: Sequence[float]) -> Tensor:
        out = self.normalise_reference(self.draw_and_apply(image, row))
        which, boxes, keys = self.erasures(torch.tensor([list(row)]), *out.shape[1:]) if self.p_erase else ([], [], [])
        if which:
            top, left, height, width = boxes[0]
            noise = batched.pixel_noise(torch.tensor(keys), tuple(out.shape))[0]
            window = (slice(None), slice(top, top + height), slice(left, left + width))
            out[window] = noise[window]
        return out


class EvalLarge(Preset):
    """Short side to `resize`, centre crop of `size`; resize = size / 0.875 up to 224, size above (MAE's rule)."""

    per_image = True

    def __init__(
        self,
        *,
        size: int = 224,
        resize: int | None = None,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
        fast: bool = False,
        **stats,
    ):
        super().__init__(**stats)
        self.size, self.fast = size, fast
        self.resize = resize or (int(size / 0.875) if size <= 224 else size)
        self.interpolation = interpolation
        self.resample = pick("interpolation", interpolation, ops.RESAMPLE)
        if self.resize < self.size:
            raise UserError(f"augmentation 'eval_large': resize {self.resize} is smaller than size {self.size}")

    def sample(self, image: Image_ | np.ndarray, row: Sequence[float]) -> Tensor:
        if self.fast:
            return fast.centre_crop(image, self.resize, self.size, self.interpolation)
        return ops.to_tensor(ops.centre_crop(ops.resize_short(image, self.resize, self.resample), self.size))

    def reference(self, image: Image_, row: Sequence[float]) -> Tensor:
        TF = functional()
        image = TF.resize(image, [self.resize], TF.InterpolationMode(self.interpolation))
        return self.normalise_reference(TF.center_crop(image, [self.size, self.size]))
