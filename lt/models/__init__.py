"""Networks by name: `build(arch, num_classes, **options)`.

Every classifier network has `features(x) -> [B, d]`, `classify(f) -> logits`, `head`, `feature_dim`, and
`forward(x) = classify(features(x))`. Canonical state-dict names are torchvision's. Families live in modules
of their own, found by the prefix of the name, so that a job imports only what it uses.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from lt.errors import UserError, nearest
from lt.models import heads, resnet_cifar

# prefix of a name -> module with a dict ARCHS: name -> factory(num_classes, **options)
FAMILIES = {
    "vit_": "lt.models.vit",
    "mae_": "lt.models.mae",
    "ride_": "lt.models.experts",
    "resnet": "lt.models.resnet",
    "resnext": "lt.models.resnet",
}
ARCHS: dict[str, Callable[..., nn.Module]] = dict(resnet_cifar.ARCHS)


def known_archs() -> list[str]:
    """Every name there is (imports every family)."""
    names = set(ARCHS)
    for module in set(FAMILIES.values()):
        if importlib.util.find_spec(module) is not None:
            names.update(importlib.import_module(module).ARCHS)
    return sorted(names)


def factory(arch: str) -> Callable[..., nn.Module]:
    if arch in ARCHS:
        return ARCHS[arch]
    for prefix, module in FAMILIES.items():
        if arch.startswith(prefix):
            family = importlib.import_module(module).ARCHS
            if arch in family:
                return family[arch]
    raise UserError(f"unknown arch '{arch}'{nearest(arch, known_archs())}")


def _options(make: Callable[..., nn.Module]) -> set[str] | None:
    """Keyword-only names of a factory, through partials and base classes; None if it takes anything."""
    preset: set[str] = set()
    while isinstance(make, partial):
        preset |= set(make.keywords)
        make = make.func
    names: set[str] = set()
    for kind in make.__mro__ if isinstance(make, type) else (make,):
        if kind in (nn.Module, object):
            break
        parameters = inspect.signature(kind).parameters.values()
        names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - (preset - {"init"})
    return None


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from a generator of this seed and put the global one back; None leaves it to the caller."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def build(arch: str, num_classes: int, *, seed: int | None = None, **options: Any) -> nn.Module:
    """A network; with `seed` its initial weights depend on it alone and no global generator moves."""
    make = factory(arch)
    if num_classes < 1:
        raise UserError(f"arch '{arch}': num_classes must be at least 1, got {num_classes}")
    known = _options(make)
    if known is not None:
        for name in options:
            if name not in known:
                raise UserError(f"arch '{arch}' has no option '{name}'{nearest(name, known)}")
    with _seeded(seed):
        return make(num_classes, **options)


def accepts(arch: str, option: str) -> bool:
    return option in (_options(factory(arch)) or ())


def set_head(
    model: nn.Module,
    head: str | nn.Module,
    *,
    num_classes: int | None = None,
    inherit: bool = True,
    seed: int | None = None,
    **options: Any,
) -> nn.Module:
    """Replace the head in place.

    A head given by name takes over the old one's `weight` and `bias` where they fit (LWS, tau-norm), or
    starts afresh with `inherit` false (cRT); `num_classes` is the old head's if not given.
    """
    old = model.head
    if isinstance(head, str):
        classes = num_classes or _num_classes(old)
        state = old.state_dict() if inherit else {}
        with _seeded(seed):
            head = heads.build(head, model.feature_dim, classes, **options).to(next(model.parameters()))
        new = head.state_dict()
        fitting = {k: v for k, v in state.items() if k in new and new[k].shape == v.shape}
        head.load_state_dict(fitting, strict=False)
    name = getattr(model, "head_name", None) or next(n for n, m in model.named_children() if m is old)
    setattr(model, name, head)
    return model


def _num_classes(head: nn.Module) -> int:
    if isinstance(head, heads.CosineNormed):
        return head.weight.shape[1]
    if isinstance(head, nn.Sequential):
        return head[-1].out_features
    return len(head.centroids) if isinstance(head, heads.NCM) else head.weight.shape[0]


def add_batchformer(model: nn.Module, *, seed: int | None = None, **options: Any) -> nn.Module:
    """Give a plain classifier network an encoder over the batch, in place; training then returns both streams."""
    from lt.models.batchformer import with_batchformer

    with _seeded(seed):
        return with_batchformer(model, **options)


def group_norms(model: nn.Module, size: int) -> nn.Module:
    """Normalise every `size` images of a batch by themselves, in place, as that many on one device were."""
    from lt.models.batch_groups import group_batch_norms

    return group_batch_norms(model, size)


def sync_norms(model: nn.Module) -> nn.Module:
    """Normalise over the images of all ranks, in place."""
    from lt.models.sync import sync_batch_norms

    return sync_batch_norms(model)


TRAIN = ("all", "head", "block+head")


def freeze(model: nn.Module, *, train: str = "all", bn: str = "train") -> list[str]:
    """Choose what learns; returns the names of the trainable parameters.

    `train: all | head | block+head` (block: a two-part network's last bottleneck). `bn: eval` keeps the
    backbone's batch normalisation (block included) in eval mode under `.train()`; `bn: train` lets running
    statistics move although nothing of the backbone learns (MiSLAS's shifted BN). A two-part network's
    backbone never trains and stays in eval mode in any case. What a head freezes by itself (LWS without its
    linear part) stays frozen.
    """
    for what, value, known in (("train", train, TRAIN), ("bn", bn, ("train", "eval"))):
        if value not in known:
            raise UserError(f"{what}: '{value}'{nearest(value, known)}")
    block = getattr(model, "block_name", None)
    if train == "block+head" and block is None:
        raise UserError(f"train: 'block+head' needs a two-part network, {type(model).__name__} has no block")
    in_head = {id(p) for p in model.head.parameters()}
    kept = {id(getattr(model.head, name)) for name in getattr(model.head, "frozen", ())}
    for name, parameter in model.named_parameters():
        if id(parameter) in in_head:
            learns = id(parameter) not in kept
        elif block is None:
            learns = train == "all"
        else:
            learns = train != "head" and name.startswith(f"{block}.")
        parameter.requires_grad_(learns)
    _freeze_norms(model, bn)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _freeze_norms(model: nn.Module, bn: str) -> None:
    head = {id(m) for m in model.head.modules()}
    norm = nn.modules.batchnorm._BatchNorm
    norms = frozenset(n for n, m in model.named_modules() if isinstance(m, norm) and id(m) not in head)
    still = norms if bn == "eval" else getattr(model, "backbone_norms", frozenset())
    if not isinstance(model, heads.Network):
        if still:
            raise UserError(f"bn: 'eval' is not offered by {type(model).__name__}: it is not an lt Network")
        return
    model.eval_only = still
    model.train(model.training)
