"""BALMS's meta sampler (arXiv 2007.10740): class weights of the sampler, learnt on class-balanced batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.errors import UserError
from lt.sampling.samplers import Sampler
from lt.sampling.sources import below

ROWS = 64  # draws handled at once: 64 x N noise values


class MetaSampler(Sampler):
    """Every image has logit log sigmoid(w of its class); a draw is a hard Gumbel-softmax over all N images.

    `draw` gives a batch and remembers it; `learn` then moves w so that one step of the classifier on that batch
    serves a class-balanced batch. Without `learn` the weights stay as they start (lt-project's behaviour).
    """

    def __init__(
        self, *, labels: object, num_classes: int, source: object, init_pow: float = 0.0, lr: float = 0.01
    ) -> None:
        if not isinstance(source, torch.Generator):  # another source seeds one: the noise is torch's
            source = torch.Generator().manual_seed(below(source, 2**62))
        super().__init__(labels=labels, num_classes=num_classes, source=source)
        if (self.counts == 0).any():
            raise UserError(f"meta sampler: class {int(np.argmin(self.counts))} has no training image")
        if init_pow < 0 or lr <= 0:
            raise UserError(f"meta sampler: init_pow must not be negative and lr positive, got {init_pow}, {lr}")
        self.classes = torch.from_numpy(self.labels)
        self.weight = nn.Parameter(initial_weights(self.counts, power=init_pow))
        self.optimizer = torch.optim.Adam([self.weight], lr=lr)
        self._drawn: dict[str, Tensor] | None = None

    def epoch(self, epoch: int, length: int) -> np.ndarray:
        """Draws at the present weights, without remembering them."""
        return self._gumbel(length)["index"].numpy()

    def draw(self, batch_size: int) -> np.ndarray:
        self._drawn = self._gumbel(batch_size)
        return self._drawn["index"].numpy()

    @torch.no_grad()
    def _gumbel(self, number: int) -> dict[str, Tensor]:
        """Chosen images, their soft probability, and the soft mass of each class [B,C]: all that a gradient needs."""
        logits = F.logsigmoid(self.weight)[self.classes]
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, number, ROWS):
            rows = min(ROWS, number - start)
            noise = torch.empty(rows, len(self.classes)).exponential_(generator=self.source).log_().neg_()
            soft = (logits + noise).softmax(1)
            index = soft.argmax(1)
            mass = torch.zeros(rows, self.num_classes).index_add_(1, self.classes, soft)
            parts.append((index, soft.gather(1, index[:, None])[:, 0], mass))
        if not parts:
            return {
                "index": torch.empty(0, dtype=torch.int64),
                "chosen": torch.empty(0),
                "mass": torch.empty(0, 0),
            }
        index, chosen, mass = (torch.cat(column) for column in zip(*parts, strict=True))
        return {"index": index, "chosen": chosen, "mass": mass}

    def sample_weights(self) -> Tensor:
        """[B] ones whose gradient is that of each draw's soft probability with respect to w (straight-through)."""
        if self._drawn is None:
            raise UserError("meta sampler: draw a batch before learning from it")
        logits = F.logsigmoid(self.weight)
        own = logits[self.classes[self._drawn["index"]]]
        soft = self._drawn["chosen"] * (own - self._drawn["mass"] @ logits)
        return 1.0 + soft - soft.detach()

    def learn(
        self,
        classifier: nn.Module,
        batch: tuple[Tensor, Tensor],
        balanced: tuple[Tensor, Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        optimizer: torch.optim.Optimizer | None = None,
        class_counts: object = None,
    ) -> float:
        """One meta step; returns the loss on the balanced batch. The classifier itself is not changed.

        `batch` is what `draw` chose, as the classifier takes it. A copy of the classifier makes one SGD step on
        the balanced softmax of the batch; cross-entropy of the balanced batch goes back into w. With momentum,
        `optimizer` is the classifier's own: the copy's step starts from its momentum buffers.
        """
        counts = self.counts if class_counts is None else np.asarray(class_counts)
        shift = torch.log(torch.as_tensor(counts, dtype=torch.float64)).to(batch[0].dtype)
        params = {n: p.detach().requires_grad_() for n, p in classifier.named_parameters() if p.requires_grad}
        trained = [p for p in classifier.parameters() if p.requires_grad]
        call = _frozen_call(classifier)
        losses = F.cross_entropy(call(params, batch[0]) + shift.to(batch[0].device), batch[1], reduction="none")
        surrogate = (losses * self.sample_weights().to(losses)).mean()
        gradients = torch.autograd.grad(surrogate, list(params.values()), create_graph=True)
        state = optimizer.state if optimizer is not None and momentum else {}
        moved = {}
        for (name, p), own, g in zip(params.items(), trained, gradients, strict=True):
            step = g + weight_decay * p
            buffer = state.get(own, {}).get("momentum_buffer")
            moved[name] = p - lr * (step if buffer is None else step + momentum * buffer)
        value = F.cross_entropy(call(moved, balanced[0]), balanced[1])
        (self.weight.grad,) = torch.autograd.grad(value, [self.weight])
        self.optimizer.step()
        self._drawn = None
        return float(value.detach())

    def state_dict(self) -> dict:
        moments = self.optimizer.state_dict()["state"].get(0, {})
        return {
            **super().state_dict(),
            "weight": self.weight.detach().tolist(),
            "moments": {k: v.tolist() for k, v in moments.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            self.weight.copy_(torch.tensor(state["weight"]))
        saved = self.optimizer.state_dict()
        moments = {k: torch.tensor(v) for k, v in state["moments"].items()}
        self.optimizer.load_state_dict({**saved, "state": {0: moments} if moments else {}})
        self._drawn = None


def initial_weights(counts: np.ndarray, *, power: float) -> Tensor:
    """logit(u_c / (min u + max u)), u_c = freq_c^-power. Power 0: all 0, every image equally likely."""
    frequency = torch.as_tensor(counts, dtype=torch.float32)
    u = (frequency / frequency.sum()) ** -power
    return torch.logit(u / (u.min() + u.max()))


def _frozen_call(module: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """The module as a function of its parameters; buffers are copies, so that nothing of it moves."""
    buffers = {n: b.detach().clone() for n, b in module.named_buffers()}
    fixed = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}

    def call(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(module, {**fixed, **params, **buffers}, (x,))

    return call
