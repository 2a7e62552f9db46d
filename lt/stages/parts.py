"""Parts of a training stage: its loss, and what a sampler that learns (BALMS) needs beside its own batches."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from lt import losses, rng
from lt.data.loader import Loader
from lt.data.online import OnlineLoader
from lt.errors import UserError
from lt.sampling import samplers
from lt.sampling.meta import MetaSampler


def loss_of(params: dict[str, Any], class_counts: np.ndarray, *, seed: int) -> losses.Loss:
    """The loss that a recipe names; one that counts micro-batches or draws learns of them from the run."""
    options = {k: v for k, v in params["loss"].items() if k != "name"}
    taken = inspect.signature(losses.LOSSES[params["loss"]["name"]]).parameters
    offered = {"micro_batches": params["accumulate"], "seed": seed}
    given = {k: v for k, v in offered.items() if k in taken} | options
    return losses.build(params["loss"]["name"], class_counts=class_counts, **given)


def loader_of(sampler: Any) -> type[Loader]:
    """A sampler that learns draws one batch at a time; any other an epoch."""
    return OnlineLoader if isinstance(sampler, MetaSampler) else Loader


def meta_inputs(
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    *,
    source: Any,
    params: dict[str, Any],
    seed: int,
    num_classes: int,
) -> dict[str, Any]:
    """The sampler, class-balanced batches of the same training list, and the classifier's own optimiser."""
    chosen = params["meta"]
    if not isinstance(loader.sampler, MetaSampler):
        raise UserError("meta: needs sampler: {name: meta}")
    if params["accumulate"] > 1:
        raise UserError(f"accumulate: a meta step is one whole batch, got accumulate {params['accumulate']}")
    sampler = samplers.build(
        "class_aware", labels=loader.labels, num_classes=num_classes, source=rng.stream(seed, "meta"), k=chosen["k"]
    )
    balanced = Loader(
        source,
        loader.indices,
        labels=loader.labels,
        preset=loader.preset,
        batch_size=chosen["times"] * loader.batch_size,
        seed=rng.torch_seed(seed, "meta") >> 16,
        sampler=sampler,
        steps=len(loader),
        workers=params["workers"],
        device=loader.device,
    )
    return {"sampler": loader.sampler, "balanced": balanced, "optimizer": optimizer}
