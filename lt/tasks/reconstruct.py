"""Masked reconstruction (LiVT's MGP): the labels of the images are not looked at."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lt.engine import Step
from lt.errors import UserError
from lt.models.mae import MaskedAutoencoder, draw_noise
from lt.rng import stream


class Reconstruct:
    """loss(network(x, noise)): which patches are hidden is a function of (seed, epoch, step, rank)."""

    stochastic = False  # the noise is given; an autoencoder has no dropout and no drop path

    def __init__(self, *, model: nn.Module, loss: nn.Module | None = None, mix: Any = None) -> None:
        if not isinstance(model, MaskedAutoencoder):
            raise UserError(f"task reconstruct: {type(model).__name__} is no masked autoencoder; set net: mae_<size>")
        if mix is not None:
            raise UserError("task reconstruct: mix: images are not mixed in masked pre-training")
        self.patches = model.num_patches

    def start_epoch(self, epoch: int) -> None:
        pass

    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        images = batch["image"]
        source = stream(step.seed, "dropout", step.epoch, step.step, step.rank)
        noise = draw_noise(source, len(images), self.patches).to(images.device, non_blocking=True)
        return {"loss": network(images, noise).loss}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
