"""Lists, splits and subsets at the size of iNaturalist 2018: 437,513 images, 8,142 classes; CPU seconds of one core."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from lt.data import sources
from lt.data.lists import expected_counts, write_list
from lt.data.splits import make_split
from lt.rng import stream
from lt.sampling import balanced

SPEC = {"source": "list", "family": "inat18", "num_classes": 8142, "class_map": "stable"}


def test_list_split_and_subset_take_under_two_seconds(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(8142), expected_counts("inat18", "train"))
    np.random.default_rng(0).shuffle(labels)
    paths = [f"train_val2018/Aves/{label}/{number:032x}.jpg" for number, label in enumerate(labels.tolist())]
    write_list(tmp_path / "iNaturalist18_train.txt", paths, labels)
    start = time.process_time()
    source = sources.load(SPEC, "train", roots={"inat18": tmp_path})
    split = make_split(source.labels, spec=SPEC, seed=0)
    split.save(tmp_path / "split")
    subset = balanced.draw_subset(split.relabel(source.labels), 10, stream(0, "subset", 0))
    spent = time.process_time() - start
    assert len(source) == 437_513 and split.class_counts.max() == 1000 and np.diff(split.class_counts).max() <= 0
    assert len(subset) == np.minimum(split.class_counts, 10).sum()
    assert spent < 2, f"{spent:.2f} s"
