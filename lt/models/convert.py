"""Official checkpoints under our names: `import_state(path, model)`.

A layout turns the containers of one code base into one flat state dict with canonical names (torchvision's;
the head is `fc`). To add a layout, add its function to LAYOUTS and how it is known to SIGNATURES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lt.errors import UserError, nearest, pick
from lt.models import convert_livt, convert_ride
from lt.models.importing import load_official

State = dict[str, Tensor]


def strip(state: dict[str, Any], prefix: str = "module.") -> State:
    """Names without the prefix that DataParallel leaves; entries must be tensors."""
    if not isinstance(state, dict):
        raise UserError(f"expected a dictionary of weights, found {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"entry '{name}' is no tensor but {type(value).__name__}")
    stripped = {name.removeprefix(prefix): value for name, value in state.items()}
    if len(stripped) < len(state):
        twice = next(name for name in state if name.startswith(prefix) and name.removeprefix(prefix) in state)
        raise UserError(f"entry '{twice}' is there twice, with and without '{prefix}'")
    return stripped


def _under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def _classifier(state: dict[str, Any]) -> State:
    """fc.weight, fc.bias, and lt-project's `scales` beside them."""
    return {("fc.scales" if k == "scales" else k): v for k, v in strip(state).items()}


def mislas(container: dict[str, Any]) -> State:
    """MiSLAS, BTM: state_dict_model, _classifier; Places' _block ends layer4; stage 2's scales."""
    state = strip(container["state_dict_model"])
    if "state_dict_block" in container:  # the last bottleneck of the last stage
        before = {name.split(".")[1] for name in state if name.startswith("layer4.")}
        state |= _under(f"layer4.{len(before)}.", strip(container["state_dict_block"]))
    if "state_dict_classifier" in container:
        state |= _classifier(container["state_dict_classifier"])
    if "state_dict_lws_model" in container:
        scales = strip(container["state_dict_lws_model"])
        state |= {("fc.scales" if k == "learned_norm" else k): v.flatten() for k, v in scales.items()}
    return state


def decoupling(container: dict[str, Any]) -> State:
    """classifier-balancing, BALMS, lt-project: state_dict_best or state_dict = {feat_model, classifier}."""
    parts = container.get("state_dict_best") or container["state_dict"]
    for part in parts:
        if part not in ("feat_model", "classifier"):
            raise UserError(f"unknown part '{part}' of the checkpoint; known: feat_model, classifier")
    return strip(parts["feat_model"]) | _classifier(parts.get("classifier", {}))


def ipdpp(container: dict[str, Any]) -> State:
    """BNS + IP-DPP: enc.* (shortcut -> downsample), projector.* or lin.* as the head; the plain net's fc."""
    state = {}
    for name, value in strip(container["model"]).items():
        name = name.removeprefix("enc.").replace(".shortcut.", ".downsample.")
        for theirs in ("lin.", "projector."):
            if name.startswith(theirs):
                name = "fc." + name.removeprefix(theirs)
        state[name] = value
    return state


def wrapped(container: dict[str, Any]) -> State:
    """{model: names as they are} of any other code; the optimiser and the arguments are left behind."""
    return strip(container["model"])


def flat(container: dict[str, Any]) -> State:
    """torchvision and our own files: names as they are."""
    return strip(container)


LAYOUTS: dict[str, Callable[[dict[str, Any]], State]] = {
    "mislas": mislas,
    "decoupling": decoupling,
    "ipdpp": ipdpp,
    **convert_ride.LAYOUTS,
    **convert_livt.LAYOUTS,
    "wrapped": wrapped,
    "flat": flat,
}


def _has_model(container: dict[str, Any], prefix: str) -> bool:
    model = container.get("model")
    return isinstance(model, dict) and any(str(k).startswith(prefix) for k in model)


def _has_parts(container: dict[str, Any]) -> bool:
    parts = container.get("state_dict_best") or container.get("state_dict")
    return isinstance(parts, dict) and "feat_model" in parts


# asked in this order; the first that knows the container names the layout
SIGNATURES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "mislas": lambda c: "state_dict_model" in c,
    "decoupling": _has_parts,
    "ipdpp": lambda c: _has_model(c, "enc."),
    **convert_ride.SIGNATURES,
    **convert_livt.SIGNATURES,
    "wrapped": lambda c: isinstance(c.get("model"), dict),
    "flat": lambda c: all(isinstance(v, Tensor) for v in c.values()),
}
# row i of these classifiers is class i of the official numbering by class size (an unstable sort)
CLASS_MAPS = {"mislas": "legacy"}


def detect(container: dict[str, Any]) -> str:
    for name, knows in SIGNATURES.items():
        if knows(container):
            return name
    keys = ", ".join(sorted(map(str, container))[:8])
    raise UserError(f"unknown checkpoint layout (keys: {keys}); known: {', '.join(LAYOUTS)}")


@dataclass(frozen=True)
class Report:
    """What an import did; goes into the manifest of the imported stage."""

    path: str
    sha256: str
    layout: str
    class_map: str
    loaded: tuple[str, ...]
    dropped: tuple[str, ...] = ()  # in the file, not wanted
    kept: tuple[str, ...] = ()  # not in the file, as initialised
    meta: dict[str, float | int | str] = field(default_factory=dict)  # epoch, best_acc1, ...


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def _fit(name: str, value: Tensor, like: Tensor) -> Tensor:
    if value.shape != like.shape:
        raise UserError(f"entry '{name}' has shape {tuple(value.shape)}, the network expects {tuple(like.shape)}")
    if not torch.isfinite(value).all():
        raise UserError(f"entry '{name}' holds values that are not finite")
    if not like.is_floating_point() and value.is_floating_point():
        value = value.round()  # a mean of equal counters falls just short of the integer
    return value.to(like.dtype)


def load_state(
    model: nn.Module, state: State, *, drop: Iterable[str] = (), optional: Iterable[str] = ("fc.scales",)
) -> tuple[list[str], list[str], list[str]]:
    """Load canonical names strictly; returns (loaded, dropped, kept).

    `drop`: prefixes left out of the file, whose entries keep their initial values in the network. `optional`:
    entries the file may lack (stage-1 files carry no scales); normalisation counters always are.
    """
    drop, optional = tuple(drop), frozenset(optional)
    own = model.state_dict()
    dropped = [name for name in state if name.startswith(drop)] if drop else []
    given = {name: value for name, value in state.items() if name not in set(dropped)}
    missing = [name for name in own if name not in given]
    kept = [
        name
        for name in missing
        if name in optional or name.endswith("num_batches_tracked") or (drop and name.startswith(drop))
    ]
    lacking = [name for name in missing if name not in set(kept)]
    unexpected = [name for name in given if name not in own]
    if lacking or unexpected:
        parts = [f"{len(lacking)} missing: {_some(lacking)}"] if lacking else []
        parts += [f"{len(unexpected)} unexpected: {_some(unexpected)}"] if unexpected else []
        hint = nearest(unexpected[0], own) if unexpected else ""
        raise UserError(f"the names do not match {type(model).__name__}: {'; '.join(parts)}{hint}")
    fitting = {name: _fit(name, value, own[name]) for name, value in given.items()}
    model.load_state_dict(fitting, strict=False)
    return list(fitting), dropped, kept


def _meta(container: dict[str, Any]) -> dict[str, float | int | str]:
    found = {}
    for key, value in container.items():
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            value = value.item()
        if isinstance(value, (bool, int, float, str)):
            found[str(key)] = value
    return found


def import_state(
    path: str | Path,
    model: nn.Module,
    *,
    layout: str = "auto",
    drop: Iterable[str] = (),
    optional: Iterable[str] = ("fc.scales",),
) -> Report:
    """Load an official file into `model` under canonical names; refuses anything missing or unexpected."""
    container, digest = load_official(path)
    try:
        name = detect(container) if layout == "auto" else layout
        convert = pick("checkpoint layout", name, LAYOUTS)
        try:
            state = convert(container)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"not in the layout '{name}': {error}") from error
        loaded, dropped, kept = load_state(model, state, drop=drop, optional=optional)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Report(
        path=Path(path).name,
        sha256=digest,
        layout=name,
        class_map=CLASS_MAPS.get(name, "identity"),
        loaded=tuple(loaded),
        dropped=tuple(dropped),
        kept=tuple(kept),
        meta=_meta(container) if name != "flat" else {},
    )


def import_torchvision(path: str | Path, model: nn.Module, *, arch: str = "resnet152") -> Report:
    """Start from torchvision's V1 ImageNet weights; head and a two-part network's block keep their own."""
    from lt.models.importing import load_torchvision

    state, source = load_torchvision(path, arch)
    block = getattr(model, "block_name", None)
    drop = ("fc.",) if block is None else ("fc.", f"{block}.")
    loaded, dropped, kept = load_state(model, strip(state), drop=drop)
    return Report(
        path=Path(path).name,
        sha256=source["sha256"],
        layout="flat",
        class_map="identity",
        loaded=tuple(loaded),
        dropped=tuple(dropped),
        kept=tuple(kept),
        meta={"source": source["source"], "bytes": Path(path).stat().st_size},
    )
