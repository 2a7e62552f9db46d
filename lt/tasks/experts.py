"""RIDE's first stage: several experts, one or two streams of logits, perhaps a teacher."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lt.engine import Step
from lt.errors import UserError, pick
from lt.losses.experts import Ride, over_streams
from lt.models.batchformer import stream_weights
from lt.tasks.classify import has_dropout

TEACHER_MODES = {"train": True, "eval": False}


class Experts:
    """loss(z [B,E,C], y), summed over BatchFormer's streams; with a teacher its mean logits go to the loss as well.

    `teacher_mode: train` is what the published code does: the teacher gets no gradient, but its batch normalisation
    uses the batch's own statistics, and dropout and BatchFormer, where it has them, are active. Its running
    statistics drift and are never read, so they are no part of the state.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        mix: Any = None,
        teacher: nn.Module | None = None,
        teacher_mode: Literal["train", "eval"] = "train",
    ) -> None:
        if not hasattr(model, "streams"):
            raise UserError(f"task experts: {type(model).__name__} has no experts; set net: ride_<resnet>")
        if not isinstance(loss, Ride):
            raise UserError(f"task experts: loss: expected ride, found {type(loss).__name__}")
        if mix is not None:
            raise UserError("task experts: mix: its losses take one label an image")
        self.loss, self.teacher = loss, teacher
        self.weights = stream_weights(model.add_bt, cifar=model.cifar)
        drawn = [model]
        if teacher is not None:
            drawn += [teacher.train(pick("teacher_mode", teacher_mode, TEACHER_MODES)).requires_grad_(False)]
        self.stochastic = any(has_dropout(net) for net in drawn)
        self.capturable = not self.stochastic  # the loss is of tensors alone; it switches by epoch

    def start_epoch(self, epoch: int) -> None:
        self.loss.train()
        self.loss.set_epoch(epoch)

    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        images, target = batch["image"], batch["target"]
        streams = network(images, streams=True)
        extra = ()
        if self.teacher is not None:
            with torch.no_grad():
                extra = (self.teacher(images),)
        loss = over_streams(self.loss, streams, target, *extra, weights=self.weights[: len(streams)])
        return {"loss": loss, "logits": streams[0].detach().mean(1)}

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss.load_state_dict(state["loss"])
