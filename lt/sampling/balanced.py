"""Class-balanced subsets: drawn by the published rule, or rebuilt from the lists its authors published.

The rule (Yu, Du, Wu, Reviving Undersampling for Long-Tailed Learning, released code): every class in order
of first appearance, its lines shuffled, the first k kept; a class with fewer than k is kept whole, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Protocol

import numpy as np

from lt.errors import UserError, nearest

PUBLISHED = {"places": (5, 10), "imagenet": (10,)}  # dataset -> k; what could be sourced
_PLACES_PREFIX = {"data_256/": "data_256_standard/"}  # same lines under the prefix of another repository


class Shuffler(Protocol):
    """`random.Random`, the `random` module, `numpy.random.RandomState` or `numpy.random.Generator`."""

    def shuffle(self, x: list | np.ndarray, /) -> None: ...


def by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Positions of each class, ascending; classes in order of first appearance."""
    labels = _labels(labels)
    classes, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    runs = np.split(order, np.cumsum(np.bincount(inverse, minlength=len(classes)))[:-1])
    return {int(classes[c]): runs[c] for c in np.argsort(first)}


def draw_subset(labels: np.ndarray, k: int, source: Shuffler) -> np.ndarray:
    """Positions (int64) of at most `k` samples a class, in the order they are written.

    Grouped lists and ungrouped ones obey the same rule. Each call draws from the full list, so two calls
    on one source give overlapping, independent subsets.
    """
    if int(k) != k or k < 1:
        raise UserError(f"subset: k is {k}; expected a whole number of images per class, at least 1")
    groups = by_class(labels)
    as_list = not isinstance(source, (np.random.Generator, np.random.RandomState))
    picked = []
    for positions in groups.values():
        lines = positions.tolist() if as_list else positions.copy()
        source.shuffle(lines)
        picked.append(np.asarray(lines[: int(k)], dtype=np.int64))
    return np.concatenate(picked)


def expected_overlap(class_counts: np.ndarray, k: int) -> float:
    """Mean number of samples that two independent subsets share: sum_c min(n_c, k)^2 / n_c."""
    counts = np.asarray(class_counts, dtype=np.float64)
    counts = counts[counts > 0]
    return float((np.minimum(counts, k) ** 2 / counts).sum())


def overlap_deviation(class_counts: np.ndarray, k: int) -> float:
    """Standard deviation of that number; the overlap within a class is hypergeometric."""
    counts = np.asarray(class_counts, dtype=np.float64)
    counts = counts[counts > k]
    share = k / counts
    return float(np.sqrt((k * share * (1 - share) * (counts - k) / (counts - 1)).sum()))


def official_text(dataset: str, k: int, index: int, *, train_list: Sequence[str] | None = None) -> str:
    """A published list, byte for byte, checked against its sha256.

    Places needs the lines of its training list (`path label`), as released with MiSLAS or BTM; ImageNet
    needs none.
    """
    facts = _published(dataset, k, index)
    if dataset == "imagenet":
        text = "".join(line + "\n" for line in _imagenet_lines(facts, index))
    else:
        lines = [_renamed(line) for line in _places_lines(train_list)]
        text = "".join(lines[i] + "\n" for i in facts[f"places_K{k}"][index])
    expected = facts[f"{dataset}_K{k}_sha256"][index].tobytes().hex()
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != expected:
        raise UserError(
            f"subset: list {index} of {dataset} (k={k}) rebuilt from this training list has sha256 "
            f"{found[:12]}, expected {expected[:12]}; use the list as released with MiSLAS or BTM"
        )
    return text


def official(dataset: str, k: int, index: int, *, train_list: Sequence[str]) -> np.ndarray:
    """Positions (int64) of a published subset in this training list, in the published order.

    `train_list` holds `path label` lines; only file names and labels have to agree, not path prefixes.
    """
    facts = _published(dataset, k, index)
    if dataset == "places":
        lines = _places_lines(train_list)
        positions = facts[f"places_K{k}"][index].astype(np.int64)
        labels = np.array([int(line.rsplit(maxsplit=1)[1]) for line in lines])
        _check_balanced(labels, labels[positions], k)
        return positions
    where = {_name_and_label(line): i for i, line in enumerate(train_list)}
    wanted = _imagenet_lines(facts, index)
    missing = [line for line in wanted if _name_and_label(line) not in where]
    if missing:
        raise UserError(
            f"subset: {len(missing)} of {len(wanted)} published images are not in this training list, "
            f"first '{missing[0]}'; expected the ImageNet-LT training list"
        )
    return np.array([where[_name_and_label(line)] for line in wanted], dtype=np.int64)


@cache
def _facts() -> dict[str, np.ndarray]:
    path = resources.files("lt") / "data" / "facts" / "official_subsets.npz"
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _published(dataset: str, k: int, index: int) -> dict[str, np.ndarray]:
    if dataset not in PUBLISHED:
        raise UserError(f"subset: no published subsets for '{dataset}'{nearest(dataset, PUBLISHED)}")
    if k not in PUBLISHED[dataset]:
        raise UserError(f"subset: {dataset} has no published subsets for k={k}; known k: {PUBLISHED[dataset]}")
    facts = _facts()
    held = len(facts[f"{dataset}_K{k}"])
    if not 0 <= index < held:
        raise UserError(f"subset: {dataset} with k={k} has published subsets 0 to {held - 1}, not {index}")
    return facts


def _imagenet_lines(facts: dict[str, np.ndarray], index: int) -> list[str]:
    labels = np.repeat(np.arange(1000), facts["imagenet_K10_per_class"])
    wnids = [f"n{number:08d}" for number in facts["imagenet_wnid"]]
    return [
        f"train/{wnids[label]}/{wnids[label]}_{number}.JPEG {label}"
        for number, label in zip(facts["imagenet_K10"][index], labels, strict=True)
    ]


def _places_lines(train_list: Sequence[str] | None) -> list[str]:
    if train_list is None:
        raise UserError("subset: published Places subsets are line numbers; pass the Places-LT training list")
    lines = [line.rstrip("\r\n") for line in train_list]
    if len(lines) != 62500:
        raise UserError(f"subset: the Places-LT training list has 62500 lines, this one {len(lines)}")
    return lines


def _renamed(line: str) -> str:
    for prefix, published in _PLACES_PREFIX.items():
        if line.startswith(prefix):
            return published + line[len(prefix) :]
    return line


def _name_and_label(line: str) -> tuple[str, str]:
    path, label = line.rsplit(maxsplit=1)
    return path.rsplit("/", 1)[-1], label


def _check_balanced(labels: np.ndarray, picked: np.ndarray, k: int) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    seen = np.bincount(picked, minlength=int(classes.max()) + 1)[classes]
    wrong = np.flatnonzero(seen != np.minimum(counts, k))
    if len(wrong):
        raise UserError(
            f"subset: class {classes[wrong[0]]} would get {seen[wrong[0]]} images, expected "
            f"{min(int(counts[wrong[0]]), k)}; the training list is not in the released order"
        )


def _labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise UserError(f"subset: labels of shape {labels.shape}, type {labels.dtype}; expected whole numbers")
    return labels
