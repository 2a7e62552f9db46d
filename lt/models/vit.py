"""Vision transformer classifier (LiVT's BFT): timm's module, published start and drop path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

from torch import Tensor, nn

from lt.errors import UserError, nearest, pick
from lt.models import pos_embed
from lt.models.tokens import (
    SIZES,
    Size,
    Uniforms,
    check_grid,
    check_images,
    choose_attention,
    draw_with,
    layer_norm,
    set_drop_path,
)

POOLS = ("avg", "token")


class Classifier:
    """What timm's VisionTransformer gains here; the class itself is joined in `_vision_transformer`."""

    head_name = "head"

    @property
    def feature_dim(self) -> int:
        return self.embed_dim

    def features(self, x: Tensor) -> Tensor:
        """[B, D]: mean of the patch tokens, then `fc_norm` (avg); or `norm`, then the cls token (token)."""
        check_images(x, self.patch_embed.img_size)
        choose_attention(self.blocks, x)
        return self.forward_head(self.forward_features(x), pre_logits=True)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    def start_from(self, state: Mapping[str, Tensor]) -> LoadReport:
        """Take the encoder of masked pre-training; see `load_mgp`."""
        return load_mgp(self, state)

    def draw_with(self, source: Uniforms | None) -> None:
        """Drop path draws from `source` (`rng.stream(seed, "dropout", epoch, step)`) from now on."""
        draw_with(self, source)


@cache
def _vision_transformer() -> type[nn.Module]:
    from timm.models.vision_transformer import VisionTransformer

    return type("VisionTransformer", (Classifier, VisionTransformer), {})


def vision_transformer(
    num_classes: int,
    *,
    img_size: int = 224,
    patch_size: int = 16,
    in_channels: int = 3,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    global_pool: str = "avg",
    drop_path: float = 0.0,
) -> nn.Module:
    """timm's parameter names; `global_pool: avg` has `fc_norm` and no `norm`, `token` the reverse."""
    check_grid(img_size, patch_size)
    pick("global_pool", global_pool, dict.fromkeys(POOLS))
    model = _vision_transformer()(
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=num_classes,
        global_pool=global_pool,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        norm_layer=layer_norm,
    )
    # the official order of parameters (head before fc_norm): an imported optimiser state is positional
    model.fc_norm = model._modules.pop("fc_norm")
    set_drop_path(model.blocks, drop_path)
    nn.init.trunc_normal_(model.cls_token, std=0.02)  # timm 1.0 starts it at std 1e-6, the published code did not
    return model


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's entries."""

    mapped: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]  # entries of the classifier that the checkpoint does not set
    resized: tuple[int, int] | None  # grid of the position table, before and after

    def __str__(self) -> str:
        resized = f", position grid {self.resized[0]} -> {self.resized[1]}" if self.resized else ""
        dropped = ", ".join(sorted({_root(name) for name in self.dropped})) or "none"
        fresh = ", ".join(self.fresh)
        return f"{len(self.mapped)} entries taken{resized}; dropped: {dropped}; fresh: {fresh}"


def load_mgp(vit: nn.Module, mae_state: Mapping[str, Tensor]) -> LoadReport:
    """Start `vit` from a masked autoencoder's weights (LiVT card 2.2, 2.4 and 7), in place.

    Dropped: the decoder, the mask token, any head and, with the pooled head, `norm`. The head's weight is
    drawn with std 2e-5 and its bias is 0, so that the first logits are nearly 0.
    """
    own = vit.state_dict()
    fresh = tuple(name for name in own if _root(name) in ("head", "fc_norm"))
    unwanted = {"head", "fc_norm", "mask_token"} | ({"norm"} if vit.global_pool == "avg" else set())
    dropped = [n for n in mae_state if _root(n) in unwanted or n.startswith("decoder_")]
    mapped = {name: value for name, value in mae_state.items() if name not in set(dropped)}
    resized = _fit_table(vit, mapped)
    check_entries(mapped, {n: v for n, v in own.items() if n not in fresh}, what="masked pre-training")
    vit.load_state_dict(mapped, strict=False)
    reset_head(vit)
    return LoadReport(tuple(mapped), tuple(dropped), fresh, resized)


def load_classifier(vit: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """A whole classifier (LiVT's BFT, timm's) into `vit`, in place; the position table may be resized."""
    mapped = dict(state)
    resized = _fit_table(vit, mapped)
    check_entries(mapped, vit.state_dict(), what="classifier")
    vit.load_state_dict(mapped)
    return LoadReport(tuple(mapped), (), (), resized)


def check_entries(given: Mapping[str, Tensor], own: Mapping[str, Tensor], *, what: str) -> None:
    """The same names and shapes, or one line that names the first that differs."""
    for name in given:
        if name not in own:
            raise UserError(f"{what}: the file's '{name}' is not in this network{nearest(name, own)}")
    missing = [name for name in own if name not in given]
    if missing:
        raise UserError(f"{what}: the file lacks '{missing[0]}' ({len(missing)} entries in all)")
    for name, value in given.items():
        if value.shape != own[name].shape:
            found, wanted = list(value.shape), list(own[name].shape)
            raise UserError(f"{what}: '{name}' has shape {found} in the file, the network expects {wanted}")


def reset_head(vit: nn.Module) -> None:
    nn.init.trunc_normal_(vit.head.weight, std=2e-5)
    nn.init.zeros_(vit.head.bias)
    if isinstance(vit.fc_norm, nn.LayerNorm):
        vit.fc_norm.reset_parameters()


def _fit_table(vit: nn.Module, state: dict[str, Tensor]) -> tuple[int, int] | None:
    table, grid = state.get("pos_embed"), vit.patch_embed.grid_size[0]
    if table is None or table.shape[1] == vit.pos_embed.shape[1]:
        return None
    state["pos_embed"] = pos_embed.resize(table, grid)
    return math.isqrt(table.shape[1] - 1), grid


def _root(name: str) -> str:
    return name.split(".", 1)[0]


def _named(
    size: Size,
    num_classes: int,
    *,
    img_size: int | None = None,
    patch_size: int | None = None,
    in_channels: int = 3,
    global_pool: str = "avg",
    drop_path: float = 0.0,
) -> nn.Module:
    return vision_transformer(
        num_classes,
        img_size=img_size or size.img_size,
        patch_size=patch_size or size.patch_size,
        in_channels=in_channels,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        global_pool=global_pool,
        drop_path=drop_path,
    )


ARCHS: dict[str, Callable[..., nn.Module]] = {
    "vit_digits": partial(_named, SIZES["digits"]),
    "vit_fashion": partial(_named, SIZES["fashion"]),
    "vit_tiny": partial(_named, SIZES["tiny"]),
    "vit_small": partial(_named, SIZES["small"]),
    "vit_base": partial(_named, SIZES["base"]),
    "vit_large": partial(_named, SIZES["large"]),
}
