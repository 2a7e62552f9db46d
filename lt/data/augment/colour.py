"""Batched resized crop, colour and blur that keep Pillow's uint8 arithmetic (floats of whole grey levels).

Every operation of the ordinary chain ends in uint8; rounding at the same places gives the same pixels, but
for the rare value on a rounding edge. Planes lead, [C, B, H, W], so that a colour channel is contiguous.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lt.data.augment import draws

ORDERS = torch.tensor(draws.ORDERS)


def _filter(images: Tensor, down: Tensor, across: Tensor, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows, then columns, of every image through its own matrices [B, out, in]; `finish` after each pass.

    From [B, C, H, W] to planes. Channels stand between rows and columns meanwhile: one product an image and
    pass. On a GPU in float64: reduced-precision products (TF32) would move grey levels.
    """
    batch, channels, height, width = images.shape
    dtype = torch.float64 if images.is_cuda else torch.float32
    down, across = (m.to(device=images.device, dtype=dtype, non_blocking=True) for m in (down, across))
    lines = images.transpose(1, 2).contiguous().to(dtype).view(batch, height * channels, width)
    rows = finish(torch.bmm(lines, across.transpose(1, 2))).view(batch, height, -1)
    out = finish(torch.bmm(down, rows)).float()
    return out.view(batch, down.shape[1], channels, across.shape[1]).permute(2, 0, 1, 3).contiguous()


def _round(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_()


def _resize_weights(start: Tensor, length: Tensor, size: int, out: int, mirrored: Tensor | None = None) -> Tensor:
    """[B, out, size]: Pillow's triangle filter from pixels start..start+length-1 to `out` pixels."""
    scale = (length.double() / out).view(-1, 1, 1)
    place = torch.arange(out).view(1, -1, 1)
    if mirrored is not None:
        place = torch.where(mirrored.view(-1, 1, 1), out - 1 - place, place)
    centre = (place + 0.5) * scale + start.view(-1, 1, 1)
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
    across = _resize_weights(left, wide, width, size, mirrored)
    return _filter(images, _resize_weights(top, tall, height, size), across, _round)


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


@functools.cache
def _hue_table(device: torch.device) -> Tensor:
    """Pillow's hue by largest channel (red, green, blue), spread and signed difference of the other two.

    One of the other two is the least, so a channel's distance from the largest is 1 for it and
    1 - |difference| / spread for the third. Edges of truncation are common (multiples of 1/6), so every
    rounding to single precision stands where Pillow's C code has it.
    """
    spread = torch.arange(256.0).view(-1, 1)
    signed = torch.arange(-255.0, 256.0)
    far = (spread > 0).float()
    near = (spread - signed.abs()) / spread.clamp(min=1)
    # the two distances in the order of the subtraction: (minuend, subtrahend)
    minuend, subtrahend = torch.where(signed >= 0, far, near), torch.where(signed >= 0, near, far)
    tables = []
    for start in (0.0, 2.0, 4.0):
        turns = (start + minuend.double() - subtrahend.double()).float().double().div_(6).add_(1)
        tables.append(turns.sub_(turns.floor()).float().double().mul_(255).floor_())
    return torch.stack(tables).flatten().to(torch.uint8).to(device, non_blocking=True)


def _hue_saturation(planes: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Hue and saturation in 0..255; of equal largest channels red counts before green before blue."""
    spread = value - planes.amin(0)
    red, green, blue = planes.unbind(0)
    below_red, below_green = ((value - channel).clamp_(max=1) for channel in (red, green))  # 0 where largest
    is_green, is_blue = below_red - below_red * below_green, below_red * below_green
    signed = (green - blue).mul_(1 - below_red)
    signed.addcmul_(blue - red, is_green).addcmul_(red - green, is_blue)
    place = is_blue.mul_(2).add_(is_green).mul_(256).add_(spread).mul_(511).add_(signed).add_(255)  # below 2^24
    hue = _hue_table(planes.device).index_select(0, place.int().flatten()).view_as(value).float()
    return hue, (spread * 255).div_(value.clamp(min=1)).floor_()


def _hue(planes: Tensor, factor: Tensor) -> Tensor:
    """Turn by int(255 factor) of 256 steps in Pillow's uint8 HSV.

    Back to RGB: channel = value (1 - saturation w), w the distance of the channel's sector cut to [0, 1].
    """
    value = planes.amax(0)
    hue, saturation = _hue_saturation(planes, value)
    hue += (factor.double() * 255).trunc().remainder(256).float().view(-1, 1, 1)
    hue = hue.sub_((hue - 255).clamp_(0, 1), alpha=256).mul_(6 / 255)  # whole numbers: 256 and above wrap
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
    moved = factors.float().to(planes.device, non_blocking=True)
    for place in range(4):
        for number, operation in enumerate(OPERATIONS):
            which = torch.nonzero(active & (order[:, place] == number)).squeeze(1).to(planes.device, non_blocking=True)
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


def blur(planes: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """Separable Gaussian blur of x / 255, then back to whole grey levels by truncation (as published)."""
    taps = blur_kernel(sigma, radius).float().to(planes.device).view(len(sigma), -1, 1, 1).unbind(1)
    padded = F.pad(planes / 255, (radius,) * 4, mode="reflect")
    for dim in (3, 2):
        size = planes.shape[dim]
        total = padded.narrow(dim, 0, size) * taps[0]
        for place in range(1, 2 * radius + 1):
            total.addcmul_(padded.narrow(dim, place, size), taps[place])
        padded = total
    return padded.mul_(255).clamp_(0, 255).floor_()
