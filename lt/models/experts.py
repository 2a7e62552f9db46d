"""RIDE: one trunk, then E private copies of the last two stages with a classifier each.

The prediction is the mean of the experts' logits. Experts run in a plain loop: measured as fast as or faster
than grouped convolutions. Source: RIDE, ICLR 2021, arXiv 2010.01809, and the released networks.
Names are torchvision's: `conv1, bn1, layer1 ...` for the trunk, `experts.<e>.layer3 ... fc` for the experts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.errors import UserError, nearest, pick
from lt.models.batchformer import TWO_STREAMS, BatchFormer, encoder_layers
from lt.models.heads import Network, tau_normalised
from lt.models.heads import build as build_head
from lt.models.init import INITS
from lt.models.resnet_cifar import Block


@dataclass(frozen=True)
class Plan:
    """What a backbone is made of; the last two stages are the private ones."""

    block: Callable[[int, int, int], nn.Module]  # (in_channels, planes, stride)
    depths: tuple[int, ...]
    planes: tuple[int, ...]
    reduced: tuple[int, int]  # planes of the private stages at reduced width
    expansion: int
    cifar: bool  # 3x3 stem, Kaiming initialisation, pooling without a module


def _torchvision_block(kind: str, in_channels: int, planes: int, stride: int, *, groups: int = 1) -> nn.Module:
    import lt.compat  # noqa: F401, I001  (before torchvision)
    from torchvision.models.resnet import BasicBlock, Bottleneck

    block = {"basic": BasicBlock, "bottleneck": Bottleneck}[kind]
    out = planes * block.expansion
    shortcut = None
    if stride != 1 or in_channels != out:
        shortcut = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return block(in_channels, planes, stride, shortcut, groups=groups, base_width=4 if groups > 1 else 64)


_CIFAR = {"block": Block, "planes": (16, 32, 64), "reduced": (24, 48), "expansion": 1, "cifar": True}
_IMAGENET = {"planes": (64, 128, 256, 512), "reduced": (192, 384), "cifar": False}
_BASIC = partial(_torchvision_block, "basic")
_BOTTLENECK = partial(_torchvision_block, "bottleneck")
_GROUPED = partial(_torchvision_block, "bottleneck", groups=32)  # 32x4d

PLANS = {
    "ride_resnet8": Plan(depths=(1, 1, 1), **_CIFAR),
    "ride_resnet32": Plan(depths=(5, 5, 5), **_CIFAR),
    "ride_resnet10": Plan(block=_BASIC, depths=(1, 1, 1, 1), expansion=1, **_IMAGENET),
    "ride_resnet50": Plan(block=_BOTTLENECK, depths=(3, 4, 6, 3), expansion=4, **_IMAGENET),
    "ride_resnext50": Plan(block=_GROUPED, depths=(3, 4, 6, 3), expansion=4, **_IMAGENET),
}


class Expert(nn.Module):
    """The private stages and the classifier of one expert."""

    def __init__(self, stages: dict[str, nn.Module], fc: nn.Module, pool: nn.Module | None) -> None:
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.stages = tuple(stages)
        if pool is not None:
            self.avgpool = pool
        self.fc = fc

    def features(self, x: Tensor) -> Tensor:
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.avgpool(x).flatten(1) if hasattr(self, "avgpool") else x.mean(dim=(2, 3))


class RideNet(Network):
    """`forward` gives the mean logits [B, C]; `streams` what the losses need, one [B, E, C] per stream.

    `use_experts`: run only these experts ("rand": all but one, drawn anew in each forward pass from torch's
    default generator, as dropout is).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        plan: Plan,
        experts: int = 3,
        reduced: bool = True,
        widths: tuple[int, int] | None = None,
        head: str = "cosine",
        head_options: dict | None = None,
        add_bt: int = 0,
        group_size: int | None = None,
        across_ranks: bool = False,
        encoder_dropout: float = 0.5,
        use_experts: Sequence[int] | str | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if experts < 1:
            raise UserError(f"experts must be at least 1, not {experts}")
        if num_classes < 1:
            raise UserError(f"num_classes must be at least 1, not {num_classes}")
        self.num_classes, self.num_experts, self.cifar = num_classes, experts, plan.cifar
        self.use_experts = _checked_subset(use_experts, experts)
        planes = plan.planes[:-2] + tuple(widths or (plan.reduced if reduced else plan.planes[-2:]))
        if len(planes) != len(plan.planes) or (plan.cifar and any(p % 2 for p in planes)):
            raise UserError(f"widths: expected two even numbers such as {plan.reduced}, not {widths}")
        self.feature_dim = planes[-1] * plan.expansion

        if plan.cifar:
            self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        channels = self.conv1.out_channels
        self.trunk_stages = tuple(f"layer{k + 1}" for k in range(len(planes) - 2))
        for k, name in enumerate(self.trunk_stages):
            self.add_module(name, _stage(plan, k, channels, planes[k]))
            channels = planes[k] * plan.expansion
        # The classifiers of every published configuration: cosine with scale 30 inside the network.
        head_options = {**({"form": "normed"} if head == "cosine" else {}), **(head_options or {})}
        make_head = partial(build_head, head, self.feature_dim, num_classes, **head_options)
        self.experts = nn.ModuleList(_expert(plan, channels, planes, make_head()) for _ in range(experts))
        self.add_bt, self.two_streams, self.batchformer = add_bt, add_bt in TWO_STREAMS, None
        if layers := encoder_layers(add_bt):
            self.batchformer = BatchFormer(
                self.feature_dim,
                layers=layers,
                dropout=encoder_dropout,
                group_size=group_size,
                across_ranks=across_ranks,
            )
        INITS["ride" if plan.cifar else "ride_normal"](self)

    @property
    def head(self) -> nn.ModuleList:
        return nn.ModuleList(expert.fc for expert in self.experts)

    def trunk(self, x: Tensor) -> Tensor:
        """The shared part: stem and early stages."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if not self.cifar:
            x = self.maxpool(x)
        for name in self.trunk_stages:
            x = getattr(self, name)(x)
        return x

    def active(self) -> list[int]:
        """Indices of the experts that a forward pass runs."""
        if self.use_experts == "rand":
            return sorted(torch.randperm(self.num_experts)[: self.num_experts - 1].tolist())
        return list(self.use_experts) if self.use_experts is not None else list(range(self.num_experts))

    def features(self, x: Tensor, experts: Sequence[int] | None = None) -> Tensor:
        """Pooled features [E, B, d], before BatchFormer."""
        shared = self.trunk(x)
        experts = self.active() if experts is None else experts
        return torch.stack([self.experts[e].features(shared) for e in experts])

    def classify_experts(self, features: Tensor, experts: Sequence[int] | None = None) -> Tensor:
        """[E, B, d] -> [B, E, C], each expert's features through its own classifier."""
        experts = self.active() if experts is None else experts
        return torch.stack([self.experts[e].fc(f) for e, f in zip(experts, features, strict=True)], dim=1)

    def classify(self, features: Tensor) -> Tensor:
        """[E, B, d] -> mean logits [B, C]."""
        return self.classify_experts(features).mean(1)

    def streams(self, x: Tensor) -> tuple[Tensor, ...]:
        """Expert logits [B, E, C]: (encoded or plain,) or, in training with add_bt 32 or 33, (encoded, by-pass)."""
        experts = self.active()
        features = self.features(x, experts)
        if self.batchformer is None or not self.training:
            return (self.classify_experts(features, experts),)
        encoded = self.classify_experts(self.batchformer(features), experts)
        return (encoded, self.classify_experts(features, experts)) if self.two_streams else (encoded,)

    def expert_logits(self, x: Tensor) -> Tensor:
        """[B, E, C] of the first stream: the encoded one in training with BatchFormer, else the plain one."""
        return self.streams(x)[0]

    def forward(self, x: Tensor, *, streams: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Mean logits [B, C]; with `streams=True` what `streams` returns (for wrappers that hook `forward`)."""
        return self.streams(x) if streams else self.expert_logits(x).mean(1)


def _stage(plan: Plan, index: int, channels: int, planes: int) -> nn.Sequential:
    blocks = []
    for b in range(plan.depths[index]):
        stride = 2 if index > 0 and b == 0 else 1
        blocks.append(plan.block(channels, planes, stride))
        channels = planes * plan.expansion
    return nn.Sequential(*blocks)


def _expert(plan: Plan, channels: int, planes: tuple[int, ...], fc: nn.Module) -> Expert:
    stages = {}
    for k in (len(planes) - 2, len(planes) - 1):
        stages[f"layer{k + 1}"] = _stage(plan, k, channels, planes[k])
        channels = planes[k] * plan.expansion
    return Expert(stages, fc, None if plan.cifar else nn.AdaptiveAvgPool2d(1))


def _checked_subset(use: Sequence[int] | str | None, experts: int) -> Sequence[int] | str | None:
    if use == "rand":
        if experts < 2:
            raise UserError("use_experts: 'rand' leaves one expert out and needs at least 2 experts")
        return use
    if use is None or use == "":
        return None
    try:
        chosen = [int(e) for e in (use.split(",") if isinstance(use, str) else use)]
    except ValueError:
        raise UserError(f"use_experts: expected numbers such as '0,2' or 'rand', not {use!r}") from None
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= e < experts for e in chosen):
        raise UserError(f"use_experts: expected different numbers from 0 to {experts - 1}, not {use!r}")
    return chosen


def build(name: str, num_classes: int, *, router: bool = False, **options: object) -> RideNet:
    """A network of `PLANS`; `router=True` adds the expert-assignment gates and freezes everything else."""
    plan = pick("arch", name, PLANS)
    make: type[RideNet] = RideNet
    if router:
        from lt.models.router import RoutedRideNet as make
    known = {
        p.name
        for kind in {RideNet, make}
        for p in inspect.signature(kind).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name != "plan"
    }
    for option in options:
        if option not in known:
            raise UserError(f"arch '{name}' has no option '{option}'{nearest(option, known | {'router'})}")
    return make(num_classes, plan=plan, **options)


ARCHS = {  # written out: the names are read without importing this module
    "ride_resnet8": partial(build, "ride_resnet8"),
    "ride_resnet10": partial(build, "ride_resnet10"),
    "ride_resnet32": partial(build, "ride_resnet32"),
    "ride_resnet50": partial(build, "ride_resnet50"),
    "ride_resnext50": partial(build, "ride_resnext50"),
}


def tau_normalise(state: dict[str, Tensor], tau: float) -> dict[str, Tensor]:
    """Weights with every linear classifier row divided by |w|^tau and every classifier bias set to zero.

    Works on `experts.<e>.fc.*` and on a plain `fc.*`. tau 0.6968 (ImageNet-LT) and 0.3146 (iNaturalist 2018) are
    the constants noted in the released code. A row of zeros stays zero.
    """
    heads = [k.removesuffix("weight") for k in state if k == "fc.weight" or k.endswith(".fc.weight")]
    if not heads:
        raise UserError("tau normalisation: no classifier 'fc.weight' among the weights")
    result = dict(state)
    for head in heads:
        if head + "bias" not in state:
            raise UserError(
                f"tau normalisation needs linear classifiers with a bias; '{head}weight' is a cosine classifier"
            )
        result[head + "weight"] = tau_normalised(state[head + "weight"], tau)
        result[head + "bias"] = torch.zeros_like(state[head + "bias"])
    return result
