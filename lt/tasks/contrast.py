"""Contrastive pre-training: the two views of a batch go through the network one after the other."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lt import distributed
from lt.engine import Step
from lt.errors import UserError
from lt.losses.contrastive import Views
from lt.tasks.classify import has_dropout


class Contrast:
    """loss(network(first), network(second), y), each view a batch of its own to batch normalisation.

    The head of the network is the projector. Over several ranks the loss sees the global batch.
    """

    def __init__(self, *, model: nn.Module, loss: nn.Module, mix: Any = None) -> None:
        if not isinstance(loss, Views):
            raise UserError(f"task contrast: loss {type(loss).__name__} takes logits; set loss: bns or bns_eq12")
        if mix is not None:
            raise UserError("task contrast: mix: images are not mixed in contrastive pre-training")
        self.loss, self.stochastic = loss, has_dropout(model)

    def start_epoch(self, epoch: int) -> None:
        pass

    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        views = batch["image"]
        if not isinstance(views, tuple | list) or len(views) != 2:
            raise UserError("task contrast: needs two views of each image; set augment: simclr")
        first, second = (distributed.gather_grad(network(view))[0] for view in views)
        return {"loss": self.loss(first, second, distributed.gather_rows(batch["target"]))}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
