"""Crops and resizes of decoded images by torch's uint8 kernels with antialias.

Within 1/255 of Pillow's, but for a few values in a million (bicubic: one in 10,000) that are 2/255 off: torch's weights
have 16 bits, Pillow's 22.

A numpy image [H, W, 3] (or [H, W]) goes in as it was decoded, a view of a packed file included; only the part that is
resized is copied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Pixels of a file or of a memory map are read-only; here they are only ever copied.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


def planes(pixels: np.ndarray, mirror: bool = False) -> Tensor:
    """uint8 [H, W, C] as [1, C, H, W], channels last. Copied: a resize would copy a part by itself, but slowly."""
    image = torch.from_numpy(pixels).flip(1) if mirror else torch.from_numpy(pixels.copy())
    return (image if image.ndim == 3 else image.unsqueeze(2)).unsqueeze(0).permute(0, 3, 1, 2)


def stack(samples: Iterable[Tensor], count: int) -> Tensor:
    """[B, C, H, W], channels last as the samples are; each is let go before the next one is made.

    By numpy, whose copies start sooner and whose large arrays lie on huge pages: the first write to a page costs more
    than what is written to it.
    """
    out: np.ndarray | None = None
    for number, sample in enumerate(samples):
        pixels = sample.numpy().transpose(1, 2, 0)
        out = np.empty((count, *pixels.shape), dtype=pixels.dtype) if out is None else out
        out[number] = pixels
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _resize(pixels: np.ndarray, height: int, width: int, mode: str, mirror: bool = False) -> Tensor:
    image, (rows, columns) = planes(pixels, mirror), pixels.shape[:2]
    if (rows, columns) == (height, width):
        return image
    if rows > height and columns < width:  # Pillow's order there; otherwise rows come first
        image = F.interpolate(image, size=(height, columns), mode=mode, antialias=True, align_corners=False)
    return F.interpolate(image, size=(height, width), mode=mode, antialias=True, align_corners=False)


def resized_crop(pixels: np.ndarray, box: Sequence[int], size: int, mode: str, mirror: bool = False) -> Tensor:
    """uint8 [C, size, size] of the box (top, left, height, width)."""
    top, left, height, width = box
    return _resize(pixels[top : top + height, left : left + width], size, size, mode, mirror).squeeze(0)


def centre_crop(pixels: np.ndarray, resize: int, size: int, mode: str) -> Tensor:
    """Short side to `resize`, then the centre: uint8 [C, size, size]. Sizes and offsets round as in `pil_ops`."""
    height, width = pixels.shape[:2]
    if width <= height:
        height, width = int(resize * height / width), resize
    else:
        height, width = resize, int(resize * width / height)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return _resize(pixels, height, width, mode)[0, :, top : top + size, left : left + size]
