"""Batch normalisation over groups of a batch, so that one device can do what several did.

Under DataParallel each device normalised its own slice, and the running statistics of device 0 alone were kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.errors import UserError


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """In training every `group_size` consecutive samples have their own mean and variance.

    The running statistics follow the first group. A shorter last group is a group. Eval mode is unchanged.
    """

    group_size: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.group_size:
            return super().forward(x)
        first, *others = x.split(self.group_size)
        parts = [super().forward(first)]
        for part in others:
            parts.append(F.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps))
        return torch.cat(parts)


def group_batch_norms(net: nn.Module, group_size: int) -> nn.Module:
    """Let every batch normalisation of the network work on groups of `group_size` (in place; names stay)."""
    if group_size < 2:
        raise UserError(f"the group of a batch normalisation must be 2 or more images, not {group_size}")
    for module in net.modules():
        if type(module) in (nn.BatchNorm2d, GroupedBatchNorm2d):
            module.__class__ = GroupedBatchNorm2d
            module.group_size = group_size
    return net
