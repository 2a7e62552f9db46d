"""What every loss shares: the contract, the casting rule, the checks of counts and targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lt import distributed
from lt.errors import UserError


class Loss(nn.Module):
    """`loss(logits [B,C], target [B] or soft [B,C]) -> scalar`.

    Subclasses write `compute`. Half types are cast up to float32 and autocast is switched off inside, so
    a loss has the same value whatever precision the network ran in; float64 stays float64.
    """

    soft_targets = False
    on_device = True  # False: a call draws or counts on the host, so that a recorded one would repeat itself
    stateful = False  # True: every call in training mode moves statistics that are part of the training state

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        check_target(logits, target, soft=self.soft_targets, name=type(self).__name__)
        kind = logits.device.type
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self.compute(at_least_float32(logits), target)
        return self.compute(at_least_float32(logits), target)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """0-based; a loss that switches during training overrides it."""


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_target(logits: Tensor, target: Tensor, *, soft: bool, name: str) -> None:
    """Shapes only: looking at values would stall a GPU every step."""
    if logits.ndim != 2:
        raise UserError(f"{name}: logits must be [batch, classes], got {tuple(logits.shape)}")
    if target.is_floating_point():
        if not soft:
            raise UserError(f"{name} takes hard labels [batch]; soft targets (mixup, CutMix) are not defined for it")
        if target.shape != logits.shape:
            raise UserError(f"{name}: soft targets {tuple(target.shape)} against logits {tuple(logits.shape)}")
    elif target.shape != logits.shape[:1]:
        raise UserError(f"{name}: labels {tuple(target.shape)} against logits {tuple(logits.shape)}")


def counts_array(class_counts: object) -> np.ndarray:
    """Class counts as float64, checked once."""
    if isinstance(class_counts, Tensor):
        class_counts = class_counts.detach().cpu().numpy()
    counts = np.asarray(class_counts)
    if counts.ndim != 1 or counts.size == 0:
        raise UserError(f"class_counts must be one number a class, got shape {counts.shape}")
    counts = counts.astype(np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise UserError("class_counts must be finite and not negative")
    if counts.sum() == 0:
        raise UserError("class_counts are all zero")
    return counts


def positive_counts(class_counts: object, *, name: str, zero_counts: str = "refuse") -> np.ndarray:
    """Counts for a formula that divides by them or takes their logarithm.

    `zero_counts: imitate` lets infinities through, as the published codes do.
    """
    choose("zero_counts", zero_counts, ("refuse", "imitate"))
    counts = counts_array(class_counts)
    empty = np.flatnonzero(counts == 0)
    if empty.size and zero_counts == "refuse":
        shown = ", ".join(str(c) for c in empty[:5]) + (", ..." if empty.size > 5 else "")
        raise UserError(
            f"{name} is not defined for a class without training images (class {shown}); "
            "drop the class or set zero_counts: imitate"
        )
    return counts


def choose(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UserError(f"{option}: expected one of {', '.join(allowed)}, got '{value}'")
    return value


def in_range(option: str, value: float, low: float, high: float = float("inf")) -> float:
    """`low <= value <= high`, said in one line where it is not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{option}: expected a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def class_vector(values: np.ndarray, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """A per-class constant as a tensor; float32 where the published codes round it there."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype)


def log_prior(counts: np.ndarray) -> np.ndarray:
    """log(n_c / sum n); -inf for an empty class."""
    with np.errstate(divide="ignore"):
        return np.log(counts / counts.sum())


def one_hot(target: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter_(1, target[:, None], 1.0)


def pick_target(values: Tensor, target: Tensor) -> Tensor:
    """`values[i, target[i]]`."""
    return values.gather(1, target[:, None]).squeeze(1)


def global_batch(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels of all ranks, for a loss made of a batch's statistics; gradients find their rank again."""
    if distributed.world() == 1:
        return logits, target
    return distributed.gather_grad(logits)[0], distributed.gather_rows(target)


def top_two(target: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and labels of the two largest entries of a soft target, as LiVT's top-2 rule takes them."""
    return target.to(like.dtype).topk(min(2, target.shape[1]), dim=1)
