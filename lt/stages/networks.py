"""Networks as the stages describe them: built from a recipe, with a finished stage's weights."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lt import artefact, models, rng
from lt.errors import UserError
from lt.stages.common import Recipe, open_model


def network_options(arch: str, data: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """What the network of a training stage is built with; one that cuts patches must know the images' size."""
    options, own = dict(params.get("options") or {}), params.get("image") or {}
    if data["image"]["channels"] != 3:
        options.setdefault("in_channels", data["image"]["channels"])
    if (size := own.get("size") or data["image"]["size"]) and models.accepts(arch, "img_size"):
        options.setdefault("img_size", size)
    return options


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], *, what: str, where: str) -> None:
    """Strict by name and shape. As drawn stay with `backbone` the head, with `frozen` all that this stage trains."""
    own, mine = model.state_dict(), model.state_dict(keep_vars=True)
    head = getattr(model, "head", nn.Identity())  # an autoencoder has none
    head = {id(v) for v in head.state_dict(keep_vars=True).values()}
    fresh = {
        "all": set(),
        "backbone": {k for k, v in mine.items() if id(v) in head},
        "frozen": {k for k, v in mine.items() if v.requires_grad},
    }[what]
    wanted = {k for k in own if k not in fresh}
    missing = sorted(k for k in wanted if k not in state)
    wrong = sorted(k for k in wanted if k in state and state[k].shape != own[k].shape)
    if missing or wrong:
        name = (missing or wrong)[0]
        reason = "missing" if missing else f"shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        raise UserError(f"{where}: {name}: {reason} ({len(missing)} missing, {len(wrong)} of another shape)")
    model.load_state_dict({k: state[k] if k in wanted else own[k] for k in own})


def load_encoder(model: nn.Module, init: artefact.Artefact, *, seed: int) -> str:
    """Start a ViT from masked pre-training, ours or imported; says what was taken, dropped and left as drawn."""
    if not hasattr(model, "start_from"):
        raise UserError(f"load: mgp: {type(model).__name__} is no vision transformer")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(rng.torch_seed(seed, "init", "head"))
        return str(model.start_from(open_model(init.folder)[1]))


def network_of(model: artefact.Artefact, recipe: Recipe, device: torch.device) -> torch.nn.Module:
    """The network that a finished training stage describes, with its weights, in evaluation mode."""
    made = model.manifest["recipe"]
    arch = made["params"].get("net") or made["arch"]
    options = network_options(arch, recipe.data, made["params"])
    network = models.build(arch, recipe.num_classes, seed=0, **options)
    if made["params"].get("head"):
        head = dict(made["params"]["head"])
        models.set_head(network, head.pop("name"), **head)
    load_weights(network, open_model(model.folder)[1], what="all", where=str(model.folder))
    return network.to(device, memory_format=torch.channels_last).eval()


def check_groups(params: dict[str, Any], *, world: int) -> None:
    """A group must not be cut by accumulation or ranks: the number of devices is no part of a recipe."""
    if params.get("bn_group") and params.get("sync_bn"):
        raise UserError("bn_group: normalises groups of a batch, sync_bn all ranks together; set one of them")
    asked = [("bn_group", params.get("bn_group"), world, "start fewer ranks")]
    for chosen in (params["options"], params["batchformer"] or {}):
        ranks = 1 if chosen.get("across_ranks") else world
        asked.append(("group_size", chosen.get("group_size"), ranks, "set across_ranks: true"))
    for name, size, ranks, remedy in asked:
        share = params["batch"] // params["accumulate"] // ranks
        if size and params["accumulate"] * ranks > 1 and share % size:
            raise UserError(
                f"{name}: groups of {size} images do not fit the {share} that batch {params['batch']} leaves with "
                f"accumulate {params['accumulate']} on {world} ranks; accumulate less, or {remedy}"
            )


def save_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, path)
    except SafetensorError as error:  # Rust's wording of an error of the operating system
        full = "os error 28" in str(error)
        number, why = (errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else (errno.EIO, str(error))
        raise OSError(number, why, str(path)) from None
