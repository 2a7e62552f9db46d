"""Batched resized crop, colour and blur that keep Pillow's uint8 arithmetic (floats of whole grey levels).

Every operation of the ordinary chain ends in uint8; rounding at the same places gives the same pixels, but
for the rare value on a rounding edge. Planes lead, [C, B, H, W], so that a colour channel is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lt.data.augment import draws

ORDERS = torch.tensor(draws.ORDERS)


def _filter(planes: Tensor, down: Tensor, across: Tensor, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows, then columns, of every image through its own matrices [B, out, in]; `finish` after each pass.

    On a GPU in float64: reduced-precision products (TF32) would move grey levels.
    """
    dtype = torch.float64 if planes.is_cuda else torch.float32
    down, across = (m.to(device=planes.device, dtype=dtype) for m in (down, across))
    rows = finish(torch.matmul(planes.to(dtype), across.transpose(1, 2)))
    return finish(torch.matmul(down, rows)).float()


def _round(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_()


def _resize_weights(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """[B, out, size]: Pillow's triangle filter from pixels start..start+length-1 to `out` pixels."""
    scale = (length.double() / out).view(-1, 1, 1)
    centre = (torch.arange(out).view(1, -1, 1) + 0.5) * scale + start.view(-1, 1, 1)
    pixel = torch.arange(size).view(1, 1, -1)
    distance = (pixel + 0.5 - centre).abs_().div_(scale.clamp(min=1.0))  # antialias when shrinking
    inside = (pixel >= start.view(-1, 1, 1)) & (pixel < (start + length).view(-1, 1, 1))
    weight = distance.neg_().add_(1).clamp_(min=0).mul_(inside)
    return weight.div_(weight.sum(2, keepdim=True))


def resized_crop(images: Tensor, boxes: Tensor, *, size: int, mirrored: Tensor) -> Tensor:
    """Bilinear crop of boxes (top, left, height, width) [B, 4] to size x size, flipped where `mirrored`.

    From uint8 [B, C, H, W] to planes; `boxes` and `mirrored` on the CPU. Enlarging gives Pillow's pixels; when
    shrinking, Pillow may take the passes in the other order, which moves a value by at most one grey level.
    """
    height, width = images.shape[2:]
    top, left, tall, wide = boxes.unbind(1)
    across = _resize_weights(left, wide, width, size)
    across = torch.where(mirrored.view(-1, 1, 1), across.flip(1), across)
    planes = images.float().transpose(0, 1).contiguous()
    return _filter(planes, _resize_weights(top, tall, height, size), across, _round)


def _grey(planes: Tensor) -> Tensor:
    """ITU-R 601 luma in Pillow's 16-bit fixed point: [B, H, W]."""
    red, green, blue = planes.unbind(0)  # products stay below 2^24: exact in float32
    return (red * 19595).add_(green * 38470).add_(blue * 7471).add_(32768).div_(65536).floor_()


def _blend(base: Tensor, planes: Tensor, factor: Tensor) -> Tensor:
    """base + factor (image - base), cut to 0..255 and truncated."""
    return (planes - base).mul_(factor.view(-1, 1, 1)).add_(base).clamp_(0, 255).floor_()


def _brightness(planes: Tensor, factor: Tensor) -> Tensor:
    return (planes * factor.view(-1, 1, 1)).clamp_(0, 255).floor_()


def _contrast(planes: Tensor, factor: Tensor) -> Tensor:
    return _blend((_grey(planes).mean((1, 2), keepdim=True) + 0.5).floor_(), planes, factor)


def _saturation(planes: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(planes), planes, factor)


def _hue_saturation(planes: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Hue and saturation in 0..255.

    Edges of truncation are common (multiples of 1/6), so every rounding to single precision stands where
    Pillow's C code has it.
    """
    spread = value - planes.amin(0)
    red, green, blue = (value - planes).div_(spread.clamp(min=1)).unbind(0)  # all 0 where grey
    is_red, is_green = planes[0] == value, planes[1] == value
    sixth = torch.where(is_red, blue, torch.where(is_green, red, green)).double()
    sixth += torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    sixth -= torch.where(is_red, green, torch.where(is_green, blue, red))
    turns = sixth.float().double().div_(6).add_(1)
    hue = turns.sub_(turns.floor()).float().double().mul_(255).floor_().float()
    return hue, (spread * 255).div_(value.clamp(min=1)).floor_()


def _hue(planes: Tensor, factor: Tensor) -> Tensor:
    """Turn by int(255 factor) of 256 steps in Pillow's uint8 HSV.

    Back to RGB: channel = value (1 - saturation w), w the distance of the channel's sector cut to [0, 1].
    """
    value = planes.amax(0)
    hue, saturation = _hue_saturation(planes, value)
    hue += (factor.double() * 255).trunc().remainder(256).float().view(-1, 1, 1)
    hue = hue.sub_((hue >= 256).float(), alpha=256).mul_(6 / 255)
    depth = saturation.mul_(value).div_(255)
    out = torch.empty_like(planes)
    for channel, sector in enumerate((5, 3, 1)):
        place = hue + sector
        place.sub_((place >= 6).float(), alpha=6)
        share = torch.minimum(place, 4 - place).clamp_(0, 1)
        torch.sub(value + 0.5, share.mul_(depth), out=out[channel]).floor_()
    return out


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)


def colour_jitter(planes: Tensor, factors: Tensor, order: Tensor, active: Tensor) -> Tensor:
    """Four operations on each image in its own order, in place.

    `factors` [B, 4], `order` [B, 4] (operation at each place) and `active` [B] live on the CPU, so that
    choosing the images of an operation never waits for the device.
    """
    moved = factors.float().to(planes.device)
    for place in range(4):
        for number, operation in enumerate(OPERATIONS):
            which = torch.nonzero(active & (order[:, place] == number)).squeeze(1).to(planes.device)
            if len(which):
                changed = operation(planes.index_select(1, which), moved[which, number])
                planes.index_copy_(1, which, changed)
    return planes


def greyscale(planes: Tensor, which: Tensor) -> Tensor:
    """Grey where `which` [n] (numbers of images) says, in place."""
    if len(which):
        grey = _grey(planes.index_select(1, which))
        planes.index_copy_(1, which, grey.expand(len(planes), -1, -1, -1))
    return planes


def blur_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Normalised Gaussian taps at -radius..radius: [B, 2 radius + 1]."""
    x = torch.arange(-radius, radius + 1, device=sigma.device)
    taps = torch.exp(-(x**2) / (2 * sigma.view(-1, 1) ** 2))
    return taps / taps.sum(1, keepdim=True)


def _blur_matrix(taps: Tensor, size: int) -> Tensor:
    """[B, size, size]: the taps along a line, reflecting at its ends."""
    radius = taps.shape[1] // 2
    source = torch.arange(size).view(-1, 1) + torch.arange(-radius, radius + 1)
    source = (size - 1 - (size - 1 - source.abs()).abs()).unsqueeze(0).expand(len(taps), -1, -1)
    matrix = torch.zeros(len(taps), size, size)
    return matrix.scatter_add_(2, source, taps.unsqueeze(1).expand(-1, size, -1))


def blur(planes: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """Separable Gaussian blur of x / 255, then back to whole grey levels by truncation (as published)."""
    taps = blur_kernel(sigma, radius).float()
    down, across = (_blur_matrix(taps, size) for size in planes.shape[2:])
    return _filter(planes / 255, down, across, lambda values: values).mul_(255).clamp_(0, 255).floor_()
