"""Optimisers, parameter groups and learning-rate schedules.

A schedule is a function `(epoch, step) -> lr`, both 0-based. Every parameter group carries `lr_scale`; the
engine sets `group["lr"] = schedule(epoch, step) * group["lr_scale"]` before the step.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from lt.errors import UserError, nearest, pick

Schedule = Callable[[int, int], float]
Group = dict[str, object]


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(f"schedule: {message}")


def constant(*, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
    return lambda epoch, step: lr


def cosine(*, lr: float, epochs: int, steps_per_epoch: int, min_lr: float = 0.0) -> Schedule:
    """Per epoch, from lr in the first towards min_lr after the last (torch's cosine annealing)."""
    return lambda epoch, step: min_lr + (lr - min_lr) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def cosine_mislas(*, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
    """MiSLAS and BTM: the literal is theirs, not pi."""
    return lambda epoch, step: 0.5 * lr * (1 + math.cos(epoch / epochs * 3.1415926535))


def step_mislas(*, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
    """MiSLAS on CIFAR: five warm-up epochs; 160 and 180 are literals that do not scale with the length."""

    def rate(epoch: int, step: int) -> float:
        t = epoch + 1
        if t <= 5:
            return lr * t / 5
        return lr * (0.01 if t > 180 else 0.1 if t > 160 else 1)

    return rate


def coslrwarmup(
    *, lr: float, epochs: int, steps_per_epoch: int, warmup_epochs: int, base_lr: float, min_lr: float = 0.0
) -> Schedule:
    """BaGMar and BALMS on CIFAR: base_lr in epoch 1, lr in epoch W, min_lr in the last epoch (counted from 1)."""
    _need(warmup_epochs >= 2, f"coslrwarmup needs warmup_epochs of 2 or more, got {warmup_epochs}")
    _need(warmup_epochs < epochs, f"warmup_epochs ({warmup_epochs}) must be below epochs ({epochs})")

    def rate(epoch: int, step: int) -> float:
        e = epoch + 1
        if e < warmup_epochs:
            return base_lr + (lr - base_lr) / (warmup_epochs - 1) * (e - 1)
        angle = math.pi * (e - warmup_epochs) / (epochs - warmup_epochs)
        return min_lr + (lr - min_lr) * (1 + math.cos(angle)) / 2

    return rate


def coslr(*, lr: float, epochs: int, steps_per_epoch: int, min_lr: float = 0.0) -> Schedule:
    """BaGMar on frozen backbones: a cosine stepped before its first epoch, so never the full lr, min_lr at the end."""
    return lambda epoch, step: min_lr + (lr - min_lr) * (1 + math.cos(math.pi * (epoch + 1) / epochs)) / 2


def custom_ride(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    step1: int,
    step2: int,
    gamma: float,
    warmup_epochs: int = 5,
) -> Schedule:
    """RIDE: warm-up (1 + e)/W, gamma from epoch step1, gamma^2 from step2 (0-based)."""
    _need(warmup_epochs >= 0, f"warmup_epochs must not be negative, got {warmup_epochs}")
    _need(step1 <= step2, f"step1 ({step1}) must not be above step2 ({step2})")

    def rate(epoch: int, step: int) -> float:
        factor = gamma**2 if epoch >= step2 else gamma if epoch >= step1 else 1.0
        if epoch < warmup_epochs:
            factor *= float(1 + epoch) / warmup_epochs
        return lr * factor

    return rate


def coslr_official(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 5,
    entry: Literal["train", "train_dist"] = "train",
) -> Schedule:
    """BatchFormer's CosLR as it runs: the base rate enters twice (`train_dist`: in its warm-up only)."""
    _need(entry in ("train", "train_dist"), f"entry: expected train or train_dist, got '{entry}'")
    _need(0 <= warmup_epochs < epochs, f"warmup_epochs ({warmup_epochs}) must be below epochs ({epochs})")

    def rate(epoch: int, step: int) -> float:
        if entry == "train_dist" and epoch < warmup_epochs:
            return lr * lr * (1 + epoch) / warmup_epochs
        angle = math.pi * (epoch - warmup_epochs + 1) / (epochs - warmup_epochs + 1)
        factor = 0.5 * (1 + math.cos(angle))
        return lr * factor * (lr if entry == "train" else 1.0)

    return rate


def warmup_cosine(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0,
    min_lr: float = 0.0,
    accumulate: int = 1,
    micro_batches: int | None = None,
) -> Schedule:
    """MAE's schedule per update (LiVT, IP-DPP): t = epoch + micro_step / micro_batches; the first update has lr 0.

    `step` counts updates. `micro_batches` is the loader's length, which need not be a multiple of `accumulate`.
    """
    _need(0 <= warmup_epochs < epochs, f"warmup_epochs ({warmup_epochs}) must be below epochs ({epochs})")
    _need(accumulate >= 1, f"accumulate must be 1 or more, got {accumulate}")
    length = micro_batches or steps_per_epoch * accumulate

    def rate(epoch: int, step: int) -> float:
        t = step * accumulate / length + epoch
        return warmup_cosine_at(t, lr=lr, epochs=epochs, warmup_epochs=warmup_epochs, min_lr=min_lr)

    return rate


def warmup_cosine_at(t: float, *, lr: float, epochs: float, warmup_epochs: float, min_lr: float = 0.0) -> float:
    """`t` in fractional epochs: linear from 0 over the warm-up, then half a cosine to min_lr."""
    if t < warmup_epochs:
        return lr * t / warmup_epochs
    angle = math.pi * (t - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(angle))


def step(
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    step_size: int,
    gamma: float = 0.1,
    stepped_first: bool = False,
) -> Schedule:
    """lr * gamma^(epoch // step_size). `stepped_first`: BaGMar's loop steps before each epoch, one epoch ahead."""
    _need(step_size >= 1, f"step_size must be 1 or more, got {step_size}")
    ahead = int(stepped_first)
    return lambda epoch, step: lr * gamma ** ((epoch + ahead) // step_size)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "cosine_mislas": cosine_mislas,
    "step_mislas": step_mislas,
    "coslrwarmup": coslrwarmup,
    "coslr": coslr,
    "ride": custom_ride,
    "coslr_official": coslr_official,
    "mae": warmup_cosine,
    "step": step,
}


def schedule(name: str, *, lr: float, epochs: int, steps_per_epoch: int, **options: object) -> Schedule:
    """`(epoch, step) -> lr` of that name."""
    factory = pick("schedule", name, SCHEDULES)
    _check_options(f"schedule '{name}'", factory, options, given=("lr", "epochs", "steps_per_epoch"))
    _need(
        epochs >= 1 and steps_per_epoch >= 1,
        f"needs at least one epoch and one step, got {epochs}, {steps_per_epoch}",
    )
    return factory(lr=lr, epochs=epochs, steps_per_epoch=steps_per_epoch, **options)


def _check_options(what: str, factory: Callable, options: Mapping[str, object], *, given: tuple[str, ...]) -> None:
    parameters = {k: p for k, p in inspect.signature(factory).parameters.items() if k not in given}
    for option in options:
        if option not in parameters:
            raise UserError(f"{what} has no option '{option}'{nearest(option, parameters) or '; it has none'}")
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in options]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}")


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate: tensors of two or more dimensions get g <- (g + wd p) * trust |p| / |g|.

    The factor is 1 where either norm is 0; vectors get plain momentum without decay.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update + group["weight_decay"] * p
                    size, speed = torch.linalg.vector_norm(p), torch.linalg.vector_norm(update)
                    usable = (size > 0) & (speed > 0)
                    update = update * torch.where(usable, group["trust"] * size / speed, 1.0)
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                state["mu"].mul_(group["momentum"]).add_(update)
                p.sub_(group["lr"] * state["mu"])


def _fused(groups: Iterable[Group]) -> bool:
    """Fused kernels exist for floating parameters on these devices; they are the fastest on all of them."""
    return all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps", "xpu") for g in groups for p in g["params"]
    )


@functools.cache
def plain(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser without its marks for a compiler: the first of them to be called would load torch._dynamo,
    which takes a job as long as loading torch. Only the network is ever compiled."""
    marked = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in marked}
    return type(kind.__name__, (kind,), {**bare, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def _sgd(
    groups: list[Group], *, momentum: float = 0.9, nesterov: bool = False, fused: bool = True
) -> torch.optim.Optimizer:
    fused = fused and _fused(groups)
    optimizer = plain(torch.optim.SGD)(groups, lr=0.0, momentum=momentum, nesterov=nesterov, fused=fused)
    if momentum:  # the fused kernel leaves its first buffer unwritten where it must skip the first step
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def _adamw(
    groups: list[Group], *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, fused: bool = True
) -> torch.optim.Optimizer:
    return plain(torch.optim.AdamW)(groups, lr=0.0, betas=tuple(betas), eps=eps, fused=fused and _fused(groups))


def _lars(groups: list[Group], *, momentum: float = 0.9, trust: float = 1e-3) -> torch.optim.Optimizer:
    return plain(Lars)(groups, momentum=momentum, trust=trust)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw, "lars": _lars}


def optimizer(name: str, groups: list[Group], **options: object) -> torch.optim.Optimizer:
    """The optimiser over groups from `param_groups`; the engine sets every group's lr before each step."""
    factory = pick("optimizer", name, OPTIMIZERS)
    _check_options(f"optimizer '{name}'", factory, options, given=("groups",))
    groups = [{"lr_scale": 1.0, **g} for g in groups]
    return factory(groups, **options)


def param_groups(model: nn.Module, *, weight_decay: float, rule: str = "all", **options: object) -> list[Group]:
    """Trainable parameters in groups of {params, names, weight_decay, lr_scale}, by one of PARAM_RULES."""
    factory = pick("parameter rule", rule, PARAM_RULES)
    _check_options(f"parameter rule '{rule}'", factory, options, given=("model", "weight_decay"))
    return factory(model, weight_decay=weight_decay, **options)


def all_groups(model: nn.Module, *, weight_decay: float, lr_scales: Mapping[str, float] | None = None) -> list[Group]:
    """Decay on everything. `lr_scales` maps the beginning of a name to a factor on the rate, one group a factor."""
    return _split(model, weight_decay=weight_decay, exempt=lambda name, p: False, lr_scales=lr_scales or {})


def no_decay_1d_groups(
    model: nn.Module, *, weight_decay: float, lr_scales: Mapping[str, float] | None = None
) -> list[Group]:
    """No decay on vectors and biases (that group first), decay on the rest: MAE, LiVT's pre-training, IP-DPP."""
    return _split(
        model,
        weight_decay=weight_decay,
        exempt=lambda name, p: p.ndim <= 1 or name.endswith(".bias"),
        lr_scales=lr_scales or {},
    )


def _split(
    model: nn.Module,
    *,
    weight_decay: float,
    exempt: Callable[[str, Tensor], bool],
    lr_scales: Mapping[str, float],
) -> list[Group]:
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise UserError("the model has no trainable parameter")
    for prefix in lr_scales:
        if not any(n == prefix or n.startswith(prefix + ".") for n, _ in trained):
            raise UserError(f"lr_scales: no trainable parameter begins with '{prefix}'")
    groups: dict[tuple[float, bool], Group] = {}
    for name, p in trained:
        scale = next((s for k, s in lr_scales.items() if name == k or name.startswith(k + ".")), 1.0)
        free = exempt(name, p)
        group = groups.setdefault(
            (scale, free),
            {"params": [], "names": [], "weight_decay": 0.0 if free else weight_decay, "lr_scale": scale},
        )
        group["params"].append(p)
        group["names"].append(name)
    # no-decay groups first, otherwise by first appearance: the order of the published optimiser states
    return sorted(groups.values(), key=lambda g: g["weight_decay"] != 0.0 or weight_decay == 0.0)


def layer_decay_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    decay: float,
    no_decay: Iterable[str] = ("pos_embed", "cls_token", "dist_token"),
) -> list[Group]:
    """LiVT's fine-tuning groups of a ViT (`model.blocks`): rate times decay^(depth + 1 - layer).

    Layer 0 holds the tokens, positions and patch embedding, block i is layer i + 1, norms and head are the last.
    """
    if not hasattr(model, "blocks"):
        raise UserError("layer decay needs a ViT (a model with `blocks`)")
    if not 0 < decay <= 1:
        raise UserError(f"layer decay: expected a number in (0, 1], got {decay}")
    last = len(model.blocks) + 1
    exempt = set(no_decay)
    groups: dict[tuple[int, bool], Group] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        layer = _vit_layer(name, last)
        free = p.ndim == 1 or name in exempt
        group = groups.setdefault(
            (layer, free),
            {
                "params": [],
                "names": [],
                "weight_decay": 0.0 if free else weight_decay,
                "lr_scale": decay ** (last - layer),
            },
        )
        group["params"].append(p)
        group["names"].append(name)
    return list(groups.values())


def _vit_layer(name: str, last: int) -> int:
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return last


PARAM_RULES: dict[str, Callable[..., list[Group]]] = {
    "all": all_groups,
    "no_decay_1d": no_decay_1d_groups,
    "mae": no_decay_1d_groups,
    "layer_decay": layer_decay_groups,
}
