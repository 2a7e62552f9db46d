"""The golden RIDE networks: weights by the released names, images with low-frequency content."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from lt.models import experts
from lt.models.convert_ride import to_official

ARCH = {
    "ResNet32": "ride_resnet32",
    "ResNet10": "ride_resnet10",
    "ResNet50": "ride_resnet50",
    "ResNeXt50": "ride_resnext50",
}
OPTIONS = {"add_bt": "add_bt", "num_experts": "experts", "top_choices_num": "top_k"}


def rule(name: str, shape: Iterable[int], *, norm_weight: bool) -> torch.Tensor:
    """A tensor as a function of its released name; float64 until the last step."""
    shape = tuple(shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    v = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).randn(*shape)
    v = v / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else v * 0.1
    if norm_weight or name.endswith("running_var"):
        v = np.abs(v) + 0.5
    return torch.from_numpy(v.astype(np.float32))


def images(seed: int, shape: list[int]) -> torch.Tensor:
    b, c, h, w = shape
    g = 8 if h == 32 else 32
    r = np.random.RandomState(seed)
    base = r.randn(b, c, h // g, w // g).repeat(g, 2).repeat(g, 3)
    return torch.from_numpy((2 * base + 0.5 * r.randn(b, c, h, w)).astype(np.float32))


def build(model: str, kwargs: dict, **options: object) -> nn.Module:
    """Our network for an official class name and its constructor arguments."""
    name = model.removesuffix("Model")
    if name.endswith("EA"):
        name, options["router"] = name.removesuffix("EA"), True
    options |= {OPTIONS[k]: v for k, v in kwargs.items() if k in OPTIONS}
    if "layer2_output_dim" in kwargs:
        options["widths"] = (kwargs["layer2_output_dim"], kwargs["layer3_output_dim"])
    options["reduced"] = bool(kwargs["reduce_dimension"])
    return experts.ARCHS[ARCH[name]](kwargs["num_classes"], encoder_dropout=0.0, **options)


def official_name(name: str, experts: int) -> str:
    """The released name of one of our entries; with one expert the released net is the plain one."""
    if experts == 1:
        name = name.removeprefix("experts.0.")
    return next(iter(to_official({name: None})))


def fill(net: nn.Module, *, factor: float = 1.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Set every entry by the rule; `factor` multiplies all but variances and counters (the teacher's 1.1)."""
    net.to(dtype)
    norms = {
        f"{n}.weight" for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.LayerNorm)
    }
    state = {}
    for name, entry in net.state_dict().items():
        official = official_name(name, net.num_experts)
        value = rule(official, entry.shape, norm_weight=name in norms)
        plain = not value.is_floating_point() or official.endswith("running_var")
        state[name] = value if plain else value.to(dtype) * factor
    net.load_state_dict(state)
    return net


def state_by_official_name(net: nn.Module) -> dict[str, torch.Tensor]:
    return {official_name(k, net.num_experts): v for k, v in net.state_dict().items()}
