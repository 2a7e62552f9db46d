"""`subset`: a split (and a model's probabilities where the rule asks for them) -> one index list."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lt import artefact, rng
from lt.errors import UserError
from lt.sampling import balanced
from lt.stages.common import Recipe, load_source, open_split


def subset(
    recipe: str | Path,
    *,
    split: str | Path,
    index: int = 0,
    predictions: str | Path | None = None,
    out: str | Path,
) -> None:
    """Draw list number `index`; positions are those of the source, as in the split."""
    started, recipe = time.time(), Recipe.read(recipe)
    opened, lists = open_split(split)
    inputs = {"split": opened}
    if predictions:
        inputs["predictions"] = artefact.read(predictions)
    source = load_source(recipe.data, "train")
    chosen = recipe.params["rule"]
    options = {k: v for k, v in chosen.items() if k != "name"}
    draw = RULES[chosen["name"]]
    if isinstance(draw, str):
        module, _, name = draw.partition(":")
        draw = getattr(importlib.import_module(module), name)
    positions = draw(source, lists, index=index, seed=recipe.seed, inputs=inputs, **options)
    with artefact.commit(out, recipe=recipe.raw, inputs=inputs, started=started) as draft:
        np.save(draft / "indices.npy", positions.astype(np.int64), allow_pickle=False)
        counts = np.bincount(lists.relabel(source.labels)[positions], minlength=recipe.num_classes)
        np.save(draft / "class_counts.npy", counts.astype(np.int64), allow_pickle=False)
        draft.extra = {"index": index, "images": len(positions)}


def drawn(source: Any, lists: Any, *, index: int, seed: int, inputs: dict, k: int) -> np.ndarray:
    """At most k images a class, without replacement, a draw of its own for each index (BTM)."""
    labels = lists.relabel(source.labels)[lists.train]
    return lists.train[balanced.draw_subset(labels, k, rng.stream(seed, "subset", index))]


def official(source: Any, lists: Any, *, index: int, seed: int, inputs: dict, dataset: str, k: int) -> np.ndarray:
    """A subset that the authors published, found in this training list by file name."""
    if source.paths is None:
        raise UserError(f"subset: official lists exist for imagenet and places, not for {source.name}")
    lines = [f"{source.paths[i]} {source.labels[i]}" for i in lists.train]
    return lists.train[balanced.official(dataset, k, index, train_list=lines)]


RULES: dict[str, Callable[..., np.ndarray] | str] = {
    "balanced": drawn,
    "official": official,
    "dpp": "lt.stages.determinantal:drawn",  # by name: its code is no part of what the other rules run
}
