"""The batches of a stage: how many, of which images, through which augmentation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from lt import distributed
from lt.data import augment
from lt.data.loader import Loader
from lt.stages.common import Recipe


def steps_of(rule: str | int, images: int, batch: int) -> int:
    """Micro-batches in an epoch: a rule over the training list, or a number."""
    if isinstance(rule, int):
        return rule
    return {
        "ceil": math.ceil(images / batch),
        "floor": images // batch,
        "ceil+1": math.ceil(images / batch) + 1,
    }[rule]


def options_of(chosen: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in chosen.items() if k != "name"}


def preset(chosen: dict[str, Any], data: dict[str, Any], params: dict[str, Any], *, pixels: str = "pillow") -> Any:
    """An augmentation for a training stage's images, whose size and statistics may be its own."""
    options, own = options_of(chosen), {k: v for k, v in (params.get("image") or {}).items() if v is not None}
    image = {**data["image"], **own}
    if augment.takes(chosen["name"], "size"):
        options.setdefault("size", image["size"])
    if pixels == "fast" and augment.takes(chosen["name"], "fast"):
        options["fast"] = True
    return augment.build(chosen["name"], mean=image["mean"], std=image["std"], **options)


def evaluation_loader(
    source: Any,
    indices: np.ndarray,
    labels: np.ndarray,
    chosen: dict,
    recipe: Recipe,
    batch: int,
    device: torch.device,
    stage: dict[str, Any] | None = None,
) -> Loader:
    """Every image once, in order, as the training stage `stage` sees them; ranks share the list without overlap."""
    return Loader(
        source,
        indices,
        labels=labels[indices],
        preset=preset(chosen, recipe.data, stage or {}, pixels=recipe.params.get("pixels", "pillow")),
        batch_size=batch,
        seed=0,
        shuffle=False,
        device=device,
        rank=distributed.rank(),
        world=distributed.world(),
    )
