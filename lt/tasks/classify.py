"""Classification: one network, one loss, optionally mixed images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lt.engine import Step
from lt.losses.base import Loss
from lt.tasks.mixing import Mixing


class Classify:
    """loss(network(x), y); with mixing the loss sees both labels or a soft target, as the mix's form says."""

    def __init__(self, *, model: nn.Module, loss: nn.Module, mix: Mixing | None = None) -> None:
        self.loss, self.mix = loss, mix
        self.stochastic = has_dropout(model)
        # a mix draws on the host; a loss may switch by epoch, and one with a state of its own is left alone
        self.capturable = mix is None and not getattr(loss, "stateful", False) and getattr(loss, "on_device", True)
        self.changes_by_epoch = type(loss).set_epoch is not Loss.set_epoch if isinstance(loss, Loss) else False

    def start_epoch(self, epoch: int) -> None:
        self.loss.train()
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(epoch)

    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        images, target = batch["image"], batch["target"]
        if self.mix is None:
            logits = network(images)
            return {"loss": self.loss(logits, target), "logits": logits}
        images, criterion = self.mix(images, target, self.loss, step)
        logits = network(images)
        return {"loss": criterion(logits), "logits": logits}

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss.load_state_dict(state["loss"])


def has_dropout(model: nn.Module) -> bool:
    """Whether a forward pass draws from torch's own generator."""
    names = ("Dropout", "DropPath", "MultiheadAttention", "TransformerEncoderLayer")
    layers = any(type(m).__name__.startswith(names) for m in model.modules())
    return layers or getattr(model, "use_experts", None) == "rand"
