"""Batch normalisation over the images of all ranks, on any backend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lt import distributed


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """In training the mean and variance of the global batch. Ranks may hold different numbers of images.

    Their means and variances are joined in float64: sum n_r (v_r + m_r^2) / N - m^2.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.world() == 1:
            return super().forward(x)
        var, mean = torch.var_mean(x if x.dtype == torch.float64 else x.float(), dim=(0, 2, 3), correction=0)
        mean, var = mean.double(), var.double()
        own = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float64)
        count, total, squares = distributed.total_grad(torch.cat([own, own * mean, own * (var + mean**2)])).split(
            [1, len(mean), len(mean)]
        )
        mean = total / count
        var = squares / count - mean**2
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = var * count / (count - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        wide = torch.promote_types(x.dtype, torch.float32)  # half types are rounded once, at the end
        scale = self.weight.double() * torch.rsqrt(var + self.eps)
        shift = self.bias.double() - mean * scale
        scale, shift = (v.to(wide).view(1, -1, 1, 1) for v in (scale, shift))
        return (x.to(wide) * scale + shift).to(x.dtype)


def sync_batch_norms(net: nn.Module) -> nn.Module:
    """In place; names stay."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
    return net
