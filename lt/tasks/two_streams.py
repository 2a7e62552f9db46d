"""BatchFormer with a shared classifier on a plain network: encoded and by-pass features, labels twice."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lt.engine import Step
from lt.errors import UserError
from lt.tasks.classify import Classify

FACTOR = 1.5  # the released code adds both halves and the whole batch, whose mean is half of their sum


class TwoStreams(Classify):
    """1.5 (loss(encoded, y) + loss(plain, y)); the training accuracy is the encoded stream's."""

    def __init__(self, *, model: nn.Module, loss: nn.Module, mix: Any = None) -> None:
        if getattr(model, "batchformer", None) is None:
            raise UserError("task two_streams: the network has no BatchFormer; set batchformer: {}")
        if mix is not None:
            raise UserError("task two_streams: mix: its losses take one label an image")
        super().__init__(model=model, loss=loss)

    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        target = batch["target"]
        encoded, plain = network(batch["image"]).chunk(2)
        loss = FACTOR * (self.loss(encoded, target) + self.loss(plain, target))
        return {"loss": loss, "logits": encoded.detach()}
