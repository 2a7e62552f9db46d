"""Weights of the golden networks: a pure function of each entry's name in the published code."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn


def _seed(text: str) -> int:
    return zlib.crc32(text.encode()) & 0x7FFFFFFF


def value(name: str, shape: Iterable[int], *, norm_weight: bool, late: bool = False) -> torch.Tensor:
    """randn / sqrt(fan-in) (0.1 for vectors); scales and variances are |v| + 0.5; counters 0.

    Rounded to float32 before |v| + 0.5 (BaGMar, IP-DPP), or after it (`late`: BTM); the last bit differs.
    """
    shape = tuple(shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    draws = np.random.RandomState(_seed(name)).randn(*shape) * scale
    draws = draws if late else draws.astype(np.float32)
    if norm_weight or name.endswith("running_var"):
        draws = np.abs(draws) + draws.dtype.type(0.5)
    return torch.from_numpy(draws.astype(np.float32))


def container(rows: Iterable[tuple[str, list[int], bool]], *, late: bool = False) -> dict[str, torch.Tensor]:
    """Rows [name, shape, is_norm_weight] -> a state dict under the published names."""
    return {name: value(name, shape, norm_weight=bool(norm), late=late) for name, shape, norm in rows}


def fill(model: nn.Module, published: Callable[[str], str] = lambda name: name) -> nn.Module:
    """Set every entry of our model; `published` gives the name the rule is seeded with."""
    norms = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    state = model.state_dict()
    model.load_state_dict({k: value(published(k), v.shape, norm_weight=k in norms) for k, v in state.items()})
    return model


def images(case: str, shape: Iterable[int]) -> np.ndarray:
    return np.random.RandomState(_seed("input:" + case)).randn(*shape)


def bn_sums(model: nn.Module, prefix: str = "") -> np.ndarray:
    """[sum, sum |.|] of every running mean and variance, in state-dict order."""
    rows = [v for k, v in model.state_dict().items() if k.startswith(prefix) and "running" in k]
    return np.array([[float(v.sum()), float(v.abs().sum())] for v in rows])
