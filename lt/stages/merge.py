"""`merge`: N finished branches (and stage 1, where the rule asks for it) -> one model.safetensors."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import torch

from lt import artefact, engine, metrics
from lt import merge as merging
from lt.stages.batches import evaluation_loader
from lt.stages.common import Recipe, open_split, set_threads
from lt.stages.networks import network_of, save_weights
from lt.stages.predict import collect, part_of, seen_as


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
    if recipe.params.get("imported"):  # as in train
        return importlib.import_module("lt.stages.importing").stand_in(recipe, split=split, out=out)
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
    network = {key: made["params"].get(key) for key in ("net", "options", "head", "image")}
    return {**recipe.raw, "arch": made["arch"], "params": {**recipe.params, **network}}


def looking(recipe: Recipe) -> Recipe:
    """How a merge looks at images: as the predictions of its run do, whatever size and augmentation training has."""
    return Recipe({**recipe.raw, "params": recipe.params["predict"]})


class Score:
    """GM on the validation images, for the greedy soup."""

    def __init__(self, branch: artefact.Artefact, split: artefact.Artefact, recipe: Recipe) -> None:
        self.network = network_of(branch, recipe, torch.device("cpu"))
        self.stage, self.recipe = branch.manifest["recipe"]["params"], looking(recipe)
        self.part = part_of(split, recipe, "val")
        self.counts = open_split(split.folder)[1].class_counts

    def __call__(self, state: dict[str, torch.Tensor]) -> float:
        self.network.load_state_dict(state)
        self.network.eval()
        given = {"recipe": self.recipe, "stage": self.stage, "device": torch.device("cpu")}
        found, _ = collect(self.network, *self.part, **given)
        return float(metrics.evaluate(found["logits"], found["labels"], class_counts=self.counts)["gm"])


def reestimate(path: Path, branch: artefact.Artefact, split: artefact.Artefact, recipe: Recipe) -> None:
    """Measure BN's running statistics anew on some images of the training list, seen as predictions see them.

    Not as training saw them: what is measured is used on images of that size and zoom, and nothing is drawn.
    """
    from safetensors.torch import load_file

    device = torch.device("cpu")
    network = network_of(branch, recipe, device)
    network.load_state_dict(load_file(path))
    source, indices, labels = part_of(split, recipe, "train")
    images = recipe.params["reestimate_bn"]
    chosen = indices[:: max(len(indices) // images, 1)][:images]
    sees, stage = looking(recipe), branch.manifest["recipe"]["params"]
    loader = evaluation_loader(source, chosen, labels, sees.params["augment"], sees, 128, device, seen_as(sees, stage))
    with engine.autocast(device, "fp32"):
        merging.reestimate_bn(network, (b["image"] for b in loader.epoch(0)))
    save_weights(network.state_dict(), path)
