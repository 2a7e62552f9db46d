"""RIDE's second stage: only the router learns when one more expert is worth running."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lt.engine import Step
from lt.errors import UserError
from lt.losses.experts import router_loss, router_targets


class Route:
    """A gate should open iff the experts so far are wrong together and those up to a later one are right."""

    stochastic = False  # the frozen network is in evaluation mode

    def __init__(
        self, *, model: nn.Module, loss: nn.Module | None = None, mix: Any = None, pos_weight: float = 100.0
    ) -> None:
        if not hasattr(model, "router"):
            raise UserError(f"task route: {type(model).__name__} has no router; set options: {{router: true}}")
        if model.num_experts < 2:
            raise UserError("task route: one expert leaves nothing to decide; train 2 or more")
        if mix is not None:
            raise UserError("task route: mix: the gates' targets need the images' own labels")
        self.pos_weight = pos_weight

    def start_epoch(self, epoch: int) -> None:
        pass

    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]:
        sums, gates = network(batch["image"], streams=True)
        wanted = router_targets(sums, batch["target"])
        loss = router_loss(gates, wanted, pos_weight=self.pos_weight)
        return {"loss": loss, "logits": sums[:, -1] / sums.shape[1]}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
