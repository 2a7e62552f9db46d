"""Losses of mixed images: two labels and their shares, and Remix's rule for the shares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lt.errors import UserError
from lt.losses.base import class_vector, counts_array


def mixed(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, y: Tensor, y2: Tensor, lam: float | Tensor
) -> Tensor:
    """lam * loss(logits, y) + (1 - lam) * loss(logits, y2); a share of each sample's own [B] becomes a soft target."""
    if getattr(loss, "stateful", False):
        raise UserError(f"{type(loss).__name__} keeps statistics of one label a sample and cannot be mixed")
    if isinstance(lam, Tensor) and lam.ndim == 1:
        return remixed(loss, logits, y, y2, lam)
    return lam * loss(logits, y) + (1.0 - lam) * loss(logits, y2)


def remixed(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, y: Tensor, y2: Tensor, lam: Tensor) -> Tensor:
    """The loss of mixed labels where every sample has its own share [B]: through a soft target."""
    if not getattr(loss, "soft_targets", True):
        raise UserError(f"{type(loss).__name__} takes hard labels; shares of each sample's own need soft targets")
    return loss(logits, mixed_targets(y, y2, lam, num_classes=logits.shape[1]))


def mixed_targets(y: Tensor, y2: Tensor, lam: Tensor | float, *, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """lam * onehot(y) + (1 - lam) * onehot(y2) as float32 [B,C]; smoothing as 1 - s + s/C on, s/C off."""
    off = smoothing / num_classes
    share = torch.as_tensor(lam, dtype=torch.float32, device=y.device).expand(y.shape)[:, None]
    target = torch.full((len(y), num_classes), off, dtype=torch.float32, device=y.device)
    target.scatter_add_(1, y[:, None], share * (1.0 - smoothing))
    return target.scatter_add_(1, y2[:, None], (1.0 - share) * (1.0 - smoothing))


def remix_lam(
    y: Tensor,
    y2: Tensor,
    lam: float | Tensor,
    *,
    class_counts: object,
    kappa: float = 3.0,
    tau: float = 0.5,
) -> Tensor:
    """Remix (arXiv 2007.03943): share [B] of the first label; the image keeps lam.

    0 where n_y / n_y2 >= kappa and lam < tau; 1 where n_y / n_y2 <= 1/kappa and 1 - lam < tau; else lam.
    """
    counts = class_counts if isinstance(class_counts, Tensor) else class_vector(counts_array(class_counts)).to(y.device)
    first, second = counts[y], counts[y2]
    share = torch.as_tensor(lam, dtype=torch.float64, device=y.device).expand(y.shape)
    # products, not quotients: an empty class must not divide by zero
    to_second = (first >= kappa * second) & (first > 0) & (share < tau)
    to_first = (second >= kappa * first) & (second > 0) & (1.0 - share < tau)
    return torch.where(to_second, 0.0, torch.where(to_first, 1.0, share)).to(torch.float32)
