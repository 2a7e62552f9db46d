"""`merge`: N finished branches (and stage 1, where the rule asks for it) -> one model.safetensors."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from lt import artefact, engine, metrics
from lt import merge as merging
from lt.stages.batches import evaluation_loader
from lt.stages.common import Recipe, open_split, set_threads
from lt.stages.networks import network_of, save_weights
from lt.stages.predict import part_of


def merge(
    recipe: str | Path,
    *,
    models: str | Path,
    split: str | Path,
    init: str | Path | None = None,
    out: str | Path,
) -> None:
    """Merge `count` branches of the folder `models`; `init` is the network that they all started from."""
    started, recipe = time.time(), Recipe.read(recipe)
    branches = find_branches(models, recipe.params["count"])
    inputs = {f"branch{i}": b for i, b in enumerate(branches)} | {"split": artefact.read(split)}
    if init:
        inputs["init"] = artefact.read(init)
    set_threads()
    rule, options = (
        recipe.params["rule"]["name"],
        {k: v for k, v in recipe.params["rule"].items() if k != "name"},
    )
    with artefact.commit(out, recipe=describe(branches[0], recipe), inputs=inputs, started=started) as draft:
        if rule == "greedy_soup":
            chosen: list[int] = []
            options |= {"score": Score(branches[0], inputs["split"], recipe), "chosen": chosen}
            draft.extra = {"chosen": chosen}
        if rule == "interpolate":
            options["stage1"] = inputs["init"] / "model.safetensors"
        files = [b / "model.safetensors" for b in branches]
        merging.merge_files(files, rule, draft / "model.safetensors", **options)
        if recipe.params["reestimate_bn"]:
            reestimate(draft / "model.safetensors", branches[0], inputs["split"], recipe)


def find_branches(folder: str | Path, count: int) -> list[artefact.Artefact]:
    """branch0 .. branch<count-1> of a fan-out's folder, or the one model that a manifest names."""
    if Path(folder).name == artefact.MANIFEST:
        return [artefact.read(folder)]
    return [artefact.read(Path(folder) / f"branch{i}") for i in range(count)]


def describe(branch: artefact.Artefact, recipe: Recipe) -> dict:
    """The merged network is the branches' network: whoever builds it again reads that from here."""
    made = branch.manifest["recipe"]
    network = {key: made["params"].get(key) for key in ("net", "options", "head")}
    return {**recipe.raw, "arch": made["arch"], "params": {**recipe.params, **network}}


class Score:
    """GM on the validation images, for the greedy soup."""

    def __init__(self, branch: artefact.Artefact, split: artefact.Artefact, recipe: Recipe) -> None:
        self.device = torch.device("cpu")
        self.network = network_of(branch, recipe, self.device)
        source, indices, labels = part_of(split, recipe, "val")
        self.loader = evaluation_loader(source, indices, labels, {"name": "none"}, recipe, 256, self.device)
        self.counts = open_split(split.folder)[1].class_counts

    def __call__(self, state: dict[str, torch.Tensor]) -> float:
        self.network.load_state_dict(state)
        self.network.eval()
        logits, target = [], []
        with torch.inference_mode():
            for batch in self.loader.epoch(0):
                logits.append(self.network(batch["image"]).numpy())
                target.append(batch["target"].numpy())
        found = metrics.evaluate(np.concatenate(logits), np.concatenate(target), class_counts=self.counts)
        return float(found["gm"])


def reestimate(path: Path, branch: artefact.Artefact, split: artefact.Artefact, recipe: Recipe) -> None:
    """Measure BN's running statistics anew on some batches of the training list, without augmentation."""
    from safetensors.torch import load_file

    network = network_of(branch, recipe, torch.device("cpu"))
    network.load_state_dict(load_file(path))
    source, indices, labels = part_of(split, recipe, "train")
    images = recipe.params["reestimate_bn"]
    chosen = indices[:: max(len(indices) // images, 1)][:images]
    loader = evaluation_loader(source, chosen, labels, {"name": "none"}, recipe, 128, torch.device("cpu"))
    with engine.autocast(torch.device("cpu"), "fp32"):
        merging.reestimate_bn(network, (b["image"] for b in loader.epoch(0)))
    save_weights(network.state_dict(), path)
