"""Trees in the exact layout of the real data sets, with tiny made-up images or none at all.

For tests, and for a user who wants to run everything once before the real images are there. Class sizes are
the official ones (`cap` limits them) or given. Pictures carry their class as a colour, so a network can learn.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lt.data.cifar_files import LAYOUT
from lt.data.lists import BALANCED, OFFICIAL, expected_counts, read_list, write_list
from lt.errors import UserError, pick
from lt.rng import stream

SUPERS = ("Actinopterygii", "Amphibia", "Animalia", "Arachnida", "Aves", "Bacteria", "Chromista", "Fungi")
SUPERS += ("Insecta", "Mammalia", "Mollusca", "Plantae", "Protozoa", "Reptilia")
PIXELS = ("images", "empty", "none")
Counts = Sequence[int] | np.ndarray


def rehearse(
    family: str,
    root: Path | str,
    *,
    counts: Counts | None = None,
    cap: int | None = None,
    test_per_class: int | None = None,
    pixels: str = "images",
    size: int = 32,
    seed: int = 0,
) -> Path:
    """Write `family` under `root` and return it. `pixels`: images, empty (files of no bytes), none (lists)."""
    root, make = Path(root), pick("layout", family, LAYOUTS)
    pick("pixels", pixels, dict.fromkeys(PIXELS))
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: not empty; give a new folder")
    for name, value in (("size", size), ("cap", cap), ("test", test_per_class)):
        if value is not None and value < 1:
            raise UserError(f"{name}: expected at least 1, got {value}")
    if counts is None:
        counts = default_counts(family)
    counts = np.asarray(counts, dtype=np.int64)
    if cap is not None:
        counts = np.minimum(counts, cap)
    if counts.ndim != 1 or not len(counts) or counts.min() < 0:
        raise UserError("counts: expected one number of images per class, none negative")
    root.mkdir(parents=True, exist_ok=True)
    make(root, counts, test_per_class=test_per_class, cap=cap, pixels=pixels, size=size, seed=seed)
    return root


def default_counts(family: str) -> np.ndarray:
    """Training images per class of the real set."""
    full = {"cifar10_lt": (10, 5000), "cifar100_lt": (100, 500), "fashion_mnist_lt": (10, 6000)}
    full["imagenet_bal"] = (1000, 160)
    if family in full:
        return np.full(*full[family], dtype=np.int64)
    counts = expected_counts(family, "train")
    assert counts is not None
    return counts


def picture(label: int, index: int, *, size: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [size, size, channels]: a colour for the class, a little noise for the image."""
    colour = stream(seed, "noise", "class", label).integers(32, 224, channels)
    noise = stream(seed, "noise", "image", label, index).integers(-24, 25, (size, size, channels))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


# Sets of files


def _wnid(label: int) -> str:
    return f"n{1440764 + 9973 * label:08d}"


def _imagenet(part: str, label: int, n: int, serial: int) -> str:
    if part == "test":
        return f"val/{_wnid(label)}/ILSVRC2012_val_{serial + 1:08d}.JPEG"
    number = n if part == "train" else 100_000 + n  # validation images come from the training part, too
    return f"train/{_wnid(label)}/{_wnid(label)}_{number}.JPEG"


def _places(part: str, label: int, n: int, serial: int) -> str:
    if part == "test":
        return f"val_256/Places365_val_{serial + 1:08d}.jpg"
    number = n + 1 if part == "train" else 10_000 + n
    return f"data_256/{chr(97 + label * 26 // 365 % 26)}/scene_{label:03d}/{number:08d}.jpg"


def _inat(part: str, label: int, n: int, serial: int) -> str:
    name = hashlib.md5(f"{part} {label} {n}".encode(), usedforsecurity=False).hexdigest()
    return f"train_val2018/{SUPERS[label % len(SUPERS)]}/{label}/{name}.jpg"


PATHS: dict[str, Callable[[str, int, int, int], str]] = {
    "imagenet_lt": _imagenet,
    "imagenet_bal": _imagenet,
    "places_lt": _places,
    "inat18": _inat,
}


def listed(family: str, part: str, counts: Counts, *, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Paths and labels of one list: class after class, for iNaturalist in mixed order as the real one is."""
    labels = np.repeat(np.arange(len(counts)), counts)
    within = [n for count in counts for n in range(count)]
    path = PATHS[family]
    paths = [path(part, c, n, i) for i, (c, n) in enumerate(zip(labels.tolist(), within, strict=True))]
    if family == "inat18":
        order = stream(seed, "noise", "list", part).permutation(len(labels))
        return [paths[i] for i in order], labels[order]
    return paths, labels


def _files(
    root: Path,
    counts: np.ndarray,
    *,
    family: str,
    test_per_class: int | None,
    cap: int | None,
    pixels: str,
    size: int,
    seed: int,
) -> None:
    official = "imagenet_lt" if family == "imagenet_bal" else family
    for part, file in OFFICIAL[official].items():
        if part == "val" and family == "imagenet_bal":
            continue
        if part == "train":
            sizes = counts
        else:
            each = BALANCED[official][part] if test_per_class is None else test_per_class
            sizes = np.full(len(counts), each if cap is None or test_per_class is not None else min(each, cap))
        paths, labels = listed(family, part, sizes, seed=seed)
        if family != "imagenet_bal" or part != "train":
            write_list(root / file, paths, labels)
        write_images(root, paths, labels, pixels=pixels, size=size, seed=seed)


def write_images(
    root: Path,
    paths: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    *,
    pixels: str,
    size: int,
    seed: int = 0,
) -> None:
    """A small picture, or an empty file, for every listed path."""
    if pixels == "none":
        return
    for folder in dict.fromkeys(os.path.dirname(path) for path in paths):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, (path, label) in enumerate(zip(paths, np.asarray(labels).tolist(), strict=True)):
        if pixels == "empty":
            (root / path).touch()
        else:
            _save(root / path, picture(label, index, size=size, seed=seed))


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(pixels).save(path, format=kind, **({"quality": 90} if kind == "JPEG" else {}))


def images_for_list(root: Path | str, file: Path | str, *, pixels: str = "images", size: int = 32) -> None:
    """Make the images of a list that is already there, e.g. an official one."""
    content = read_list(file)
    write_images(Path(root), content.paths, content.labels, pixels=pixels, size=size)


# Sets in a few files


def _arrays(counts: np.ndarray, *, size: int, channels: int, seed: int, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, size, size, channels] in mixed order, as in the real files."""
    labels = np.repeat(np.arange(len(counts)), counts)
    draw = stream(seed, "noise", "arrays", part)
    draw.shuffle(labels)
    colours = stream(seed, "noise", "colours").integers(32, 224, (len(counts), 1, 1, channels))
    noise = draw.integers(-24, 25, (len(labels), size, size, channels), dtype=np.int16)
    return np.clip(colours[labels] + noise, 0, 255).astype(np.uint8), labels


def _cifar(
    root: Path,
    counts: np.ndarray,
    *,
    kind: str,
    test_per_class: int | None,
    cap: int | None,
    pixels: str,
    size: int,
    seed: int,
) -> None:
    folder, train, test, key, (meta, names_key), classes = LAYOUT[kind]
    if len(counts) != classes or pixels != "images":
        raise UserError(f"{kind}: {classes} counts and pixels 'images' expected; its labels lie among the pixels")
    out = root / folder
    out.mkdir()
    sizes = np.full(classes, 10_000 // classes if test_per_class is None else test_per_class)
    for part, files, wanted in (("train", train, counts), ("test", (test,), sizes)):
        images, labels = _arrays(wanted, size=32, channels=3, seed=seed, part=part)
        for name, chunk in zip(files, np.array_split(np.arange(len(labels)), len(files)), strict=True):
            rows = images[chunk].transpose(0, 3, 1, 2).reshape(-1, 3072)
            names = [f"{part}_{i:06d}.png".encode() for i in chunk]
            _dump(out / name, {b"data": rows, key.encode(): labels[chunk].tolist(), b"filenames": names})
    _dump(out / meta, {names_key.encode(): [f"class_{c:02d}".encode() for c in range(classes)]})


class _Python2(pickle._Pickler):
    """Text and bytes both as Python 2 strings, as in the published files."""

    dispatch = dict(pickle._Pickler.dispatch)

    def _string(self, value: str | bytes) -> None:
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _string


def _dump(file: Path, content: dict[bytes, object]) -> None:
    out = io.BytesIO()
    _Python2(out, protocol=2).dump(content)
    old = b"cnumpy.core.multiarray\n"  # the module's name at that time
    file.write_bytes(out.getvalue().replace(b"cnumpy._core.multiarray\n", old, 1))


def write_idx(file: Path, values: np.ndarray) -> None:
    """IDX of unsigned bytes, gzip by name."""
    raw = b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes()
    raw += values.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(raw, mtime=0) if file.suffix == ".gz" else raw)


def _fashion(
    root: Path,
    counts: np.ndarray,
    *,
    test_per_class: int | None,
    cap: int | None,
    pixels: str,
    size: int,
    seed: int,
) -> None:
    if len(counts) != 10 or pixels != "images":
        raise UserError("fashion_mnist_lt: 10 counts and pixels 'images' expected")
    sizes = np.full(10, 1000 if test_per_class is None else test_per_class)
    for stem, wanted in (("train", counts), ("t10k", sizes)):
        images, labels = _arrays(wanted, size=28, channels=1, seed=seed, part=stem)
        write_idx(root / f"{stem}-images-idx3-ubyte.gz", images[..., 0])
        write_idx(root / f"{stem}-labels-idx1-ubyte.gz", labels)


LAYOUTS: dict[str, Callable[..., None]] = {
    **{family: partial(_files, family=family) for family in PATHS},
    "cifar10_lt": partial(_cifar, kind="cifar10"),
    "cifar100_lt": partial(_cifar, kind="cifar100"),
    "fashion_mnist_lt": _fashion,
}


def tree(root: Path | str, counts: dict[str, int], *, size: int = 32, seed: int = 0) -> Iterator[Path]:
    """A folder of folders of one's own: `counts` per class name; yields the files it writes."""
    for label, (name, count) in enumerate(counts.items()):
        folder = Path(root) / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            path = folder / f"{name}_{index:05d}.jpg"
            _save(path, picture(label, index, size=size, seed=seed))
            yield path
