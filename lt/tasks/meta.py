"""BALMS (arXiv 2007.10740): the sampler learns from class-balanced batches which classes the classifier needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lt.engine import Step
from lt.errors import UserError
from lt.sampling.meta import MetaSampler
from lt.tasks.classify import Classify


class Meta(Classify):
    """loss(classify(features(x)), y) on a frozen backbone, after a meta step of the sampler that drew x.

    The meta step asks how one SGD step of a copy of the classifier, on the balanced softmax of this very batch,
    serves a class-balanced batch. Both batches pass the backbone as it is, so with `bn: train` both move its
    running statistics. The sampler and the position of the balanced batches are part of the task's state.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        mix: Any = None,
        sampler: MetaSampler | None = None,
        balanced: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        if not isinstance(sampler, MetaSampler) or balanced is None or optimizer is None:
            raise UserError("task meta: needs sampler: {name: meta} and meta: {batch: ...}")
        if mix is not None:
            raise UserError("task meta: mix: the meta step needs the images' own labels")
        in_head = {id(p) for p in model.head.parameters()}
        if any(p.requires_grad and id(p) not in in_head for p in model.parameters()):
            raise UserError("task meta: only a classifier on a frozen backbone; set trainable: head")
        super().__init__(model=model, loss=loss)
        self.capturable = self.repeatable = False  # a batch is drawn by what the one before taught
        self.model, self.sampler, self.balanced, self.optimizer = model, sampler, balanced, optimizer
        self._batches: Iterator[dict[str, Any]] | None = None

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self._batches = None

    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        if self._batches is None:
            self._batches = self.balanced.epoch(step.epoch, start=step.step)
        meta = next(self._batches)
        device, target = batch["target"].device, batch["target"]
        with torch.no_grad():
            features = self.model.features(batch["image"])
            held = self.model.features(meta["image"].to(device))
        self._learn((features.float(), target), (held.float(), meta["target"].to(device)))
        logits = self.model.classify(features)
        return {"loss": self.loss(logits, target), "logits": logits}

    def _learn(self, batch: tuple[Tensor, Tensor], balanced: tuple[Tensor, Tensor]) -> None:
        group = self.optimizer.param_groups[0]
        with torch.autocast(batch[0].device.type, enabled=False):
            self.sampler.learn(
                self.model.head,
                batch,
                balanced,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                momentum=group.get("momentum", 0.0),
                optimizer=self.optimizer,
            )

    def state_dict(self) -> dict[str, Any]:
        state = {"sampler": self.sampler.state_dict(), "balanced": self.balanced.state_dict()}
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.sampler.load_state_dict(state["sampler"])
        self.balanced.load_state_dict(state["balanced"])
        self._batches = None
