"""Checkpoints of transformers: LiVT's MGP and BFT files, MAE's and timm's.

All use timm's names, so that nothing is renamed; what differs is what a file holds beside the encoder:

| kind    | holds                                  | from                                          |
|---------|----------------------------------------|-----------------------------------------------|
| mgp     | encoder, norm, mask token, decoder     | LiVT's MGP, MAE's `*_full`, our mae_* stages  |
| bft     | encoder, norm or fc_norm, head         | LiVT's BFT, MAE's fine-tuned, timm, our vit_* |
| encoder | encoder, norm                          | MAE's `mae_pretrain_*`                        |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lt.errors import UserError, pick
from lt.models import vit as vits
from lt.models.mae import MaskedAutoencoder
from lt.models.pos_embed import sincos
from lt.models.vit import LoadReport, load_mgp

State = dict[str, Tensor]
HEADS = ("keep", "fresh")


def entries(container: Mapping[str, Any]) -> State:
    """Weights of `{model: ...}` (LiVT, MAE, timm's training) or of a flat file, without `module.`."""
    inner = container.get("model", container)
    if not isinstance(inner, Mapping):
        raise UserError(f"expected a dictionary of weights, found {type(inner).__name__}")
    state = {name.removeprefix("module."): v for name, v in inner.items() if isinstance(v, Tensor)}
    if "patch_embed.proj.weight" not in state:
        raise UserError("not a vision transformer's file: it has no 'patch_embed.proj.weight'")
    return state


def kind(state: Mapping[str, Tensor]) -> str:
    """mgp, bft or encoder. LiVT's ImageNet-LT MGP file has a stray head: the mask token decides."""
    if "mask_token" in state:
        return "mgp"
    return "bft" if "head.weight" in state else "encoder"


def load(model: nn.Module, container: Mapping[str, Any], *, head: str = "keep", drop: Iterable[str] = ()) -> LoadReport:
    """Put a transformer's file into a `mae_*` or `vit_*` network, whatever of the three kinds it is.

    Into a classifier: a bft file whole (its position table resized where the grid differs), or with
    `head: fresh` as a start for other classes; an mgp or encoder file as masked pre-training. What `drop` begins
    is left out of the file; the network's own entries of these names stand in for it, as they were drawn.
    """
    pick("head", head, dict.fromkeys(HEADS))
    state, drop = entries(container), tuple(drop)
    left = [name for name in state if name.startswith(drop)]
    own = {name: value for name, value in model.state_dict().items() if name.startswith(drop)}
    state = {name: value for name, value in state.items() if name not in left} | own
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"entry '{name}' holds values that are not finite")
    report = _load(model, state, head)
    mapped = tuple(name for name in report.mapped if name not in own)
    return replace(report, mapped=mapped, dropped=(*left, *report.dropped))


def _load(model: nn.Module, state: State, head: str) -> LoadReport:
    found = kind(state)
    if isinstance(model, MaskedAutoencoder):
        return _load_mae(model, state, found)
    if found == "bft" and head == "keep":
        return vits.load_classifier(model, state)
    return load_mgp(model, state)


def _load_mae(model: MaskedAutoencoder, state: State, found: str) -> LoadReport:
    if found != "mgp":
        hint = "; for its encoder alone: --drop decoder_ --drop mask_token" if found == "encoder" else ""
        raise UserError(f"the file holds no decoder (kind: {found}); a masked autoencoder needs one{hint}")
    dropped = tuple(name for name in state if name.startswith("head."))
    kept = {name: value for name, value in state.items() if name not in dropped}
    resized = _fit_tables(model, kept)
    vits.check_entries(kept, model.state_dict(), what="masked pre-training")
    model.load_state_dict(kept)
    return LoadReport(mapped=tuple(kept), dropped=dropped, fresh=(), resized=resized)


def _fit_tables(model: MaskedAutoencoder, state: State) -> tuple[int, int] | None:
    """Of another grid: the network's own tables. Both are fixed functions of the grid and are never trained (2.1)."""
    resized, own = None, model.state_dict()
    for name in ("pos_embed", "decoder_pos_embed"):
        table = state.get(name)
        if table is None or table.dim() != 3 or table.shape[1] in (0, own[name].shape[1]):
            continue  # as it is; check_entries says what is wrong with it
        side = math.isqrt(table.shape[1] - 1)
        fixed = torch.from_numpy(sincos(table.shape[2], side))[None]
        if table.shape != fixed.shape or (table.double() - fixed).abs().max() > 1e-3:  # of a file in fp16: 5e-4
            raise UserError(
                f"masked pre-training: '{name}' has {table.shape[1]} rows, the network expects {own[name].shape[1]}; "
                "only the fixed sin-cos table of a square grid has a counterpart there"
            )
        state[name], resized = own[name], (side, model.grid)
    return resized


def _mgp(container: dict[str, Any]) -> State:
    """LiVT's and MAE's pre-training, without the head that one released file carries."""
    return {name: value for name, value in entries(container).items() if not name.startswith("head.")}


def _is(*kinds: str) -> Callable[[dict[str, Any]], bool]:
    def known(container: dict[str, Any]) -> bool:
        inner = container.get("model", container)
        return isinstance(inner, Mapping) and "patch_embed.proj.weight" in inner and kind(inner) in kinds

    return known


# as in `lt.models.convert`: container -> state dict under our names, and how the container is recognised
LAYOUTS: dict[str, Callable[[dict[str, Any]], State]] = {"livt_mgp": _mgp, "livt_bft": entries}
SIGNATURES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "livt_mgp": _is("mgp"),
    "livt_bft": _is("bft", "encoder"),
}
