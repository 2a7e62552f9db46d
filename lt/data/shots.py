"""Many, medium and few: which group a class belongs to, by its number of training images (numpy only)."""

from __future__ import annotations

import numpy as np

from lt.data.class_map import class_map
from lt.errors import UserError, nearest, pick

MANY, MEDIUM, FEW = 0, 1, 2
GROUPS = ("many", "medium", "few")

# MiSLAS and BTM cut the classes, renumbered by descending size, at these two places whatever their counts. On
# ImageNet-LT both cuts fall among equal classes: who is on which side depends on how the renumbering breaks ties.
CONFIG_SLICES: dict[str, tuple[int, int]] = {
    "cifar10_lt": (3, 7),
    "cifar100_lt": (36, 71),
    "imagenet_lt": (390, 835),
    "places_lt": (131, 288),
    "inat18": (842, 4543),
}


def by_count(class_counts: np.ndarray, many: int = 100, few: int = 20) -> np.ndarray:
    """0 where n > many, 2 where n < few, else 1 (both bounds belong to medium)."""
    if few > many + 1:
        raise UserError(f"shots: few ({few}) must not exceed many ({many}) + 1")
    counts = np.asarray(class_counts)
    return np.where(counts > many, MANY, np.where(counts < few, FEW, MEDIUM)).astype(np.int64)


def by_slices(class_counts: np.ndarray, cuts: tuple[int, int]) -> np.ndarray:
    """Groups by rank. Counts in a renumbered order keep it, others are ranked with ties in label order."""
    counts = np.asarray(class_counts)
    if not 0 < cuts[0] < cuts[1] <= len(counts):
        raise UserError(f"groups 'config': cuts {cuts} do not fit {len(counts)} classes")
    rank = class_map(counts, "stable")
    return np.where(rank < cuts[0], MANY, np.where(rank < cuts[1], MEDIUM, FEW)).astype(np.int64)


def _common(class_counts: np.ndarray, family: str) -> np.ndarray:
    return by_count(class_counts)


def _config(class_counts: np.ndarray, family: str) -> np.ndarray:
    if family not in CONFIG_SLICES:
        raise UserError(f"groups 'config': no published cuts for '{family}'{nearest(family, CONFIG_SLICES)}")
    return by_slices(class_counts, CONFIG_SLICES[family])


def _ipdpp(class_counts: np.ndarray, family: str) -> np.ndarray:
    return by_count(class_counts, 500, 200) if family == "cifar10_lt" else by_count(class_counts)


SHOT_RULES = {
    "count": _common,
    "config": _config,  # MiSLAS, BTM
    "ipdpp": _ipdpp,  # 500 / 200 on CIFAR-10-LT
}


def groups(rule: str, class_counts: np.ndarray, *, family: str) -> np.ndarray:
    """Group (0, 1, 2) of every class by a named rule."""
    return pick("shot rule", rule, SHOT_RULES)(np.asarray(class_counts), family)
