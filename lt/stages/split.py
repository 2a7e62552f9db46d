"""`split`: data set and imbalance rule -> index files, class counts, the data's digest."""

from __future__ import annotations

import time
from pathlib import Path

from lt import artefact
from lt.data.splits import make_split
from lt.stages.common import Recipe, load_source


def split(recipe: str | Path, *, out: str | Path) -> None:
    """Draw the split and commit it."""
    started, recipe = time.time(), Recipe.read(recipe)
    source = load_source(recipe.data, "train")
    drawn = make_split(source.labels, spec=recipe.data, seed=recipe.seed)
    with artefact.commit(out, recipe=recipe.raw, inputs={"data": source.digest}, started=started) as draft:
        drawn.save(draft.folder)
        draft.extra = {"data_digest": source.digest, "images": len(source)}
