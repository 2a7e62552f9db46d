"""What the masked autoencoder and the classifier share: sizes, blocks, drop path, the choice of attention.

timm is imported inside the functions: its import is paid only by jobs that build a transformer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

import lt.compat  # noqa: F401  (before timm, which imports torchvision)
from lt.errors import UserError

layer_norm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of an encoder, and the images that its name stands for unless told otherwise."""

    width: int
    depth: int
    heads: int
    img_size: int = 224
    patch_size: int = 16


SIZES = {
    "digits": Size(64, 4, 4, img_size=8, patch_size=2),  # 16 tokens
    "fashion": Size(64, 4, 4, img_size=28, patch_size=4),  # 49 tokens
    "tiny": Size(192, 12, 3),
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
}


class Uniforms(Protocol):
    """`random(n)` gives n numbers in [0, 1): numpy's Generator and RandomState."""

    def random(self, size: int) -> object: ...


class DropPath(nn.Module):
    """A sample's branch is kept where floor(keep + u) = 1, and then divided by keep (timm 0.3.2).

    With a `source` the uniforms are its next B numbers, otherwise torch's generator draws on the device.
    """

    source: Uniforms | None = None

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1.0 - self.rate
        if self.source is None:
            uniform = torch.rand(len(x), device=x.device)
        else:
            uniform = torch.as_tensor(self.source.random(len(x)))
        kept = torch.floor(keep + uniform).to(x).view(-1, *[1] * (x.ndim - 1))
        return x / keep * kept

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def make_blocks(width: int, depth: int, heads: int, *, drop_path: float = 0.0) -> nn.Sequential:
    """timm's pre-norm blocks: one qkv with bias, exact GELU, mlp ratio 4, LayerNorm eps 1e-6."""
    from timm.models.vision_transformer import Block

    if width % heads:
        raise UserError(f"width {width} is not a multiple of {heads} heads")
    blocks = nn.Sequential(
        *[Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=layer_norm) for _ in range(depth)]
    )
    set_drop_path(blocks, drop_path)
    return blocks


def set_drop_path(blocks: nn.Sequential, rate: float) -> None:
    """Rates rise linearly from 0 in the first block to `rate` in the last, the same for both branches."""
    if not 0 <= rate < 1:
        raise UserError(f"drop_path is {rate}; expected 0 <= drop_path < 1")
    rates = torch.linspace(0, rate, len(blocks), device="cpu").tolist()  # float32, as published
    for block, value in zip(blocks, rates, strict=True):
        block.drop_path1 = DropPath(value) if value > 0 else nn.Identity()
        block.drop_path2 = DropPath(value) if value > 0 else nn.Identity()


def draw_with(model: nn.Module, source: Uniforms | None) -> None:
    """All drop paths of `model` draw from `source`: attention, then mlp, block by block."""
    for module in model.modules():
        if isinstance(module, DropPath):
            module.source = source


def explicit_attention(x: Tensor) -> bool:
    """True on a CPU in bfloat16: there SDPA's backward is slow (x0.44 of softmax(q k^T) v at 65 tokens)."""
    if x.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype == torch.bfloat16


def choose_attention(blocks: Iterable[nn.Module], x: Tensor) -> None:
    """Explicit softmax(q k^T) v or fused SDPA for the coming forward pass; equal up to rounding."""
    fused = not explicit_attention(x)
    for block in blocks:
        block.attn.fused_attn = fused


def check_grid(img_size: int, patch_size: int) -> int:
    """Patches on a side."""
    if patch_size < 1 or img_size < patch_size or img_size % patch_size:
        raise UserError(f"img_size {img_size} is not a multiple of patch_size {patch_size}")
    return img_size // patch_size


def check_images(images: Tensor, size: tuple[int, int]) -> None:
    """The images that the augmentation gives, against the size that the network was built for."""
    if tuple(images.shape[-2:]) != size:
        given, built = ("x".join(map(str, pair)) for pair in (images.shape[-2:], size))
        raise UserError(f"image.size: a network for {built} pixels is given {given}: set what `augment` yields")
