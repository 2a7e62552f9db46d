"""Packed images: a list of files as a few shards and an index, made once, read by memory map or sequentially.

`exact` keeps each file's bytes; `jpeg256` and `raw256` hold other pixels: the short side cut to 256, as JPEG of quality
90 or as bytes. A shard is written whole or not at all, so a pack that was killed goes on with the shards that are
missing and ends in the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lt.artefact import sha256, write_text
from lt.errors import UserError, pick

PER_SHARD = 4096
SHORT, QUALITY = 256, 90
# decoder: 0 Pillow, 1 simplejpeg (its pixels were compared with Pillow's), 2 none
COLUMNS = ("shard", "offset", "bytes", "height", "width", "decoder")
PILLOW, FAST, RAW = range(3)
Packed = tuple[bytes, int, int, int]  # content, height, width, decoder


def _open(content: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


def _decoder(content: bytes, pixels: np.ndarray) -> int:
    """The fast decoder where it finds Pillow's pixels."""
    if content[:2] != b"\xff\xd8":
        return PILLOW
    try:
        return FAST if np.array_equal(_fast(content), pixels) else PILLOW
    except Exception:  # a kind of JPEG that it does not know: CMYK, for one
        return PILLOW


def _fast(content: Any) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(content, "RGB")


def _smaller(image: Any) -> Any:
    """Short side at most SHORT; the long side as a resize of the short one leaves it."""
    from lt.data.augment import pil_ops

    return image if min(image.size) <= SHORT else pil_ops.resize_short(image, SHORT, pil_ops.RESAMPLE["bilinear"])


def _exact(content: bytes) -> Packed:
    pixels = np.asarray(_open(content))
    return content, *pixels.shape[:2], _decoder(content, pixels)


def _jpeg256(content: bytes) -> Packed:
    out = io.BytesIO()
    _smaller(_open(content)).save(out, format="JPEG", quality=QUALITY)
    return _exact(out.getvalue())


def _raw256(content: bytes) -> Packed:
    pixels = np.asarray(_smaller(_open(content)))
    return pixels.tobytes(), *pixels.shape[:2], RAW


MODES = {"exact": _exact, "jpeg256": _jpeg256, "raw256": _raw256}
OTHER_PIXELS = ("jpeg256", "raw256")


def read_image(path: Path, mode: str) -> Packed | str:
    """What is kept of one file, or why it cannot be read."""
    try:
        return MODES[mode](path.read_bytes())
    except Exception as error:  # Pillow's decoders raise many kinds
        return " ".join(str(error).split()) or type(error).__name__


def unreadable(files: Sequence[Path], *, processes: int = 1) -> list[tuple[int, str]]:
    """The files that cannot be decoded, by position, and why; nothing is written."""
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        found = pool.imap(_reason, files, chunksize=64)
        return [(place, reason) for place, reason in enumerate(found) if reason]


def _reason(file: Path) -> str:
    try:
        _open(file.read_bytes())
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.bin"


def _write_shard(folder: Path, number: int, files: Sequence[Path], mode: str, owner: int) -> None:
    """The shard, then its list beside it, which says that it is whole. Ends early if its owner is gone."""
    target, rows, problems, digest, place = _shard(folder, number), [], [], hashlib.sha256(), 0
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    with open(temporary, "wb") as out:
        for position, file in enumerate(files):
            if os.getppid() != owner:
                temporary.unlink(missing_ok=True)
                return
            found = read_image(file, mode)
            if isinstance(found, str):
                problems.append([number * PER_SHARD + position, found])
                continue
            content, *facts = found
            out.write(content)
            digest.update(content)
            rows.append([number, place, len(content), *facts])
            place += len(content)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, target)
    said = {"sha256": digest.hexdigest(), "bytes": place, "rows": rows, "problems": problems}
    write_text(target.with_suffix(".json"), json.dumps(said))


def _finished(folder: Path, number: int) -> dict[str, Any] | None:
    """What a whole shard without problems says of itself."""
    try:
        said = json.loads(_shard(folder, number).with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    path = _shard(folder, number)
    whole = not said["problems"] and path.is_file() and path.stat().st_size == said["bytes"]
    return said if whole and sha256(path) == said["sha256"] else None


def _work(folder: Path, numbers: Sequence[int], files: Sequence[Path], mode: str, owner: int) -> None:
    for number in numbers:
        _write_shard(folder, number, files[number * PER_SHARD : (number + 1) * PER_SHARD], mode, owner)


def write(folder: Path, files: Sequence[Path], *, mode: str, processes: int = 1) -> tuple[list[tuple[int, str]], int]:
    """Shards and `index.npy` in `folder`; the files that cannot be read, by position, and how many shards were there.

    Each process has its own shards, and they talk to nobody: what is killed leaves nothing half done.
    """
    pick("pack", mode, MODES)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".shard-*.tmp"):
        left.unlink()
    shards = range(-(-len(files) // PER_SHARD))
    todo = [n for n in shards if _finished(folder, n) is None]
    shares = [todo[i::processes] for i in range(processes) if todo[i::processes]]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_work, args=(folder, share, files, mode, os.getpid())) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise UserError(f"{folder}: a process of the pack was ended or ran out of space; run the same command again")
    said = [json.loads(_shard(folder, n).with_suffix(".json").read_text()) for n in shards]
    problems = [(int(place), str(reason)) for each in said for place, reason in each["problems"]]
    if not problems:
        np.save(folder / "index.npy", np.array([row for each in said for row in each["rows"]], dtype=np.int64))
    return problems, len(shards) - len(todo)


@functools.cache
def fast_is_pillow() -> bool:
    """Once a process: this machine's fast decoder against its Pillow, which may be others than those of the pack."""
    from PIL import Image

    y, x = np.mgrid[:40, :56]
    pixels = np.stack([x * 4 + y, (x * y) % 251, 255 - 5 * y + (x > 20) * 40], 2).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="JPEG", quality=QUALITY)
    return _decoder(out.getvalue(), np.asarray(_open(out.getvalue()))) == FAST


@dataclass
class Pack:
    """A finished pack: `pixels(i)` is image i of the list, uint8 [H, W, 3].

    Memory maps by default, one a shard and process; `in_memory` reads the shards from end to end first, which is what
    a network disk is good at. Worker processes share both.
    """

    folder: Path
    mode: str
    in_memory: bool = False
    index: np.ndarray = field(init=False, repr=False)
    _shards: dict[int, np.ndarray] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.index = np.load(self.folder / "index.npy", allow_pickle=False)
        if self.in_memory:
            for number in np.unique(self.index[:, 0]).tolist():
                self._shards[number] = np.fromfile(_shard(self.folder, number), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": self._shards if self.in_memory else {}}

    def content(self, position: int) -> np.ndarray:
        """The bytes of one image, not copied."""
        return self._content(*self.index[position, :3].tolist())

    def _content(self, number: int, offset: int, size: int) -> np.ndarray:
        if number not in self._shards:
            mapped = np.memmap(_shard(self.folder, number), dtype=np.uint8, mode="r")
            self._shards[number] = mapped.view(np.ndarray)  # slices of a memmap are slow
        return self._shards[number][offset : offset + size]

    def pixels(self, position: int) -> np.ndarray:
        """Of a raw pack a view of the map: never written to."""
        number, offset, size, *facts = self.index[position].tolist()
        return decoded(self._content(number, offset, size), *facts)

    def sequential(self) -> Iterator[np.ndarray]:
        """All images in list order, each shard read from its beginning to its end."""
        for number in np.unique(self.index[:, 0]).tolist():
            rows = self.index[self.index[:, 0] == number]
            with open(_shard(self.folder, number), "rb") as file:
                for _, _, size, height, width, decoder in rows.tolist():
                    yield decoded(np.frombuffer(file.read(size), dtype=np.uint8), height, width, decoder)


def decoded(content: np.ndarray, height: int, width: int, decoder: int) -> np.ndarray:
    if decoder == RAW:
        return content.reshape(height, width, 3)
    if decoder == FAST and fast_is_pillow():
        return _fast(content)
    return np.asarray(_open(content.tobytes()))
