"""`choose`: the snapshots of a training stage, judged on one part of the data -> the weights of the best one.

Several papers chose their epoch on the test set. Training never does; where such a row is wanted this stage makes it,
by name, and keeps every snapshot's accuracy, so that what the choice added can be told.
"""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from lt import artefact, posthoc
from lt.data.splits import Split
from lt.errors import UserError
from lt.stages.common import Recipe, set_threads
from lt.stages.merge import describe
from lt.stages.networks import network_of
from lt.stages.predict import collect, part_of


def choose(recipe: str | Path, *, split: str | Path, model: str | Path, out: str | Path) -> None:
    """Keep the snapshot of the highest top-1, the earliest of equals; a post-hoc step counts where one is named."""
    from safetensors.torch import load_file

    started, recipe = time.time(), Recipe.read(recipe)
    inputs = {"split": artefact.read(split), "model": artefact.read(model)}
    set_threads()
    files, device = snapshots(inputs["model"]), torch.device("cpu")
    network = network_of(inputs["model"], recipe, device)
    found = part_of(inputs["split"], recipe, recipe.params["part"])
    counts = Split.read(inputs["split"].folder).class_counts
    stage, accuracy = inputs["model"].manifest["recipe"]["params"], {}
    for epoch, path in files.items():
        network.load_state_dict(load_file(path))
        stored, _ = collect(network, *found, recipe=recipe, stage=stage, device=device)
        scores = stored["logits"]
        if recipe.params["posthoc"]:
            scores, _ = posthoc.apply(recipe.params["posthoc"], stored, class_counts=counts, tuning=None)
        accuracy[epoch] = 100 * float(np.mean(scores.argmax(1) == stored["labels"]))
    best, last = max(accuracy, key=accuracy.get), max(accuracy)
    with artefact.commit(out, recipe=describe(inputs["model"], recipe), inputs=inputs, started=started) as draft:
        shutil.copyfile(files[best], draft / "model.safetensors")
        with open(draft / "accuracy.csv", "w", newline="") as file:
            rows = [("epoch", "top1"), *((k, f"{v:.8g}") for k, v in accuracy.items())]
            csv.writer(file, lineterminator="\n").writerows(rows)
        bonus = accuracy[best] - accuracy[last]
        draft.extra = {"chosen": {"part": recipe.params["part"], "epoch": best, "of": len(files), "bonus": bonus}}


def snapshots(trained: artefact.Artefact) -> dict[int, Path]:
    """{epoch: weights}, in order; the finished network is the last epoch's."""
    params = trained.manifest["recipe"]["params"]
    found = {int(p.stem.removeprefix("epoch")): p for p in (trained / "snapshots").glob("epoch*.safetensors")}
    if not found and params["epochs"] > 1:
        raise UserError(f"{trained.folder}: no snapshots to choose from; set snapshots_every in its stage")
    return dict(sorted({**found, params["epochs"]: trained / "model.safetensors"}.items()))
