"""The figure `reconstruction`: what a masked autoencoder makes of images that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lt import artefact, rng
from lt.errors import UserError
from lt.figures.reconstruction import reconstructions
from lt.models.mae import draw_noise
from lt.stages.batches import evaluation_loader
from lt.stages.common import Recipe
from lt.stages.networks import network_of
from lt.stages.predict import part_of

IMAGES = 4
GREY = 0.5  # of a hidden patch


def draw(out: Path, predictions: artefact.Artefact) -> None:
    """The pre-training that a fine-tuned network began with, on the first test image of the first classes."""
    finetuned, split = (artefact.read(predictions.manifest["parents"][name]) for name in ("model", "split"))
    if "init" not in finetuned.manifest["parents"]:
        raise UserError(f"{out}: {finetuned.folder} was not pre-trained; name a method of LiVT")
    trained = artefact.read(finetuned.manifest["parents"]["init"])
    recipe = Recipe(trained.manifest["recipe"])
    network = network_of(trained, recipe, torch.device("cpu"))
    if not hasattr(network, "pixels"):
        raise UserError(f"{out}: {trained.folder} is no masked pre-training; name a method of LiVT")
    images = tested(recipe, split, augment=predictions.manifest["recipe"]["params"]["augment"])
    noise = draw_noise(rng.stream(recipe.seed, "dropout", "figure"), len(images), network.num_patches)
    with torch.inference_mode():
        found = network(images, noise)
        predicted = network.pixels(images, found.pred)
        hidden = network.unpatchify(found.mask[..., None].expand_as(network.patchify(images)))
    seen = (hidden[:, 0] == 0).numpy()
    original = shown(images, recipe)
    masked = np.where(seen[..., None] if original.ndim == 4 else seen, original, GREY)
    reconstructions(out, original, masked, shown(predicted, recipe), visible=seen)


def tested(recipe: Recipe, split: artefact.Artefact, *, augment: dict) -> torch.Tensor:
    """One normalised image of each of the first classes."""
    source, positions, labels = part_of(split, recipe, "test")
    first = np.array([positions[np.flatnonzero(labels[positions] == c)[0]] for c in np.unique(labels)[:IMAGES]])
    cpu = torch.device("cpu")
    loader = evaluation_loader(source, first, labels, augment, recipe, IMAGES, cpu, recipe.params)
    return next(iter(loader.epoch(0)))["image"]


def shown(images: torch.Tensor, recipe: Recipe) -> np.ndarray:
    """[N, H, W] or [N, H, W, 3] in 0..1 of a normalised batch."""
    own = {k: v for k, v in (recipe.params["image"] or {}).items() if v is not None}
    about = {**recipe.data["image"], **own}
    mean, std = (torch.tensor(about[k])[:, None, None] for k in ("mean", "std"))
    pixels = (images * std + mean).permute(0, 2, 3, 1).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
