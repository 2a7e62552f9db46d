"""A checkpoint from elsewhere stands in for a training stage: official containers -> model.safetensors.

The stage's recipe names the file by its digest, so that an import is made, checked and made again like any stage.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lt import artefact, models, rng
from lt.data.class_map import class_map
from lt.data.splits import Split
from lt.errors import UserError, pick
from lt.models import convert, convert_livt
from lt.models.importing import file_digest, load_official, torchvision_source
from lt.stages.common import Recipe, open_split
from lt.stages.networks import network_options, save_weights

WEIGHTS = Path("data") / "weights"
ORDERS = {"legacy": "legacy", "identity": "label", "folders": "label"}
NUMBERED_FOLDERS = ("inat18",)


def stand_in(recipe: Recipe, *, split: str | Path, out: str | Path) -> None:
    """Commit the stage that a recipe with `imported: {file, sha256}` describes; nothing is trained."""
    started, wanted = time.time(), recipe.params["imported"]
    opened, lists = open_split(split)
    path = find(wanted)
    model = network(recipe)
    report = read_into(model, path, layout=wanted["layout"], drop=wanted["drop"])
    rows = reorder(model, report["class_map"], lists, recipe)
    inputs = {"split": opened, "file": wanted["sha256"]}
    with artefact.commit(out, recipe=recipe.raw, inputs=inputs, started=started) as draft:
        save_weights(model.state_dict(), draft / "model.safetensors")
        draft.extra = {"seed": recipe.seed, "imported": {**report, "rows": rows}}
        parameters = sum(p.numel() for p in model.parameters())
        (draft / "metrics.json").write_text(artefact.dump({"imported": True, "parameters": parameters}))


def load_pretrained(model: nn.Module, arch: str) -> str:
    """Start from torchvision's ImageNet weights (V1), kept in data/weights/; says which file that was."""
    report = convert.import_torchvision(WEIGHTS / torchvision_source(arch)["file"], model, arch=arch)
    return f"{report.meta['source']} (sha256 {report.sha256[:8]}): {len(report.loaded)} entries taken"


def find(wanted: dict[str, Any]) -> Path:
    """The file in data/weights/, if it is the one that the recipe means."""
    path = WEIGHTS / wanted["file"]
    if not path.is_file():
        raise UserError(f"{path}: no such file; put it there (sha256 {wanted['sha256'][:16]}...)")
    if (found := file_digest(path)) != wanted["sha256"]:
        raise UserError(f"{path}: sha256 {found[:16]}..., the recipe means {wanted['sha256'][:16]}...")
    return path


def network(recipe: Recipe) -> nn.Module:
    """The stage's network as it is drawn; an import replaces what the file holds."""
    p, seed = recipe.params, rng.torch_seed(recipe.seed, "init")
    arch = p["net"] or recipe.raw["arch"]
    model = models.build(arch, recipe.num_classes, seed=seed, **network_options(arch, recipe.data, p))
    if p["batchformer"] is not None:
        models.add_batchformer(model, seed=rng.torch_seed(recipe.seed, "init", "batchformer"), **p["batchformer"])
    if p["head"]:
        head = dict(p["head"])
        models.set_head(model, head.pop("name"), **head)
    return model


def read_into(model: nn.Module, path: Path, *, layout: str = "auto", drop: list[str] | tuple = ()) -> dict[str, Any]:
    """Load strictly under our names; the report that goes into the manifest."""
    if found := _transformer(model, path, layout, tuple(drop)):
        return found
    report = asdict(convert.import_state(path, model, layout=layout, drop=drop))
    return {**report, "loaded": len(report["loaded"])}


def _transformer(model: nn.Module, path: Path, layout: str, drop: tuple[str, ...]) -> dict[str, Any] | None:
    """Transformers' files may need their position table resized; a classifier must bring its head."""
    container, digest = load_official(path)
    try:
        name = convert.detect(container) if layout == "auto" else layout
        if name not in convert_livt.LAYOUTS:
            return None
        report = convert_livt.load(model, container, drop=drop)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if report.fresh:
        raise UserError(f"{path}: holds no classifier ({', '.join(report.fresh)}); import it as the pre-training stage")
    resized = {"resized": list(report.resized)} if report.resized else {}
    order = "folders" if "model" in container and name == "livt_bft" else "identity"  # LiVT, MAE: image folders
    return {"path": path.name, "sha256": digest, "layout": name, "class_map": order,
            "loaded": len(report.mapped), "dropped": list(report.dropped),
            "kept": [name for name in model.state_dict() if name.startswith(drop)], **resized}  # fmt: skip


def reorder(model: nn.Module, order: str, split: Split, recipe: Recipe) -> str:
    """Put the classifier's rows, which come in the file's class order, into the order of this data set.

    Only list sets are ever renumbered. `legacy`: by class size, ties as the released files have them. `folders`: by
    folder name; WordNet ids and scenes sort as the labels do, iNaturalist's folders are its numbers, as text.
    """
    mapping = np.asarray(split.class_map)
    theirs = np.arange(len(mapping))
    if recipe.data["source"] == "list":
        counts = np.asarray(split.class_counts)[mapping]  # in original label order
        if order == "folders" and recipe.data["family"] in NUMBERED_FOLDERS:
            theirs = np.argsort(sorted(range(len(mapping)), key=str))
        else:
            theirs = class_map(counts, pick("class order", order, ORDERS))
    if (theirs == mapping).all() or not hasattr(model, "head"):
        return "as in the file"
    take = torch.from_numpy(theirs[np.argsort(mapping)])  # our row -> row in the file
    with torch.no_grad():
        for name, value in model.head.state_dict(keep_vars=True).items():
            value.copy_(_taken(name, value, take))
    return f"from the file's order ({order}) to the data set's"


def _taken(name: str, value: Tensor, take: Tensor) -> Tensor:
    axes = [axis for axis, size in enumerate(value.shape) if size == len(take)]
    if len(axes) > 1:
        raise UserError(f"head.{name}: {tuple(value.shape)}: two axes of {len(take)}; take a '_legacy' data set")
    return value.index_select(axes[0], take) if axes else value
