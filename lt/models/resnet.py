"""ResNets of torchvision's own class: 224-pixel nets, CIFAR stems, the Places network of MiSLAS and BTM."""

from __future__ import annotations

from functools import partial

# isort: off
import torch
from torch import Tensor, nn

import lt.compat  # noqa: F401  (before torchvision)
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

# isort: on
from lt.errors import UserError, pick
from lt.models.heads import Network
from lt.models.heads import build as build_head
from lt.models.init import INITS

STEMS = ("imagenet", "cifar")


class ResNet(Network, TorchvisionResNet):
    """torchvision's ResNet with a named head and initialisation.

    `stem: cifar` is a 3x3 stride-1 convolution without max-pool (BNS + IP-DPP).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        block: type[nn.Module],
        layers: tuple[int, ...],
        stem: str = "imagenet",
        in_channels: int = 3,
        init: str = "fan_out",
        head: str = "linear",
        head_options: dict | None = None,
        **width: int,
    ) -> None:
        initialise = pick("initialisation", init, INITS)
        pick("stem", stem, dict.fromkeys(STEMS))
        TorchvisionResNet.__init__(self, block, list(layers), num_classes=1, **width)
        if stem == "cifar":
            self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.feature_dim = 512 * block.expansion
        self.fc = build_head(head, self.feature_dim, num_classes, **(head_options or {}))
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)


class PlacesResNet(ResNet):
    """ResNet-152 in two parts (MiSLAS, BTM on Places-LT): a frozen backbone and `block`, its last bottleneck.

    The backbone ([3, 8, 36, 2]) is ImageNet's, never trains and stays in eval mode in every stage. `block` is
    torchvision's `layer4.2`, so the canonical names are those of ResNet-152; it starts from the library's
    initialisation, not from the pretrained layer. `layers` counts the block in the last stage.
    """

    def __init__(self, num_classes: int, *, layers: tuple[int, ...] = (3, 8, 36, 3), **options: object) -> None:
        for fixed in ("block", "stem"):
            if fixed in options:
                raise UserError(f"the Places network has no option '{fixed}'")
        super().__init__(num_classes, block=Bottleneck, layers=layers, **options)
        self.block_name = f"layer4.{layers[3] - 1}"
        for module in self.modules():  # until ImageNet's weights come, 49 blocks in eval mode must not explode
            if isinstance(module, Bottleneck) and module is not self.block:
                torch.nn.init.zeros_(module.bn3.weight)
        INITS["library"](self.block)
        own = (f"{self.block_name}.", f"{self.head_name}.")
        for name, parameter in self.named_parameters():
            if not name.startswith(own):
                parameter.requires_grad_(False)
        norms = (n for n, m in self.named_modules() if isinstance(m, nn.BatchNorm2d))
        self.backbone_norms = frozenset(n for n in norms if not n.startswith(own))
        self.eval_only = self.backbone_norms

    @property
    def block(self) -> nn.Module:
        return self.get_submodule(self.block_name)


_net = partial(partial, ResNet)
ARCHS = {
    "resnet10": _net(block=BasicBlock, layers=(1, 1, 1, 1)),
    "resnet18": _net(block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet34": _net(block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet50": _net(block=Bottleneck, layers=(3, 4, 6, 3)),
    "resnet101": _net(block=Bottleneck, layers=(3, 4, 23, 3)),
    "resnet152": _net(block=Bottleneck, layers=(3, 8, 36, 3)),
    "resnext50": _net(block=Bottleneck, layers=(3, 4, 6, 3), groups=32, width_per_group=4),
    "resnet18_cifar": _net(block=BasicBlock, layers=(2, 2, 2, 2), stem="cifar", init="library"),
    "resnet34_cifar": _net(block=BasicBlock, layers=(3, 4, 6, 3), stem="cifar", init="library"),
    "resnet152_places": PlacesResNet,
}
