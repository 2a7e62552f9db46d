"""`pack`: the images of one part of a data set -> shards and their index. Training stages find it beside the split."""

from __future__ import annotations

import os
import sys
import time
from importlib import metadata
from pathlib import Path

from lt import artefact
from lt.data import pack as packs
from lt.data.sources import Source
from lt.errors import UserError
from lt.scratch import hold, key_of
from lt.stages.common import Recipe, load_source, threads

SHOWN = 20


def pack(recipe: str | Path, *, part: str, out: str | Path) -> None:
    """Write what is missing of the shards, then commit them; every image that cannot be read is named, once."""
    started, recipe = time.time(), Recipe.read(recipe)
    source = load_source({**recipe.data, "pack": None}, part)
    if source.paths is None:
        raise UserError(f"{recipe.raw['dataset']}: pack: {source.name} is in memory as it is; leave pack out")
    mode, files = recipe.data["pack"], [source.file(i) for i in range(len(source))]
    with hold(out, key_of(artefact.dump(recipe.raw), source.digest)) as scratch:
        folder = scratch.folder / "shards"
        problems, kept = packs.write(folder, files, mode=mode, processes=threads())
        if kept:
            print(f"lt: {folder}: {kept} shards were there", file=sys.stderr)
        if problems:
            raise UserError(named(problems, source))
        with artefact.commit(out, recipe=recipe.raw, inputs={"data": source.digest}, started=started) as draft:
            for path in sorted([*folder.glob("shard-*.bin"), folder / "index.npy"]):
                os.link(path, draft / path.name)
            decoders = {name: metadata.version(name) for name in ("pillow", "simplejpeg")}
            draft.extra = {"data_digest": source.digest, "images": len(source), "part": part, "decoders": decoders}


def named(problems: list[tuple[int, str]], source: Source) -> str:
    """A line an image: where it stands in the list, and what is wrong with it."""
    lines = [
        f"{source.listed_in}:{place + 1}: cannot read image {source.file(place)}: {reason}"
        if source.listed_in
        else f"cannot read image {source.file(place)}: {reason}"
        for place, reason in problems[:SHOWN]
    ]
    more = len(problems) - SHOWN
    return "\n".join([*lines, f"and {more} more"] if more > 0 else lines)
