"""Which training images come next. `epoch(epoch, length) -> int64 indices into the training list`.

A sampler is one stream of indices: what it keeps between epochs (cycles, position of its source) is in
`state_dict()`, plain numbers and lists, and comes back with `load_state_dict()`. Sources are `random.Random`,
`numpy` generators or a `torch.Generator`; never a global one. Samplers that keep nothing also take a function
`epoch -> source`, which makes an epoch a pure function of its number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from lt.errors import UserError, nearest, pick
from lt.sampling.sources import below, is_torch, restore_source, shuffle, source_state, uniforms


class Sampler:
    """Base: holds the labels and the source."""

    def __init__(self, *, labels: object, num_classes: int, source: object) -> None:
        self.labels = checked_labels(labels, num_classes)
        self.num_classes = int(num_classes)
        self.counts = np.bincount(self.labels, minlength=num_classes)
        self.source = source

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        raise NotImplementedError

    def source_of(self, epoch: int) -> object:
        return self.source(epoch) if callable(self.source) else self.source

    def state_dict(self) -> dict:
        return {} if callable(self.source) else {"source": source_state(self.source)}

    def load_state_dict(self, state: dict) -> None:
        if "source" in state:
            restore_source(self.source, state["source"])


def checked_labels(labels: object, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise UserError(f"sampler: labels must be a non-empty list, got shape {labels.shape}")
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"sampler: labels must lie in 0..{num_classes - 1}, got {int(labels.min())}..{int(labels.max())}"
        )
    return labels


# ---- cycles --------------------------------------------------------------------------------------------


class Cycle:
    """Endless walk over items, shuffled in place before each round (the first included)."""

    def __init__(self, items: np.ndarray) -> None:
        self.items = np.array(items, dtype=np.int64)
        self.at = len(self.items) - 1

    def next(self, source: object) -> int:
        self.at += 1
        if self.at == len(self.items):
            self.at = 0
            shuffle(source, self.items)
        return self.items[self.at]

    def state_dict(self) -> dict:
        return {"items": self.items.tolist(), "at": self.at}

    def load_state_dict(self, state: dict) -> None:
        items = np.array(state["items"], dtype=np.int64)
        if not np.array_equal(np.sort(items), np.sort(self.items)):
            raise UserError("sampler: the saved state belongs to another training list")
        self.items, self.at = items, int(state["at"])


class Cycling(Sampler):
    """A cycle a class; empty classes have none."""

    def __init__(self, *, labels: object, num_classes: int, source: object) -> None:
        super().__init__(labels=labels, num_classes=num_classes, source=source)
        if callable(source):
            raise UserError("sampler: cycles persist over epochs and need one source, not one an epoch")
        by_class = np.split(np.argsort(self.labels, kind="stable"), np.cumsum(self.counts)[:-1])
        self.present = np.flatnonzero(self.counts)
        self.cycles = {int(c): Cycle(by_class[c]) for c in self.present}

    @property
    def nominal_length(self) -> int:
        """Largest class times number of classes: the published length of an oversampled epoch."""
        return int(self.counts.max()) * self.num_classes

    def state_dict(self) -> dict:
        cycles = {str(c): cycle.state_dict() for c, cycle in self.cycles.items()}
        return {**super().state_dict(), "cycles": cycles}

    def load_state_dict(self, state: dict) -> None:
        if set(state["cycles"]) != {str(c) for c in self.cycles}:
            raise UserError("sampler: the saved state belongs to another training list")
        for c, saved in state["cycles"].items():
            self.cycles[int(c)].load_state_dict(saved)
        super().load_state_dict(state)


class ClassAware(Cycling):
    """The next class of a shuffled cycle, then `k` images of that class's own cycle.

    Cycles go on from epoch to epoch; the position within the k starts anew. `discard` images more are drawn at the
    end of every epoch and dropped: BaGMar's loop fetches one batch that it does not use.
    """

    def __init__(self, *, labels: object, num_classes: int, source: object, k: int = 4, discard: int = 0) -> None:
        super().__init__(labels=labels, num_classes=num_classes, source=source)
        if k < 1 or discard < 0:
            raise UserError(f"class_aware: k must be 1 or more and discard not negative, got {k}, {discard}")
        self.k, self.discard = int(k), int(discard)
        self.classes = Cycle(self.present)

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        visits = -(-(length + self.discard) // self.k)
        indices = np.empty(visits * self.k, dtype=np.int64)
        at = 0
        for _ in range(visits):
            cycle = self.cycles[int(self.classes.next(self.source))]
            for _ in range(self.k):
                indices[at] = cycle.next(self.source)
                at += 1
        return indices[:length]

    def state_dict(self) -> dict:
        return {**super().state_dict(), "classes": self.classes.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.classes.load_state_dict(state["classes"])
        super().load_state_dict(state)


class RideBalanced(Cycling):
    """RIDE's router stage: a class drawn uniformly, the next image of its list; lists are shuffled at the start."""

    def __init__(self, *, labels: object, num_classes: int, source: object) -> None:
        super().__init__(labels=labels, num_classes=num_classes, source=source)
        for cycle in self.cycles.values():
            shuffle(source, cycle.items)
            cycle.at = -1

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        indices = np.empty(length, dtype=np.int64)
        for i in range(length):
            cycle = self.cycles[int(self.present[below(self.source, len(self.present))])]
            indices[i] = cycle.next(self.source)
            if cycle.at == len(cycle.items) - 1:
                shuffle(self.source, cycle.items)
                cycle.at = -1
        return indices


# ---- weights -------------------------------------------------------------------------------------------


def heap_order(number: int) -> np.ndarray:
    """Leaves of a binary heap over `number` weights from left to right: the order in which a sum tree looks."""
    leaves, stack = [], [0]
    while stack:
        node = stack.pop()
        if node >= number - 1:
            leaves.append(node - (number - 1))
        else:
            stack += [2 * node + 2, 2 * node + 1]
    return np.array(leaves, dtype=np.int64)


def class_weights(counts: np.ndarray, *, share: float, root: float | None = None) -> np.ndarray:
    """share * balanced + (1 - share) * counts; balanced = equal, or counts^(1/root), over non-empty classes; sum N."""
    balanced = (counts > 0).astype(np.float64) if root is None else counts ** (1.0 / root)
    balanced = balanced / balanced.sum() * counts.sum()
    return share * balanced + (1.0 - share) * counts


class ClassPriority(Cycling):
    """A class drawn by weight, then the next image of its cycle (decoupling paper).

    `share` 0: by class size; 1: balanced (`root` 2: square root); None: from 0 to 1 over `epochs` (progressive).
    """

    def __init__(
        self,
        *,
        labels: object,
        num_classes: int,
        source: object,
        share: float | None = 1.0,
        root: float | None = None,
        epochs: int | None = None,
        weights: object = None,
    ) -> None:
        super().__init__(labels=labels, num_classes=num_classes, source=source)
        if share is None and not epochs:
            raise UserError("progressive sampling needs epochs")
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"class_priority: share must lie in [0, 1], got {share}")
        if root is not None and root <= 0:
            raise UserError(f"class_priority: root must be positive, got {root}")
        self.share, self.root, self.epochs = share, root, epochs
        self.fixed = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.order = heap_order(self.num_classes)

    def weights(self, epoch: int) -> np.ndarray:
        if self.fixed is not None:
            return self.fixed
        share = self.share
        if share is None:
            share = float(np.linspace(0.0, 1.0, self.epochs)[min(epoch, self.epochs - 1)])
        return class_weights(self.counts, share=share, root=self.root)

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        edges = np.cumsum(self.weights(epoch)[self.order])
        indices = np.empty(length, dtype=np.int64)
        for i in range(length):
            c = self.order[_locate(edges, uniforms(self.source, 1))[0]]
            indices[i] = self.cycles[int(c)].next(self.source)
        return indices


def _locate(edges: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Position of each draw in [0, 1) on the cumulated weights; never an item of weight 0."""
    last = int(np.searchsorted(edges, edges[-1], side="left"))
    return np.minimum(np.searchsorted(edges, draws * edges[-1], side="right"), last)


class Weighted(Sampler):
    """Images drawn with replacement, each with the weight of its class."""

    def __init__(self, *, labels: object, num_classes: int, source: object, per_class: np.ndarray) -> None:
        super().__init__(labels=labels, num_classes=num_classes, source=source)
        self.weights = np.asarray(per_class, dtype=np.float64)[self.labels]

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        source = self.source_of(epoch)
        if is_torch(source) and length:
            import torch

            weights = torch.from_numpy(self.weights)
            return torch.multinomial(weights, length, replacement=True, generator=source).numpy()
        return _locate(np.cumsum(self.weights), uniforms(source, length)).astype(np.int64)


class MixedPriority(Weighted):
    """Images drawn by weight through a sum tree (decoupling paper): ClassPriority's weights, shared in a class."""

    def __init__(
        self,
        *,
        labels: object,
        num_classes: int,
        source: object,
        share: float = 1.0,
        root: float | None = None,
    ) -> None:
        counts = np.bincount(checked_labels(labels, num_classes), minlength=num_classes)
        weights = class_weights(counts, share=share, root=root) / np.maximum(counts, 1)
        super().__init__(labels=labels, num_classes=num_classes, source=source, per_class=weights)
        self.order = heap_order(len(self.labels))

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        edges = np.cumsum(self.weights[self.order])
        return self.order[_locate(edges, uniforms(self.source_of(epoch), length))]


class Instance(Sampler):
    """A permutation an epoch, and further ones where `length` is longer."""

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        source, parts = self.source_of(epoch), []
        for _ in range(-(-length // len(self.labels))):
            order = np.arange(len(self.labels), dtype=np.int64)
            shuffle(source, order)
            parts.append(order)
        return np.concatenate(parts)[:length] if parts else np.empty(0, dtype=np.int64)


class OfficialOrder(Sampler):
    """One permutation for every epoch and every run: torch's DistributedSampler with seed 0, never told the epoch.

    So does IP-DPP's released pre-training on one device: with whole batches the same images are left out each time.
    """

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        import torch

        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0)).numpy()
        return np.resize(order, length)


def _counts(labels: object, num_classes: int) -> np.ndarray:
    return np.maximum(np.bincount(checked_labels(labels, num_classes), minlength=num_classes), 1).astype(np.float64)


def inverse_frequency(*, labels: object, num_classes: int, source: object) -> Weighted:
    """Weight 1/n_c an image: classes equally likely."""
    per_class = 1.0 / _counts(labels, num_classes)
    return Weighted(labels=labels, num_classes=num_classes, source=source, per_class=per_class)


def effective_number(*, labels: object, num_classes: int, source: object, beta: float = 0.9999) -> Weighted:
    """Weight (1 - beta) / (1 - beta^n_c) an image."""
    if not 0 <= beta < 1:
        raise UserError(f"effective_number: beta must lie in [0, 1), got {beta}")
    per_class = (1.0 - beta) / (1.0 - np.power(beta, _counts(labels, num_classes)))
    return Weighted(labels=labels, num_classes=num_classes, source=source, per_class=per_class)


def square_root(*, labels: object, num_classes: int, source: object) -> Weighted:
    """Classes drawn by the square root of their size: weight n_c^(-1/2) an image."""
    per_class = _counts(labels, num_classes) ** -0.5
    return Weighted(labels=labels, num_classes=num_classes, source=source, per_class=per_class)


def progressive(
    *, labels: object, num_classes: int, source: object, epochs: int, root: float | None = None
) -> ClassPriority:
    """From instance-balanced in the first epoch to class-balanced in the last."""
    return ClassPriority(labels=labels, num_classes=num_classes, source=source, share=None, root=root, epochs=epochs)


def meta(*, labels: object, num_classes: int, source: object, init_pow: float = 0.0, lr: float = 0.01) -> Sampler:
    """BALMS: see lt.sampling.meta (imported here, because it needs torch)."""
    from lt.sampling.meta import MetaSampler

    return MetaSampler(labels=labels, num_classes=num_classes, source=source, init_pow=init_pow, lr=lr)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "instance": Instance,
    "official_order": OfficialOrder,
    "class_aware": ClassAware,
    "class_priority": ClassPriority,
    "mixed_priority": MixedPriority,
    "progressive": progressive,
    "inverse_frequency": inverse_frequency,
    "effective_number": effective_number,
    "square_root": square_root,
    "ride_balanced": RideBalanced,
    "meta": meta,
}


def build(name: str, *, labels: object, num_classes: int, source: object, **options: object) -> Sampler:
    """The sampler of that name over a training list's labels."""
    factory = pick("sampler", name, SAMPLERS)
    known = [p for p in inspect.signature(factory).parameters if p not in ("labels", "num_classes", "source")]
    for option in options:
        if option not in known:
            raise UserError(f"sampler '{name}' has no option '{option}'{nearest(option, known) or '; it has none'}")
    return factory(labels=labels, num_classes=num_classes, source=source, **options)
