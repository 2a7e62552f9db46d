"""Batches of one epoch, for images in memory and for files, behind one interface.

Order and augmentation are pure functions of (seed, epoch) and, for a stateful sampler, of its state at the
start of the epoch: worker count, restarts and rank count do not change which samples make up a global batch.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lt.data.augment import Preset, fast
from lt.data.augment import pil_ops as ops
from lt.errors import UserError
from lt.rng import stream

PREFETCH = 4  # batches under way per worker
DEVICE_SHARE = 0.25  # of the device's free memory that the images may take
Job = tuple[np.ndarray, np.ndarray]  # positions in the list, rows of draws
Batch = dict[str, Any]


def draw_rows(order: np.ndarray, *, n: int, columns: int, seed: int, epoch: int) -> np.ndarray:
    """float32 [len(order), columns]: row i of the epoch's table for sample i, N + position for its repeats."""
    if columns == 0:
        return np.zeros((len(order), 0), dtype=np.float32)
    first = np.zeros(len(order), dtype=bool)
    first[np.unique(order, return_index=True)[1]] = True
    number = np.where(first, order, n + np.arange(len(order)))
    needed = int(number.max()) + 1 if len(number) else 0  # the table fills from row 0, so its head is enough
    return stream(seed, "augment", epoch).random((needed, columns), dtype=np.float32)[number]


def _decode(path: Path, channels: int) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB" if channels == 3 else "L")


class _Unreadable(Exception):
    pass


class _Failure(str):
    """Why a sample could not be read; crosses from a worker as text, so that the message stays one line."""


class _PerImage(torch.utils.data.Dataset):
    """One job is one batch: the per-image part runs here, in whichever process this is."""

    def __init__(self, source: Any, indices: np.ndarray, preset: Preset, channels: int):
        self.images, self.pack = source.images, getattr(source, "pack", None)
        self.files = None if source.paths is None else (Path(source.root or "."), source.paths)
        self.indices, self.preset, self.channels = indices, preset, channels

    def _image(self, index: int) -> Any:
        """Pillow's, or an array [H, W, C] where the preset takes that."""
        if self.images is not None:
            image = self.images[index]
            repeats = self.channels // len(image)
            image = ops.to_pil(np.repeat(image, repeats, 0) if repeats > 1 else image)
        elif self.pack is not None:
            pixels = self.pack.pixels(index)
            if self.preset.fast and self.channels == 3:
                return pixels
            image = ops.from_pixels(pixels, self.channels)
        else:
            image = _decode(self.files[0] / self.files[1][index], self.channels)
        return np.asarray(image) if self.preset.fast else image

    def _one(self, index: int, row: np.ndarray) -> Tensor:
        try:
            image = self._image(index)
        except Exception as error:  # Pillow's decoders raise many kinds
            if self.files is None:
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise _Unreadable(f"cannot read image {self.files[0] / self.files[1][index]}: {reason}") from None
        return self.preset.sample(image, row)

    def __getitem__(self, job: Job) -> Tensor | _Failure:
        positions, rows = job
        found = (self._one(int(self.indices[p]), row) for p, row in zip(positions.tolist(), rows, strict=True))
        try:
            if self.preset.fast and len(positions):
                return fast.stack(found, len(positions))
            samples = list(found)
        except _Unreadable as error:
            return _Failure(error)
        shapes = {tuple(sample.shape) for sample in samples}
        if len(shapes) > 1:
            shown = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:3])
            return _Failure(f"images differ in size ({shown}); choose an augmentation that crops or resizes")
        if not samples:
            return torch.zeros((0, self.channels, 1, 1), dtype=torch.uint8)
        return torch.stack(samples)


class _Plan(torch.utils.data.Sampler):
    """The jobs of the epoch under way; one object, because the workers persist over epochs."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


def _same(batch: Any) -> Any:
    return batch


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


class Loader:
    """Batches {"image", "target", "index"} of the images `indices` of `source`, with `labels` in that order.

    `batch_size` is the global one; a rank gets every `world`-th sample of each global batch.
    """

    def __init__(
        self,
        source: Any,
        indices: np.ndarray | None = None,
        *,
        labels: np.ndarray | None = None,
        preset: Preset,
        batch_size: int,
        seed: int,
        sampler: Any = None,
        steps: int | None = None,
        drop_last: bool = False,
        shuffle: bool = True,
        workers: int = 0,
        device: str | torch.device = "cpu",
        resident: bool = True,
        prefetch: bool = True,
        rank: int = 0,
        world: int = 1,
        channels: int | None = None,
    ):
        self.indices = np.arange(len(source.labels)) if indices is None else np.asarray(indices, dtype=np.int64)
        self.labels = np.asarray(source.labels)[self.indices] if labels is None else np.asarray(labels)
        if len(self.labels) != len(self.indices):
            raise UserError(f"{len(self.labels)} labels for {len(self.indices)} images in the list")
        self.n, self.batch_size, self.seed, self.sampler = len(self.indices), batch_size, seed, sampler
        self.preset, self.shuffle, self.rank, self.world = preset, shuffle, rank, world
        self.device, self.workers = torch.device(device), workers
        self.resident, self.prefetch = resident, prefetch
        self._set_length(steps, drop_last)
        self._next = 0  # the epoch that a stateful sampler stands before
        self._begun = {
            "epoch": 0,
            "sampler": None if sampler is None else copy.deepcopy(sampler.state_dict()),
        }
        own = source.images.shape[1] if source.images is not None else 3
        self.channels = channels or own
        if self.channels != own and (source.images is not None and own != 1):
            raise UserError(f"channels: {self.channels} asked of images that have {own}")
        self._files = source.images is None or preset.per_image
        self._loader: Any = None
        if self._files:
            self._plan = _Plan()
            self._dataset = _PerImage(source, self.indices, preset, self.channels)
        else:
            self._images = self._place(source.images)

    def _set_length(self, steps: int | None, drop_last: bool) -> None:
        if self.n == 0:
            raise UserError("no images to load: the list of indices is empty")
        if self.batch_size < 1:
            raise UserError(f"batch_size: {self.batch_size}; expected at least 1")
        whole = self.n // self.batch_size if drop_last else math.ceil(self.n / self.batch_size)
        if whole == 0:
            raise UserError(f"batch_size: {self.batch_size} with drop_last leaves no batch of {self.n} images")
        self.steps = whole if steps is None else steps
        longer = self.steps > math.ceil(self.n / self.batch_size)
        self._length = (
            self.steps * self.batch_size if longer or drop_last else min(self.n, self.steps * self.batch_size)
        )

    def _place(self, images: np.ndarray) -> Tensor:
        """All images as one uint8 tensor, on the device if they fit."""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="The given NumPy array is not writ"
            )  # a memory map: never written
            tensor = torch.from_numpy(np.ascontiguousarray(images))
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
            if self.resident and tensor.nbytes <= DEVICE_SHARE * free:
                return tensor.to(self.device)
        return tensor

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.steps

    def size(self, step: int) -> int:
        """Images of the global batch of a step, over all ranks."""
        return min(self.batch_size, self._length - step * self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The sampler as it stood before the epoch under way: a restart draws that epoch's order again."""
        return copy.deepcopy(self._begun)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.sampler is not None:
            self.sampler.load_state_dict(copy.deepcopy(state["sampler"]))
        self._begun, self._next = copy.deepcopy(state), state["epoch"]

    def _sampled(self, epoch: int) -> np.ndarray:
        if epoch == self._begun["epoch"] and epoch < self._next:
            self.load_state_dict(self._begun)
        if epoch < self._next:
            raise ValueError(f"the sampler stands before epoch {self._next}; it cannot go back to {epoch}")
        while self._next < epoch:
            self.sampler.epoch(self._next, self._length)
            self._next += 1
        self._begun = {"epoch": epoch, "sampler": copy.deepcopy(self.sampler.state_dict())}
        self._next = epoch + 1
        return np.asarray(self.sampler.epoch(epoch, self._length), dtype=np.int64)[: self._length]

    def order(self, epoch: int) -> np.ndarray:
        """Positions in the list, over the whole epoch and all ranks. Moves a stateful sampler on."""
        if self.sampler is not None:
            return self._sampled(epoch)
        self._begun = {"epoch": epoch, "sampler": None}
        if not self.shuffle:
            return np.resize(np.arange(self.n), self._length)
        generator = stream(self.seed, "order", epoch)
        rounds = math.ceil(self._length / self.n)
        return np.concatenate([generator.permutation(self.n) for _ in range(rounds)])[: self._length]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of this rank from step `start` on."""
        order = self.order(epoch)
        rows = draw_rows(order, n=self.n, columns=self.preset.columns, seed=self.seed, epoch=epoch)
        jobs = []
        for step in range(start, self.steps):
            part = slice(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world)
            jobs.append((order[part], rows[part]))
        batches = self._from_workers(jobs) if self._files else self._in_memory(jobs)
        return _one_ahead(batches, self.device) if self.prefetch and self.device.type == "cuda" else batches

    def where(self) -> str:
        """Where the images are, for the log."""
        if self._files:
            return "files" if self._dataset.pack is None else f"packed files ({self._dataset.pack.mode})"
        return f"{self._images.nbytes / 1e6:.0f} MB in memory on {self._images.device}"

    def _finish(self, raw: Tensor, job: Job) -> Batch:
        positions, rows = job
        return {
            "image": self.preset.batch(raw, torch.from_numpy(rows)),
            "target": self._move(torch.from_numpy(self.labels[positions].astype(np.int64))),
            "index": self._move(torch.from_numpy(self.indices[positions])),
        }

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _gathered(self, where: Tensor) -> Tensor:
        """The images of a batch; on their way to a device through pinned memory, or the copy would be waited for."""
        if self._images.is_cuda or self.device.type != "cuda":
            return self._images[where.to(self._images.device, non_blocking=True)]
        out = torch.empty((len(where), *self._images.shape[1:]), dtype=self._images.dtype, pin_memory=True)
        return torch.index_select(self._images, 0, where, out=out)

    def _in_memory(self, jobs: list[Job]) -> Iterator[Batch]:
        for job in jobs:
            raw = self._move(self._gathered(torch.from_numpy(self.indices[job[0]])))
            yield self._finish(raw.expand(-1, self.channels, -1, -1), job)

    def _from_workers(self, jobs: list[Job]) -> Iterator[Batch]:
        self._plan.jobs = jobs
        if self._loader is None:
            forked = {"persistent_workers": True, "prefetch_factor": PREFETCH, "worker_init_fn": _one_thread}
            self._loader = torch.utils.data.DataLoader(
                self._dataset,
                sampler=self._plan,
                batch_size=None,
                collate_fn=_same,
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # or it would move the global one
                **(forked if self.workers else {}),
            )
        for raw, job in zip(self._loader, jobs, strict=True):
            if isinstance(raw, str):
                raise UserError(str(raw))
            yield self._finish(self._move(raw), job)


def _one_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy and augment the next batch on a side stream while the caller works on this one."""
    side, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def fetch() -> Batch | None:
        with torch.cuda.stream(side):
            return next(batches, None)

    ready = fetch()
    while ready is not None:
        main.wait_stream(side)
        for value in ready.values():
            for tensor in value if isinstance(value, tuple) else (value,):
                tensor.record_stream(main)
        following = fetch()
        yield ready
        ready = following
