"""`predict`: a model and one part of the data -> predictions.npz, from which every metric is computed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt import artefact, distributed, engine, flops
from lt.errors import UserError
from lt.stages.batches import evaluation_loader
from lt.stages.common import Recipe, load_source, open_pack, open_split, set_threads
from lt.stages.networks import network_of


def predict(recipe: str | Path, *, split: str | Path, model: str | Path, part: str = "test", out: str | Path) -> None:
    """Run the network once over every image; logits, labels and source indices are kept."""
    started, recipe = time.time(), Recipe.read(recipe)
    inputs = {"split": artefact.read(split), "model": artefact.read(model)}
    threads = set_threads()
    with distributed.ranks() as device:
        network = network_of(inputs["model"], recipe, device)
        stage = inputs["model"].manifest["recipe"]["params"]
        found = part_of(inputs["split"], recipe, part)
        arrays, size = collect(network, *found, recipe=recipe, stage=stage, device=device)
        if found[0].pack is not None:
            inputs["pack"] = artefact.read(found[0].pack.folder, verify=False)
        if distributed.is_main():
            with artefact.commit(out, recipe=recipe.raw, inputs=inputs, started=started) as draft:
                if "weights" in recipe.params["outputs"] and isinstance(network.head, torch.nn.Linear):
                    arrays["weights"] = network.head.weight.detach().float().cpu().numpy()
                np.savez(draft / "predictions.npz", **arrays)
                draft.extra = {"part": part, "threads": threads, "device": str(device)}
                draft.extra |= effort(network, size, arrays)
        distributed.barrier()


def part_of(split: artefact.Artefact, recipe: Recipe, wanted: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Source, positions and renumbered labels of the train, val or test part."""
    _, lists = open_split(split.folder)
    home = lists.parts.get(wanted)
    if home is None:
        raise UserError(f"{recipe.raw['dataset']}: no {wanted} images; take a variant with a holdout")
    source = load_source(recipe.data, home, open_pack(recipe.data, split, home))
    chosen = getattr(lists, wanted)
    return source, np.arange(len(source)) if chosen is None else chosen, lists.relabel(source.labels)


def seen_as(recipe: Recipe, stage: dict[str, Any]) -> dict[str, Any]:
    """The training stage's parameters, with what the prediction says of its images on top."""
    own = {k: v for k, v in (recipe.params.get("image") or {}).items() if v is not None}
    return {**stage, "image": {**(stage.get("image") or {}), **own}}


def collect(
    network: torch.nn.Module,
    source: Any,
    indices: np.ndarray,
    labels: np.ndarray,
    *,
    recipe: Recipe,
    stage: dict[str, Any],
    device: torch.device,
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """Logits in float32, and the size of an image as the network gets it."""
    p = recipe.params
    seen = seen_as(recipe, stage)
    loader = evaluation_loader(source, indices, labels, p["augment"], recipe, p["batch"], device, seen)
    precision = engine.supported(p["precision"], device)
    size: tuple[int, ...] = ()

    def found() -> Iterator[dict[str, torch.Tensor]]:
        nonlocal size
        for batch in loader.epoch(0):
            images = batch["image"].to(device).contiguous(memory_format=torch.channels_last)
            size = tuple(images.shape[1:])
            outputs = outputs_of(network, images, p["outputs"])
            yield {**outputs, "labels": batch["target"], "indices": batch["index"]}

    with torch.inference_mode(), engine.autocast(device, precision):
        joined = {name: distributed.gather_rows(value) for name, value in join(found()).items()}
    order = torch.argsort(joined["indices"], stable=True) if distributed.world() > 1 else slice(None)
    return {name: value[order].cpu().numpy() for name, value in joined.items()}, size


def join(batches: Iterable[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows of all batches under each name, floats as float32; concatenated once: growing is quadratic."""
    rows: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        for name, value in batch.items():
            rows.setdefault(name, []).append(value.float() if value.is_floating_point() else value)
    return {name: torch.cat(parts) for name, parts in rows.items()}


def outputs_of(network: torch.nn.Module, images: torch.Tensor, wanted: list[str]) -> dict[str, torch.Tensor]:
    """Logits, and what the recipe asks for beside them."""
    found: dict[str, torch.Tensor] = {}
    if "features" in wanted:
        found["features"] = network.features(images)
        found["logits"] = network.classify(found["features"])
    elif hasattr(network, "dynamic"):  # a routed network: how many experts an image used
        found["logits"], found["experts"] = network.dynamic(images)
    else:
        found["logits"] = network(images)
    return found


def effort(network: torch.nn.Module, size: tuple[int, ...], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Multiply-accumulates of an average image, counted on one forward pass, and how many experts it needs."""
    if not size:
        return {}
    experts, shares = len(network.active()) if hasattr(network, "active") else None, None
    if "experts" in arrays:
        used = np.bincount(arrays["experts"], minlength=network.num_experts + 1)[1:]
        shares = (used / used.sum()).tolist()
    with torch.inference_mode():
        found = {"gmacs": flops.gmacs(network, size, shares=shares)}
    if shares:
        return {**found, "num_experts": network.num_experts}
    return found if experts is None else {**found, "experts": experts}
