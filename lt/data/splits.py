"""Which images a data set keeps: imbalance rules and selections (numpy only).

A rule names two things, the class counts and the draw. `canonical` is the CIFAR-LT of the papers: legacy
generator with seed 0 whatever the run's seed, one shuffle per class in label order, the first n_c kept; every
larger factor therefore keeps a prefix of a smaller one. `exponential` is the same with a draw of its own per seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lt.data.class_map import class_map, counts_of
from lt.data.lists import OFFICIAL
from lt.errors import UserError, pick
from lt.rng import stream

INT64_FILES = ("train", "val", "test", "class_counts", "class_map")


class Shuffles(Protocol):
    def shuffle(self, x: Any, /) -> None: ...


def exponential_counts(n_max: float, imb_factor: float, num_classes: int) -> np.ndarray:
    """n_c = int(n_max * (1 / imb_factor) ** (c / (C - 1))), class 0 the head; one class keeps n_max.

    `n_max` may be a fraction (N / C of an uneven total): the truncation comes last.
    """
    _check_rule(n_max, imb_factor, num_classes)
    ratio, last = 1.0 / imb_factor, max(num_classes - 1, 1)
    return np.array([int(n_max * ratio ** (c / last)) for c in range(num_classes)], dtype=np.int64)


def step_counts(n_max: float, imb_factor: float, num_classes: int) -> np.ndarray:
    """First C // 2 classes int(n_max), the others int(n_max / imb_factor) by way of its reciprocal."""
    _check_rule(n_max, imb_factor, num_classes)
    head, tail = int(n_max), int(n_max * (1.0 / imb_factor))
    return np.array([head if c < num_classes // 2 else tail for c in range(num_classes)], dtype=np.int64)


def _check_rule(n_max: float, imb_factor: float, num_classes: int) -> None:
    if num_classes < 1:
        raise UserError(f"num_classes: expected at least 1, got {num_classes}")
    if not (imb_factor >= 1 and np.isfinite(imb_factor)):
        raise UserError(f"imb_factor: expected max/min, a number of at least 1, got {imb_factor}")
    if not (n_max >= 0 and np.isfinite(n_max)):
        raise UserError(f"n_max: expected a number of images per class, got {n_max}")


def by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Positions of every class in file order."""
    counts = counts_of(labels, num_classes)
    short = labels.astype(np.uint16) if num_classes <= 1 << 16 else labels  # 16 bits are sorted digit by digit
    order = np.argsort(short, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(counts)[:-1])


def select(labels: np.ndarray, counts: np.ndarray, source: Shuffles) -> np.ndarray:
    """Positions kept: per class in label order, shuffle its positions in place, keep the first counts[c].

    Class after class, in shuffled order. Every class is shuffled, so the draws do not depend on `counts`.
    """
    counts = np.asarray(counts)
    kept = []
    for c, positions in enumerate(by_class(labels, len(counts))):
        if counts[c] > len(positions):
            raise UserError(f"class {c}: {counts[c]} images wanted, {len(positions)} there")
        source.shuffle(positions)
        kept.append(positions[: counts[c]])
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)


def sample_per_class(labels: np.ndarray, n: int, source: Any) -> np.ndarray:
    """Balanced probe subset: classes in order of first appearance, `source.sample` of n positions each.

    A class with fewer than n keeps all of them, undrawn. `source` is a `random.Random`.
    """
    groups: dict[int, list[int]] = {}
    for position, label in enumerate(np.asarray(labels).tolist()):
        groups.setdefault(label, []).append(position)
    kept: list[int] = []
    for positions in groups.values():
        kept += positions if len(positions) < n else source.sample(positions, n)
    return np.array(kept, dtype=np.int64)


Counts = Callable[[float, float, int], np.ndarray]
Draw = Callable[[int], Shuffles]


def _official(seed: int) -> Shuffles:
    return np.random.RandomState(0)


def _own(seed: int) -> Shuffles:
    return stream(seed, "split", "imbalance")


RULES: dict[str, tuple[Counts, Draw]] = {
    "canonical": (exponential_counts, _official),
    "canonical_step": (step_counts, _official),
    "exponential": (exponential_counts, _own),
    "step": (step_counts, _own),
}


@dataclass(frozen=True)
class Split:
    """Index lists. `parts` says which part of the source each list counts in: {"train": "train", ...}.

    `val` and `test` are None where the whole part named in `parts` is meant; `parts["val"]` is None where the
    data set has no validation images. Labels are renumbered by `class_map` (identity unless asked for), and
    `class_counts` is in the renumbered order.
    """

    train: np.ndarray
    val: np.ndarray | None
    test: np.ndarray | None
    class_counts: np.ndarray
    class_map: np.ndarray
    parts: dict[str, str | None]

    def relabel(self, labels: np.ndarray) -> np.ndarray:
        return self.class_map[labels]

    def save(self, folder: Path | str) -> None:
        """One .npy a list and `split.json`; equal splits give equal bytes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in INT64_FILES:
            if (values := getattr(self, name)) is not None:
                np.save(folder / f"{name}.npy", values.astype(np.int64), allow_pickle=False)
        lists = {name: getattr(self, name) for name in ("train", "val", "test")}
        sizes = {name: None if values is None else len(values) for name, values in lists.items()}
        text = json.dumps({"parts": self.parts, "sizes": sizes, "classes": len(self.class_counts)}, indent=1)
        (folder / "split.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path | str) -> Split:
        folder = Path(folder)
        try:
            parts = json.loads((folder / "split.json").read_text(encoding="utf-8"))["parts"]
            there = [name for name in INT64_FILES if (folder / f"{name}.npy").exists()]
            found = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in there}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: not a split ({error}); run the split stage again") from None
        needed = {"train", "class_counts", "class_map"} | {k for k in ("val", "test") if parts.get(k) == "train"}
        if missing := sorted(needed - set(found)):
            raise UserError(f"{folder}: {missing[0]}.npy is missing; run the split stage again")
        return cls(**{name: found.get(name) for name in INT64_FILES}, parts=parts)


def make_split(labels_train: np.ndarray, *, spec: Mapping[str, Any], seed: int) -> Split:
    """The split of one data set. `labels_train` are the labels of the source's `train` part.

    Order of the draws: test (the same for every seed: a set without an official test set still has one test
    set), validation, and what is left is made imbalanced. All three are disjoint. `spec` keys: num_classes,
    holdout {test, val}, imbalance {rule, n_max, imb_factor}, class_map, lists.
    """
    labels = np.asarray(labels_train, dtype=np.int64)
    num_classes = int(spec["num_classes"])
    holdout = dict(spec.get("holdout") or {})
    n_test, n_val = int(holdout.get("test", 0)), int(holdout.get("val", 0))
    if spec.get("source") in POOLED and not n_test:
        raise UserError(f"holdout.test: '{spec['source']}' has no test set of its own; give images per class")

    left = np.arange(len(labels), dtype=np.int64)
    left, test = _set_out(left, labels, n_test, num_classes, "test", stream(0, "split", "test"))
    left, val = _set_out(left, labels, n_val, num_classes, "val", stream(seed, "split", "val"))
    train = left
    if spec.get("imbalance"):
        train = left[_imbalanced(labels[left], dict(spec["imbalance"]), num_classes, seed)]
    counts = counts_of(labels[train], num_classes)
    _refuse_empty(counts)
    mapping = class_map(counts, spec.get("class_map", "label"))
    return Split(
        train=train,
        val=val if n_val else None,
        test=test if n_test else None,
        class_counts=counts[np.argsort(mapping)],
        class_map=mapping,
        parts={
            "train": "train",
            "val": "train" if n_val else _own_val(spec),
            "test": "train" if n_test else "test",
        },
    )


POOLED = frozenset({"digits"})


def _own_val(spec: Mapping[str, Any]) -> str | None:
    """`val` where the data set brings a validation part of its own."""
    official = OFFICIAL.get(str(spec.get("family")), {}) if spec.get("source") == "list" else {}
    return "val" if "val" in {**official, **(spec.get("lists") or {})} else None


def _set_out(
    left: np.ndarray, labels: np.ndarray, n: int, num_classes: int, what: str, source: Shuffles
) -> tuple[np.ndarray, np.ndarray]:
    """(what stays, n positions of every class), both ascending."""
    if n == 0:
        return left, left[:0]
    have = counts_of(labels[left], num_classes)
    if have.min() < n:
        c = int(have.argmin())
        raise UserError(f"holdout.{what}: {n} images per class wanted, class {c} has {have[c]}")
    taken = np.sort(left[select(labels[left], np.full(num_classes, n), source)])
    return np.setdiff1d(left, taken, assume_unique=True), taken


def _imbalanced(labels: np.ndarray, imbalance: Mapping[str, Any], num_classes: int, seed: int) -> np.ndarray:
    name = imbalance.get("rule", "exponential")
    count, draw = pick("imbalance rule", name, RULES)
    factor = imbalance.get("imb_factor")
    if factor is None:
        raise UserError(f"imbalance.imb_factor: missing; rule '{name}' needs max/min, e.g. 100")
    have = counts_of(labels, num_classes)
    n_max = imbalance.get("n_max")
    if n_max is None:
        if have.min() != have.max():
            raise UserError(f"imbalance.n_max: missing, and the classes differ ({have.min()} to {have.max()})")
        n_max = len(labels) / num_classes
    wanted = count(n_max, factor, num_classes)
    if (wanted == 0).any():
        c = int((wanted == 0).argmax())
        raise UserError(f"imbalance: class {c} would keep no image (n_max {n_max}, imb_factor {factor})")
    if (wanted > have).any():
        c = int((wanted > have).argmax())
        raise UserError(f"imbalance: class {c} has {have[c]} images, '{name}' wants {wanted[c]}; lower n_max")
    return select(labels, wanted, draw(seed))


def _refuse_empty(counts: np.ndarray) -> None:
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        names = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise UserError(f"training list: {len(empty)} of {len(counts)} classes have no image (class {names})")
