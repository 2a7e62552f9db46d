"""ResNet-8 and ResNet-32 for small images (He et al., option A: shortcuts without parameters)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.errors import pick
from lt.models.heads import Network
from lt.models.heads import build as build_head
from lt.models.init import INITS


class Block(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.pad = stride, (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.pad or self.stride > 1:  # every second pixel, zero channels on both sides
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu_(out + x)


class ResNetCifar(Network):
    """Three stages of `blocks` basic blocks, widths w, 2w, 4w; global average pool; features [B, 4w]."""

    def __init__(
        self,
        num_classes: int,
        *,
        blocks: int,
        width: int = 16,
        in_channels: int = 3,
        init: str = "fan_in",
        head: str = "linear",
        head_options: dict | None = None,
    ) -> None:
        super().__init__()
        initialise = pick("initialisation", init, INITS)
        self.feature_dim = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.fc = build_head(head, self.feature_dim, num_classes, **(head_options or {}))
        initialise(self)

    @staticmethod
    def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(in_planes, planes, stride)
        return nn.Sequential(first, *(Block(planes, planes, 1) for _ in range(blocks - 1)))

    def features(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


ARCHS = {
    "resnet8": partial(ResNetCifar, blocks=1),
    "resnet20": partial(ResNetCifar, blocks=3),
    "resnet32": partial(ResNetCifar, blocks=5),
}
