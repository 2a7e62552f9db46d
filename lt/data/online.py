"""Batches whose images are drawn one batch at a time, because the draw depends on what was learnt from the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lt.data.loader import Batch, Loader
from lt.errors import UserError
from lt.rng import stream


class OnlineLoader(Loader):
    """A Loader over a sampler with `draw(batch_size)`; nothing is fetched ahead of a step.

    Repeats are the rule, so an image's augmentation belongs to its position in the epoch. The sampler's state is
    its owner's to save: between steps it says all there is to say.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.world > 1:
            raise UserError("a sampler that learns needs its whole batch in one process; run on one device")
        self._length = self.steps * self.batch_size

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        table = stream(self.seed, "augment", epoch).random((self._length, self.preset.columns), dtype=np.float32)
        for step in range(start, self.steps):
            rows = table[step * self.batch_size : (step + 1) * self.batch_size]
            positions = np.asarray(self.sampler.draw(self.batch_size), dtype=np.int64)
            yield self._batch(positions, rows)

    def _batch(self, positions: np.ndarray, rows: np.ndarray) -> Batch:
        """One batch; workers share its images, so that files are read side by side."""
        shares = max(self.workers, 1) if self._files else 1
        cuts = [c for c in np.array_split(np.arange(len(positions)), shares) if len(c)]
        jobs = [(positions[c], rows[c]) for c in cuts]
        parts = list(self._from_workers(jobs) if self._files else self._in_memory(jobs))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
