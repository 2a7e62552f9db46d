"""`lt export-imagefolder DATASET OUT`: a split as a folder of folders, for tools that want that layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from lt.artefact import writing
from lt.config import load


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a data set of params.yaml")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--mode", default="symlink", help="symlink, hardlink or copy (images in memory become PNG)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (0)")


def main(given: argparse.Namespace) -> None:
    from lt.data import sources
    from lt.data.export import export_imagefolder
    from lt.data.splits import make_split

    spec = load().dataset(given.dataset).model_dump()
    train = sources.load(spec, "train")
    split = make_split(train.labels, spec=spec, seed=given.seed)
    parts = {name for name in split.parts.values() if name is not None} - {"train"}
    found = {"train": train, **{name: sources.load(spec, name) for name in sorted(parts)}}
    with writing(given.out):
        numbers = export_imagefolder(found, split, given.out, mode=given.mode)
    print(f"{given.out}: " + ", ".join(f"{part} {count}" for part, count in numbers.items()))
