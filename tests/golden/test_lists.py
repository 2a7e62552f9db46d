"""Class counts, class maps and digests of the official large sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lt.data import lists
from lt.data.class_map import class_map

HERE = Path(__file__).parent
MAPS = np.load(HERE / "btm" / "class_maps.npz")
FREQ = np.load(HERE / "bagmar" / "class_freq.npz")
LIVT = np.load(HERE / "livt" / "class_counts.npz")
FILES = json.loads((HERE / "btm" / "list_files.json").read_text())
FAMILIES = {"imagenet_lt": "ImageNet_LT", "places_lt": "Places_LT", "inat18": "iNaturalist18"}


@pytest.mark.parametrize("family", FAMILIES)
def test_counts(family: str) -> None:
    golden = json.loads((HERE / "btm" / f"class_counts_{family}.json").read_text())
    counts = lists.expected_counts(family, "train")
    assert counts.tolist() == golden["counts"] == FREQ[FAMILIES[family]].tolist()
    assert (len(counts), counts.sum(), counts.max(), counts.min()) == (
        golden["num_classes"],
        golden["total"],
        golden["max"],
        golden["min"],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_in_folder_order(family: str) -> None:
    counts = lists.expected_counts(family, "train")
    order = range(len(counts))
    if family == "inat18":  # folders are numbered "0", "1", "10", ...
        order = sorted(order, key=str)
    assert counts[list(order)].tolist() == LIVT[family].tolist()


@pytest.mark.parametrize("order", ["stable", "legacy"])
@pytest.mark.parametrize("family", FAMILIES)
def test_class_map(family: str, order: str) -> None:
    mapping = class_map(lists.expected_counts(family, "train"), order)
    assert mapping.tolist() == MAPS[f"{family}__{order}"].tolist()


def test_every_published_file_is_known() -> None:
    known = {file["git_blob"]: file for file in lists.known_files()}
    assert len(FILES) > 90
    for file in FILES:
        ours = known[file["git_blob"]]
        for key in ("sha256", "bytes", "lines"):
            assert ours[key] == file[key]
        assert ours["name"] == Path(file["path"]).name


def test_line_counts_agree_with_class_counts() -> None:
    for known in lists.known_files():
        counts = lists.expected_counts(known["family"], known["part"])
        if counts is not None:
            assert counts.sum() == known["lines"], known["name"]
