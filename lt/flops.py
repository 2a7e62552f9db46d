"""Multiply-accumulates of one image, counted by hooks on the layers a forward pass really runs.

`published` is the count that the RIDE tables used (thop): convolutions, 4 per element of a batch normalisation,
linear layers, pooled elements; the cosine classifiers only of one-expert and routed networks. `macs` counts
convolutions and every classifier, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lt.errors import UserError
from lt.models.heads import CosineNormed, CosineSquash

KINDS = ("published", "with_classifiers", "macs")


@dataclass(frozen=True)
class Count:
    """Sums over one forward pass of one image."""

    conv: int = 0  # out elements * (C_in / groups) * k * k
    norm: int = 0  # elements
    linear: int = 0  # in * out, of every vector that passes
    cosine: int = 0  # in * out
    cosine_dims: int = 0  # in, once a cosine classifier
    pool: int = 0  # out elements

    @property
    def macs(self) -> int:
        """Convolutions, linear layers and classifiers of either kind."""
        return self.conv + self.linear + self.cosine

    def published(self, *, cosine: bool = False) -> int:
        """thop's rules; `cosine` adds the released rule for cosine classifiers (weights plus their first size)."""
        total = self.conv + 4 * self.norm + self.linear + self.pool
        return total + self.cosine + self.cosine_dims if cosine else total


def _observe(module: nn.Module, x: Tensor, out: Tensor) -> dict[str, int]:
    if isinstance(module, nn.Conv2d):
        kernel = module.kernel_size[0] * module.kernel_size[1]
        return {"conv": out.numel() * (module.in_channels // module.groups) * kernel}
    if isinstance(module, nn.BatchNorm2d):
        return {"norm": out.numel()}
    if isinstance(module, nn.Linear):
        return {"linear": out.numel() * module.in_features}
    if isinstance(module, CosineNormed | CosineSquash):
        dim = x.shape[1]
        return {"cosine": dim * out.numel(), "cosine_dims": dim * len(out)}
    if isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        return {"pool": out.numel()}
    return {}


@torch.no_grad()
def count(net: nn.Module, size: Sequence[int], *, forward: Callable[[Tensor], object] | None = None) -> Count:
    """Count one image of `size` (channels, height, width) in eval mode; `forward` instead of calling `net`."""
    if len(size) != 3:
        raise UserError(f"flops: size must be (channels, height, width), got {tuple(size)}")
    totals: dict[str, int] = {}

    def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        for kind, value in _observe(module, args[0], out).items():
            totals[kind] = totals.get(kind, 0) + value

    modes = {module: module.training for module in net.modules()}
    handles = [m.register_forward_hook(hook) for m in net.modules()]
    like = next(net.parameters())
    try:
        net.eval()
        (forward or net)(torch.zeros(1, *size, dtype=like.dtype, device=like.device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return Count(**totals)


def by_experts(net: nn.Module, size: Sequence[int]) -> list[Count]:
    """Entry i: a `RoutedRideNet` image that stops after i + 1 experts, without the gate that stops it.

    That is how the released tool counts: the routed network with i + 1 experts, all of them run.
    """
    return [count(net, size, forward=lambda x, n=n: net.run_experts(x, n)) for n in range(1, net.num_experts + 1)]


def by_experts_spent(net: nn.Module, size: Sequence[int]) -> list[Count]:
    """As `by_experts`, with every gate that is evaluated on the way, also the one that says stop."""
    last = net.num_experts - 1
    return [
        count(net, size, forward=lambda x, n=n: net.run_experts(x, n, gates=min(n, last)))
        for n in range(1, net.num_experts + 1)
    ]


def expected(values: Sequence[float], shares: Sequence[float]) -> float:
    """sum_i share_i value_i; `shares` are fractions of images that use 1, 2, ... experts."""
    if len(values) != len(shares) or any(s < 0 for s in shares):
        raise UserError(f"flops: expected {len(values)} shares that are not negative, got {list(shares)}")
    if abs(sum(shares) - 1) > 1e-3:
        raise UserError(f"flops: the shares of images must add up to 1, not {sum(shares):g}")
    return float(sum(v * s for v, s in zip(values, shares, strict=True)))


def gmacs(net: nn.Module, size: Sequence[int], *, shares: Sequence[float] | None = None) -> dict[str, float]:
    """GMACs of an image: the published way, the same with every classifier and gate counted, and plain MACs.

    A routed network needs `shares[i]`: the fraction of the test images that used i + 1 experts.
    """
    if not hasattr(net, "router"):
        whole = count(net, size)
        single = getattr(net, "num_experts", 1) == 1
        values = (whole.published(cosine=single), whole.published(cosine=True), whole.macs)
        return dict(zip(KINDS, (v / 1e9 for v in values), strict=True))
    if shares is None:
        raise UserError("flops: a routed network spends as many experts as its images need; give their shares")
    spent = by_experts_spent(net, size)
    rows = (
        [c.published(cosine=True) for c in by_experts(net, size)],
        [c.published(cosine=True) for c in spent],
        [c.macs for c in spent],
    )
    return {kind: expected(row, shares) / 1e9 for kind, row in zip(KINDS, rows, strict=True)}
