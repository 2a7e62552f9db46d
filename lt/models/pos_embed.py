"""Position tables of vision transformers: the fixed sin-cos table and the resize of a learned one."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.errors import UserError


def sincos(dim: int, grid: int) -> np.ndarray:
    """[1 + grid^2, dim] float64: a row of zeros for cls, then the patches row by row.

    w_j = 10000^(-j / (dim/4)); each half of the width is [sin(a w), cos(a w)], with a the column index in
    the first half and the row index in the second (LiVT card 2.1; MAE's variable names say the opposite).
    """
    if dim % 4:
        raise UserError(f"sin-cos position table: width {dim}; expected a multiple of 4")
    quarter = dim // 4
    omega = 10000.0 ** (-np.arange(quarter, dtype=np.float64) / quarter)
    row, column = np.divmod(np.arange(grid * grid), grid)
    halves = []
    for coordinate in (column, row):
        angle = np.outer(coordinate.astype(np.float64), omega)
        halves += [np.sin(angle), np.cos(angle)]
    return np.concatenate([np.zeros((1, dim)), np.concatenate(halves, axis=1)])


def resize(table: Tensor, grid: int) -> Tensor:
    """[1, 1 + o^2, D] -> [1, 1 + grid^2, D]: bicubic without antialias, the cls row kept (LiVT card 2.4).

    timm's own checkpoint filter resizes with antialias, which differs by up to 1.6 on unit-normal tables.
    """
    old = math.isqrt(table.shape[1] - 1)
    if old * old != table.shape[1] - 1:
        raise UserError(f"position table has {table.shape[1]} rows; expected 1 + a square number")
    if old == grid:
        return table
    patches = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)
