"""Single operations on one Pillow image, under given parameters; no draws here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

Fill = tuple[int, ...]
RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 [C, H, W]."""
    pixels = np.array(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def to_pil(image: Tensor | np.ndarray | Image.Image) -> Image.Image:
    """From uint8 [C, H, W] with one or three channels."""
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def from_pixels(pixels: np.ndarray, channels: int) -> Image.Image:
    """From uint8 [H, W, 3]."""
    image = Image.fromarray(pixels)
    return image if channels == 3 else image.convert("L")


def resized_crop(image: Image.Image, box: Sequence[int], size: int, resample: Image.Resampling) -> Image.Image:
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height)).resize((size, size), resample)


def resize_short(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    width, height = image.size
    if width <= height:
        return image.resize((size, int(size * height / width)), resample)
    return image.resize((int(size * width / height), size), resample)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def pad_crop(image: Image.Image, top: int, left: int, pad: int) -> Image.Image:
    """The image's own size cut from its zero-padded form."""
    width, height = image.size
    return image.crop((left - pad, top - pad, left - pad + width, top - pad + height))


def reflect_pad(image: Image.Image, pad: int) -> Image.Image:
    pixels = np.asarray(image)
    return Image.fromarray(np.pad(pixels, ((pad, pad), (pad, pad)) + ((0, 0),) * (pixels.ndim - 2), "reflect"))


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def enhance(image: Image.Image, kind: str, factor: float) -> Image.Image:
    return ENHANCERS[kind](image).enhance(factor)


JITTER = ("brightness", "contrast", "color")  # the places 0, 1, 2 of draws.ORDERS


def jitter(image: Image.Image, steps: Sequence[tuple[int, float]]) -> Image.Image:
    for op, factor in steps:
        image = enhance(image, JITTER[op], factor)
    return image


def affine(image: Image.Image, matrix: Sequence[float], resample: Image.Resampling, fill: Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, tuple(matrix), resample, fillcolor=fill)


def shear_x(image: Image.Image, factor: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    return affine(image, (1, factor, 0, 0, 1, 0), resample, fill)


def shear_y(image: Image.Image, factor: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    return affine(image, (1, 0, 0, factor, 1, 0), resample, fill)


def translate_x(image: Image.Image, share: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    return affine(image, (1, 0, share * image.size[0], 0, 1, 0), resample, fill)


def translate_y(image: Image.Image, share: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    return affine(image, (1, 0, 0, 0, 1, share * image.size[1]), resample, fill)


def rotate_alpha(image: Image.Image, degrees: float, fill: Fill) -> Image.Image:
    """AutoAugment's rotation: nearest pixel, corners filled through an alpha channel."""
    turned = image.convert("RGBA").rotate(degrees)
    return Image.composite(turned, Image.new("RGBA", turned.size, (*fill, fill[0])), turned).convert(image.mode)


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the upper `bits` bits; 0 bits is black, which Pillow's own function refuses since version 13."""
    mask = 0xFF & ~(2 ** (8 - bits) - 1)
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    return ImageOps.solarize(image, threshold)


def solarize_add(image: Image.Image, amount: int, threshold: int = 128) -> Image.Image:
    table = [min(255, value + amount) if value < threshold else value for value in range(256)]
    return image.point(table * len(image.getbands()))
