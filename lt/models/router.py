"""Expert assignment: gates that decide, per image and after each expert, whether to run one more.

Second stage of RIDE: the trained network is frozen and only the gates learn; it saves computation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.errors import UserError
from lt.models.experts import RideNet
from lt.models.init import INITS

HIDDEN = 16


class Router(nn.Module):
    """Gate i: r_i = W [top-k of the mean logits of experts 0..i ; ReLU(hidden_i(f/|f|))] + b.

    W and b are shared by the gates unless `share_gate` is off.
    """

    def __init__(self, dim: int, gates: int, *, top_k: int, share_gate: bool = True) -> None:
        super().__init__()
        self.top_k = top_k
        self.hidden = nn.ModuleList(nn.Linear(dim, HIDDEN) for _ in range(gates))
        self.share_gate = share_gate
        if share_gate:
            self.gate = nn.Linear(HIDDEN + top_k, 1)
        else:
            self.gate = nn.ModuleList(nn.Linear(HIDDEN + top_k, 1) for _ in range(gates))

    def forward(self, index: int, features: Tensor, mean_logits: Tensor) -> Tensor:
        """Gate logit [B] after expert `index`, from its features [B, d] and the mean logits so far [B, C]."""
        hidden = F.relu(self.hidden[index](F.normalize(features, dim=1)))
        top = mean_logits.topk(self.top_k, dim=1).values
        gate = self.gate if self.share_gate else self.gate[index]
        return gate(torch.cat([top.to(hidden.dtype), hidden], dim=1)).squeeze(1)


class RoutedRideNet(RideNet):
    """A frozen `RideNet` with a router: its state dict is the first stage's plus `router.*`.

    In eval mode `forward` spends experts per image; in training mode only the router is in training mode
    (batch statistics and BatchFormer belong to the first stage).
    """

    def __init__(self, num_classes: int, *, top_k: int = 30, share_gate: bool = True, **options: object) -> None:
        super().__init__(num_classes, **options)
        if not 1 <= top_k <= num_classes:
            raise UserError(f"router: top_k must be between 1 and the {num_classes} classes, not {top_k}")
        if self.num_experts < 2:
            raise UserError("router: one expert leaves nothing to decide; expected two or more")
        if self.use_experts is not None:
            raise UserError("router: the order of the experts is fixed; use_experts does not apply")
        self.requires_grad_(False)
        self.router = Router(self.feature_dim, self.num_experts - 1, top_k=top_k, share_gate=share_gate)
        if self.cifar:
            INITS["ride"](self.router)
        self.train()

    def train(self, mode: bool = True) -> RoutedRideNet:
        super().train(False)
        if hasattr(self, "router"):
            self.router.train(mode)
        self.training = mode
        return self

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All experts in order: sums of logits [B, E, C] up to each expert, gate logits [B, E - 1]."""
        return self.run_experts(x, self.num_experts)

    def run_experts(self, x: Tensor, count: int, *, gates: int | None = None) -> tuple[Tensor, Tensor]:
        """As `route`, for the first `count` experts and the first `gates` (count - 1 by default) gates."""
        gates = count - 1 if gates is None else gates
        shared = self.trunk(x)
        total: Tensor | float = 0.0
        sums, decisions = [], []
        for i in range(count):
            features = self.experts[i].features(shared)
            total = total + self.experts[i].fc(features)
            sums.append(total)
            if i < gates:
                decisions.append(self.router(i, features, total / (i + 1)))
        return torch.stack(sums, 1), torch.stack(decisions, 1) if decisions else x.new_zeros(len(x), 0)

    def dynamic(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C], the mean over the experts that ran, and how many ran [B].

        Every image runs expert 0; it goes on to expert i + 1 iff sigmoid(r_i) > 0.5 and leaves for good.
        """
        shared = self.trunk(x)
        active = torch.arange(len(x), device=x.device)
        used = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        total = None
        for i, expert in enumerate(self.experts):
            features = expert.features(shared if i == 0 else shared[active])
            logits = expert.fc(features)
            total = logits if total is None else total.index_add(0, active, logits.to(total.dtype))
            used[active] = i + 1
            if i + 1 == self.num_experts:
                break
            go_on = self.router(i, features, total[active] / (i + 1)).sigmoid() > 0.5
            active = active[go_on]
            if len(active) == 0:
                break
        return total / used.unsqueeze(1), used

    def forward(self, x: Tensor, *, streams: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Eval: dynamic logits [B, C]. Training: mean over all experts, or with `streams` what `route` returns."""
        if streams:
            return self.route(x)
        if self.training:
            return self.route(x)[0][:, -1] / self.num_experts
        return self.dynamic(x)[0]
