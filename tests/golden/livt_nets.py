"""The networks of the LiVT golden files, with weights made from the official parameter names."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lt.models.mae import Decoder, MaskedAutoencoder
from lt.models.vit import vision_transformer

DATA = Path(__file__).parent / "livt"


def rule(name: str, shape: torch.Size) -> torch.Tensor:
    """randn / sqrt(fan-in), 0.1 for vectors; |v| + 0.5 for LayerNorm weights; float64 until the last step."""
    scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    v = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).randn(*shape) * scale
    if name.endswith(".weight") and "norm" in name.split(".")[-2]:
        v = np.abs(v) + 0.5
    return torch.from_numpy(v.astype(np.float32))


def fill(model: nn.Module) -> nn.Module:
    """Every entry by the weight rule but the fixed sin-cos tables of an autoencoder."""
    state = model.state_dict()
    tables = ("pos_embed", "decoder_pos_embed") if isinstance(model, MaskedAutoencoder) else ()
    model.load_state_dict({k: v if k in tables else rule(k, v.shape) for k, v in state.items()})
    return model


def from_config(cfg: dict, mask_ratio: float, *, norm_pix_loss: bool = True) -> MaskedAutoencoder:
    decoder = Decoder(cfg["decoder_embed_dim"], cfg["decoder_depth"], cfg["decoder_num_heads"])
    return fill(
        MaskedAutoencoder(
            img_size=cfg["img_size"],
            patch_size=cfg["patch_size"],
            width=cfg["embed_dim"],
            depth=cfg["depth"],
            heads=cfg["num_heads"],
            decoder=decoder,
            mask_ratio=mask_ratio,
            norm_pix_loss=norm_pix_loss,
        )
    )


def small_vit(*, global_pool: str = "avg", drop_path: float = 0.0) -> nn.Module:
    shape = {"img_size": 32, "patch_size": 8, "width": 24, "depth": 3, "heads": 3}
    return fill(vision_transformer(5, **shape, global_pool=global_pool, drop_path=drop_path)).double()


def close(ours: object, golden: object, rtol: float, atol: float | None = None) -> None:
    """Relative to the largest golden number unless `atol` says otherwise."""
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    golden = np.asarray(golden)
    atol = rtol * float(np.abs(golden).max()) if atol is None else atol
    np.testing.assert_allclose(ours, golden, rtol=rtol, atol=atol)


def gradients(model: nn.Module, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L2 norm and sum of every named gradient."""
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(grads) == set(names.tolist())
    ordered = [grads[name].double() for name in names.tolist()]
    return np.array([float(g.norm()) for g in ordered]), np.array([float(g.sum()) for g in ordered])
