"""Masked autoencoder (LiVT's MGP; He et al. 2022) on timm's blocks, with the official parameter names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lt.errors import UserError, pick
from lt.models.pos_embed import sincos
from lt.models.tokens import SIZES, Size, check_grid, check_images, choose_attention, layer_norm, make_blocks


class Decoder(NamedTuple):
    width: int
    depth: int
    heads: int


# The published decoder serves every encoder size; beside a small encoder it is nearly all of the work
# (95 % for ViT-Ti/4 on 32x32), so small sets use one in proportion.
DECODERS = {
    "512x8": Decoder(512, 8, 16),
    "256x4": Decoder(256, 4, 8),
    "128x2": Decoder(128, 2, 4),
    "32x2": Decoder(32, 2, 2),
}


class Reconstruction(NamedTuple):
    loss: Tensor  # scalar, over the removed patches
    pred: Tensor  # [N, L, p*p*C]
    mask: Tensor  # [N, L], 1 = removed


class MaskedAutoencoder(nn.Module):
    """The encoder sees only the kept patches; the decoder predicts the pixels of the removed ones."""

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder: Decoder = DECODERS["512x8"],
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
    ) -> None:
        super().__init__()
        from timm.layers import PatchEmbed

        self.grid = check_grid(img_size, patch_size)
        self.num_patches = self.grid**2
        self.patch_size, self.in_channels = patch_size, in_channels
        self.num_visible = visible(self.num_patches, mask_ratio)
        self.norm_pix_loss = norm_pix_loss
        self.feature_dim = width

        # registered in the official order: an imported optimiser state is positional
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = self._table(width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder.width))
        self.decoder_pos_embed = self._table(decoder.width)
        self.patch_embed = PatchEmbed(img_size, patch_size, in_channels, width)
        self.blocks = make_blocks(width, depth, heads)
        self.norm = layer_norm(width)
        self.decoder_embed = nn.Linear(width, decoder.width)
        self.decoder_blocks = make_blocks(decoder.width, decoder.depth, decoder.heads)
        self.decoder_norm = layer_norm(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, patch_size**2 * in_channels)
        self._initialise()

    def _table(self, width: int) -> nn.Parameter:
        table = torch.from_numpy(sincos(width, self.grid)).float()
        return nn.Parameter(table.unsqueeze(0), requires_grad=False)

    def _initialise(self) -> None:
        """LiVT card 2.2; the patch embedding's bias and the LayerNorms keep the library's values."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """`images` [N, C, H, H] normalised; `noise` [N, L] uniform: its smallest values are kept."""
        latent, mask, restore = self.encode(images, noise)
        pred = self.decode(latent, restore)
        return Reconstruction(self.loss(images, pred, mask), pred, mask)

    def encode(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latent [N, 1 + k, D] of the kept patches in shuffled order, mask [N, L], restore [N, L]."""
        check_images(images, self.patch_embed.img_size)
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:]
        keep, mask, restore = draw_mask(noise.to(tokens.device), self.num_visible)
        tokens = tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        choose_attention(self.blocks, images)
        return self.norm(self.blocks(torch.cat([cls.to(tokens), tokens], dim=1))), mask, restore

    def decode(self, latent: Tensor, restore: Tensor) -> Tensor:
        """Predicted pixels of every patch, [N, L, p*p*C]."""
        x = self.decoder_embed(latent)
        missing = restore.shape[1] + 1 - x.shape[1]
        patches = torch.cat([x[:, 1:], self.mask_token.to(x).expand(len(x), missing, -1)], dim=1)
        patches = patches.gather(1, restore.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        choose_attention(self.decoder_blocks, latent)
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]

    def target(self, images: Tensor) -> Tensor:
        """Pixels of every patch; with `norm_pix_loss` centred and divided by sqrt(unbiased var + 1e-6)."""
        patches = self.patchify(images)
        if not self.norm_pix_loss:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, correction=1)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Squared error averaged over a patch's pixels, then over the removed patches of the whole batch."""
        wide = torch.promote_types(pred.dtype, torch.float32)
        with torch.autocast(pred.device.type, enabled=False):
            error = (pred.to(wide) - self.target(images.to(wide))).square().mean(dim=-1)
            return (error * mask.to(wide)).sum() / mask.to(wide).sum()

    def pixels(self, images: Tensor, pred: Tensor) -> Tensor:
        """Predicted pixels as images [N, C, H, H]; with `norm_pix_loss` under each true patch's mean and deviation."""
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(self.patchify(images), dim=-1, keepdim=True, correction=1)
            pred = pred * (variance + 1e-6).sqrt() + mean
        return self.unpatchify(pred)

    def patchify(self, images: Tensor) -> Tensor:
        """[N, C, H, H] -> [N, L, p*p*C]; inside a patch by row, then column, then channel."""
        n, side = len(images), self.patch_size
        x = images.reshape(n, self.in_channels, self.grid, side, self.grid, side)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(n, self.num_patches, -1)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse of `patchify`."""
        n, side, grid = len(patches), self.patch_size, self.grid
        x = patches.reshape(n, grid, grid, side, side, self.in_channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(n, self.in_channels, grid * side, grid * side)


def visible(num_patches: int, mask_ratio: float) -> int:
    """k = int(L (1 - ratio)), the float product truncated as published (224 px: 49 of 196)."""
    k = int(num_patches * (1 - mask_ratio))
    if not 0 < k < num_patches:
        raise UserError(
            f"mask_ratio {mask_ratio} keeps {k} of {num_patches} patches; expected at least one kept and one removed"
        )
    return k


def draw_noise(source: np.random.Generator | np.random.RandomState, rows: int, num_patches: int) -> Tensor:
    """Masking noise [rows, L] float32, a row for each sample."""
    return torch.from_numpy(np.asarray(source.random((rows, num_patches)), dtype=np.float32))


def draw_mask(noise: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices kept [N, k] in ascending noise, mask [N, L] (1 = removed), inverse of the shuffle [N, L]."""
    shuffle = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(shuffle, dim=1)
    return shuffle[:, :k], (restore >= k).float(), restore


def _named(
    size: Size,
    default_decoder: str,
    num_classes: int = 0,
    *,
    img_size: int | None = None,
    patch_size: int | None = None,
    in_channels: int = 3,
    decoder: str | None = None,
    mask_ratio: float = 0.75,
    norm_pix_loss: bool = True,
) -> MaskedAutoencoder:
    """`num_classes` is ignored: an autoencoder has no classes."""
    return MaskedAutoencoder(
        img_size=img_size or size.img_size,
        patch_size=patch_size or size.patch_size,
        in_channels=in_channels,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        decoder=pick("decoder", decoder or default_decoder, DECODERS),
        mask_ratio=mask_ratio,
        norm_pix_loss=norm_pix_loss,
    )


ARCHS: dict[str, Callable[..., MaskedAutoencoder]] = {
    "mae_digits": partial(_named, SIZES["digits"], "32x2"),
    "mae_fashion": partial(_named, SIZES["fashion"], "32x2"),
    "mae_tiny": partial(_named, SIZES["tiny"], "512x8"),
    "mae_small": partial(_named, SIZES["small"], "512x8"),
    "mae_base": partial(_named, SIZES["base"], "512x8"),
    "mae_large": partial(_named, SIZES["large"], "512x8"),
}
