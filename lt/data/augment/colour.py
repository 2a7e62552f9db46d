"""Batched resized crop, colour and blur that keep Pillow's uint8 arithmetic (float tensors of whole grey levels).

Every operation of the ordinary chain ends in uint8; rounding at the same places gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lt.data.augment import draws

ORDERS = torch.tensor(draws.ORDERS)


def _resize_weights(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """[B, out, size]: Pillow's triangle filter from pixels start..start+length-1 to `out` pixels."""
    scale = (length.double() / out).view(-1, 1, 1)
    stretch = scale.clamp(min=1.0)  # antialias when shrinking
    centre = (torch.arange(out).view(1, -1, 1) + 0.5) * scale + start.view(-1, 1, 1)
    pixel = torch.arange(size).view(1, 1, -1)
    inside = (pixel >= start.view(-1, 1, 1)) & (pixel < (start + length).view(-1, 1, 1))
    weight = (1 - ((pixel + 0.5 - centre) / stretch).abs()).clamp(min=0) * inside
    return (weight / weight.sum(2, keepdim=True)).float()


def resized_crop(images: Tensor, boxes: Tensor, *, size: int, mirrored: Tensor) -> Tensor:
    """Bilinear crop of boxes (top, left, height, width) [B, 4] to size x size, flipped where `mirrored`.

    `boxes` and `mirrored` on the CPU; whole grey levels as float32 come back.
    """
    batch, channels, height, width = images.shape
    top, left, tall, wide = boxes.unbind(1)
    across = _resize_weights(left, wide, width, size)
    across = torch.where(mirrored.view(-1, 1, 1), across.flip(1), across).to(images.device)
    down = _resize_weights(top, tall, height, size).to(images.device)
    rows = images.float().view(batch, channels * height, width)
    rows = torch.bmm(rows, across.transpose(1, 2)).add_(0.5).floor_().view(batch, channels, height, size)
    columns = rows.transpose(1, 2).reshape(batch, height, channels * size)
    out = torch.bmm(down, columns).add_(0.5).floor_()
    return out.view(batch, size, channels, size).transpose(1, 2).contiguous()


def _grey(images: Tensor) -> Tensor:
    """ITU-R 601 luma in Pillow's 16-bit fixed point; [B, 1, H, W]."""
    red, green, blue = images.unbind(1)  # products stay below 2^24: exact in float32
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536).floor_().unsqueeze(1)


def _blend(base: Tensor | float, images: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (base + factor * (images - base)).clamp_(0, 255).floor_()


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(0.0, images, factor)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = (_grey(images).mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return _blend(mean, images, factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(images), images, factor)


def _hue_saturation(images: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Pillow's uint8 hue and saturation: float32 quotients, truncated after a float64 product."""
    red, green, blue = images.unbind(1)
    spread = value - images.amin(1)
    divisor = spread.clamp(min=1)
    r, g, b = (value - red) / divisor, (value - green) / divisor, (value - blue) / divisor
    sixth = torch.where(red == value, b - g, torch.where(green == value, 2 + r - b, 4 + g - r))
    turns = sixth.double().div_(6).add_(1)
    turns = turns.sub_(turns.floor()).float()  # to [0, 1), rounded as Pillow stores it
    hue = turns.double().mul_(255).floor_().float() * (spread > 0)
    return hue, (spread / value.clamp(min=1)).double().mul_(255).floor_().float()


def _hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn by int(255 factor) of 256 steps in Pillow's uint8 HSV.

    Back to RGB: channel = value (1 - saturation w), w the distance of the channel's sector cut to [0, 1].
    """
    value = images.amax(1)
    hue, saturation = _hue_saturation(images, value)
    hue = hue + (factor.double() * 255).trunc().remainder(256).float().view(-1, 1, 1)
    hue = (hue - 256 * (hue >= 256)) * 6 / 255
    depth = value * saturation / 255
    out = torch.empty_like(images)
    for channel, sector in enumerate((5, 3, 1)):
        place = hue + sector
        place = place - 6 * (place >= 6)
        share = torch.minimum(place, 4 - place).clamp_(0, 1)
        torch.floor(value - depth * share + 0.5, out=out[:, channel])
    return out


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)


def colour_jitter(images: Tensor, factors: Tensor, order: Tensor, active: Tensor) -> Tensor:
    """Four operations on each image in its own order; float32 whole grey levels in and out.

    `factors` [B, 4], `order` [B, 4] (operation at each place) and `active` [B] live on the CPU, so that choosing
    the images of an operation never waits for the device.
    """
    images = images.clone()
    moved = factors.float().to(images.device)
    for place in range(4):
        for number, operation in enumerate(OPERATIONS):
            which = torch.nonzero(active & (order[:, place] == number)).squeeze(1).to(images.device)
            if len(which):
                images[which] = operation(images[which], moved[which, number])
    return images


def greyscale(images: Tensor, which: Tensor) -> Tensor:
    return torch.where(which.view(-1, 1, 1, 1), _grey(images), images)


def blur_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Normalised Gaussian taps at -radius..radius: [B, 2 radius + 1]."""
    x = torch.arange(-radius, radius + 1, device=sigma.device)
    taps = torch.exp(-(x**2) / (2 * sigma.view(-1, 1) ** 2))
    return taps / taps.sum(1, keepdim=True)


def _slide(images: Tensor, taps: Tensor, dim: int) -> Tensor:
    """One pass of the separable blur along `dim`, reflecting at the borders."""
    radius = taps.shape[1] // 2
    pad = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
    padded, size = F.pad(images, pad, mode="reflect"), images.shape[dim]
    weights = taps.t().reshape(-1, len(images), 1, 1, 1)
    out = padded.narrow(dim, 0, size) * weights[0]
    for tap in range(1, 2 * radius + 1):
        out += padded.narrow(dim, tap, size) * weights[tap]
    return out


def blur(images: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """Separable Gaussian blur, reflecting borders, back to whole grey levels by truncation (as published)."""
    taps = blur_kernel(sigma, radius).float()
    return (_slide(_slide(images / 255, taps, 3), taps, 2) * 255).clamp_(0, 255).floor_()
