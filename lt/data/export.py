"""A split as a folder of folders, for tools that want that layout."""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lt.data.sources import Source
from lt.data.splits import Split
from lt.errors import UserError, pick


def _symlink(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


MODES: dict[str, Callable[[Path, Path], object]] = {"symlink": _symlink, "hardlink": os.link, "copy": _copy}


def export_imagefolder(
    sources: Mapping[str, Source], split: Split, out: Path | str, *, mode: str = "symlink"
) -> dict[str, int]:
    """Write out/<part>/<class>/<image> and out/classes.csv; returns the number of images of each part.

    `sources`: the parts that the split counts in (`split.parts`), unmapped. Class folders sort in label order, so
    that a tool which numbers folders gets the labels that training uses. Images in memory are written as PNG.
    """
    out, place = Path(out), pick("export mode", mode, MODES)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not empty; give a new folder")
    wanted = {part: name for part, name in split.parts.items() if name is not None}
    missing = sorted(set(wanted.values()) - set(sources))
    if missing:
        raise UserError(f"export: the split needs the source's '{missing[0]}' part, too")
    sources = {name: source.relabelled(split.class_map) for name, source in sources.items()}
    folders = class_folders(sources[wanted["train"]])
    numbers = {}
    for part, name in wanted.items():
        indices = getattr(split, part)
        source = sources[name]
        indices = np.arange(len(source)) if indices is None else indices
        _export_part(source, indices, out / part, folders, place)
        numbers[part] = len(indices)
    _write_classes(out / "classes.csv", sources[wanted["train"]], folders, split)
    return numbers


def class_folders(source: Source) -> list[str]:
    """The set's own class names where they sort in label order, else padded labels."""
    names = source.class_names or _from_paths(source)
    plain = names is not None and all(name not in ("", ".", "..") and "/" not in name for name in names)
    if plain and list(names) == sorted(set(names)):
        return list(names)
    width = len(str(source.num_classes - 1))
    return [f"{label:0{width}d}" for label in range(source.num_classes)]


def _from_paths(source: Source) -> list[str] | None:
    """Name of the folder that holds a class, if every class has exactly one."""
    if source.paths is None:
        return None
    names: list[str | None] = [None] * source.num_classes
    for path, label in zip(source.paths, source.labels.tolist(), strict=True):
        folder = path.split("/")[-2] if "/" in path else None
        if folder is None or names[label] not in (None, folder):
            return None
        names[label] = folder
    return None if None in names else names  # type: ignore[return-value]


def _export_part(
    source: Source, indices: np.ndarray, out: Path, folders: list[str], place: Callable[[Path, Path], object]
) -> None:
    for label in np.unique(source.labels[indices]):
        (out / folders[label]).mkdir(parents=True)
    stems = [Path(source.paths[i]).name if source.paths is not None else f"{i:06d}.png" for i in indices]
    taken = Counter(zip(source.labels[indices].tolist(), stems, strict=True))
    for index, stem in zip(indices.tolist(), stems, strict=True):
        label = int(source.labels[index])
        target = out / folders[label] / (stem if taken[label, stem] == 1 else f"{index:07d}_{stem}")
        if source.paths is None:
            _write_png(source.images[index], target)
            continue
        try:
            place(source.file(index), target)
        except OSError as error:
            raise UserError(f"export: {source.file(index)} -> {target}: {error.strerror}") from None


def _write_png(image: np.ndarray, target: Path) -> None:
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, format="PNG")


def _write_classes(file: Path, source: Source, folders: list[str], split: Split) -> None:
    original = np.argsort(split.class_map)
    names = source.class_names or folders
    with open(file, "w", encoding="utf-8", newline="") as handle:
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(["folder", "label", "original_label", "name", "train_images"])
        for label, folder in enumerate(folders):
            rows.writerow([folder, label, original[label], names[label], split.class_counts[label]])
