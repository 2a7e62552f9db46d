"""Class counts, and the renumbering of labels by descending class size, with ties as the user names them (numpy only).

The published large-set checkpoints were trained on labels renumbered with an unstable sort; which of several
equal classes came first was fixed by the scalar quicksort of the numpy of the time. Current numpy sorts with
vector instructions and orders ties otherwise, so `legacy` carries that quicksort itself.
"""

from __future__ import annotations

import numpy as np

from lt.errors import UserError, pick

SMALL = 16  # items; a side no longer than this is sorted by insertion


def counts_of(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Images per class, int64, index = label."""
    labels = np.asarray(labels)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        bad = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"labels: expected 0..{num_classes - 1}, found {bad}")
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def class_map(class_counts: np.ndarray, order: str = "stable") -> np.ndarray:
    """New label of each original label: `label` keeps it, `stable` and `legacy` sort by descending count."""
    counts = np.asarray(class_counts, dtype=np.int64)
    ranked = pick("class map", order, ORDERS)(counts)
    mapping = np.empty(len(counts), dtype=np.int64)
    mapping[ranked] = np.arange(len(counts))
    return mapping


def _label(counts: np.ndarray) -> np.ndarray:
    return np.arange(len(counts))


def _stable(counts: np.ndarray) -> np.ndarray:
    return np.argsort(-counts, kind="stable")


def _legacy(counts: np.ndarray) -> np.ndarray:
    return np.array(argsort_scalar((-counts).tolist()), dtype=np.int64)


ORDERS = {"label": _label, "stable": _stable, "legacy": _legacy}


def argsort_scalar(values: list[int]) -> list[int]:
    """Unstable argsort as numpy's scalar introsort does it: median of three, larger side last, insertion below.

    Past 2 log2(n) levels a side is sorted by heap, as there.
    """
    order = list(range(len(values)))
    stack = [(0, len(values) - 1, 2 * max(len(values).bit_length() - 1, 0))] if values else []
    while stack:
        low, high, depth = stack.pop()
        while high - low >= SMALL and depth >= 0:
            pivot = _partition(values, order, low, high)
            depth -= 1
            if pivot - low < high - pivot:
                stack.append((pivot + 1, high, depth))
                high = pivot - 1
            else:
                stack.append((low, pivot - 1, depth))
                low = pivot + 1
        if depth < 0:
            _heap(values, order, low, high)
        else:
            _insertion(values, order, low, high)
    return order


def _partition(values: list[int], order: list[int], low: int, high: int) -> int:
    def swap(i: int, j: int) -> None:
        order[i], order[j] = order[j], order[i]

    middle = low + (high - low) // 2
    if values[order[middle]] < values[order[low]]:
        swap(middle, low)
    if values[order[high]] < values[order[middle]]:
        swap(high, middle)
    if values[order[middle]] < values[order[low]]:
        swap(middle, low)
    pivot = values[order[middle]]
    left, right = low, high - 1
    swap(middle, right)
    while True:
        left += 1
        while values[order[left]] < pivot:
            left += 1
        right -= 1
        while pivot < values[order[right]]:
            right -= 1
        if left >= right:
            break
        swap(left, right)
    swap(left, high - 1)
    return left


def _insertion(values: list[int], order: list[int], low: int, high: int) -> None:
    for i in range(low + 1, high + 1):
        item, j = order[i], i
        while j > low and values[item] < values[order[j - 1]]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = item


def _heap(values: list[int], order: list[int], low: int, high: int) -> None:
    part = order[low : high + 1]

    def sift(start: int, end: int, item: int) -> None:
        i, j = start, 2 * start
        while j <= end:
            if j < end and values[part[j - 1]] < values[part[j]]:
                j += 1
            if not values[item] < values[part[j - 1]]:
                break
            part[i - 1] = part[j - 1]
            i, j = j, 2 * j
        part[i - 1] = item

    for start in range(len(part) // 2, 0, -1):
        sift(start, len(part), part[start - 1])
    for end in range(len(part), 1, -1):
        item, part[end - 1] = part[end - 1], part[0]
        sift(1, end - 1, item)
    order[low : high + 1] = part
