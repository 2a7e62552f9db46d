"""Released RIDE and BatchFormer checkpoints: their tensor names <-> ours, and reading them safely.

Theirs: `backbone.layer3s.<e>.<block>...`, `backbone.linears.<e>.weight`, `backbone.encoder_layers.*`,
`backbone.expert_help_pred_*`, with `module.` in front where several devices trained. One expert is the plain
network (`backbone.layer3`, `backbone.linear`) and maps to a plain ResNet's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lt.errors import UserError

# theirs (without prefixes) -> ours
_TO_OURS = (
    (r"(layer\d+)s\.(\d+)\.", r"experts.\2.\1."),
    (r"linears\.(\d+)\.", r"experts.\1.fc."),
    (r"linear\.", "fc."),
    (r"encoder_layers\.", "batchformer.encoder."),
    (r"expert_help_pred_hidden_fcs\.(\d+)\.", r"router.hidden.\1."),
    (r"expert_help_pred_fcs\.(\d+)\.", r"router.gate.\1."),
    (r"expert_help_pred_fc\.", "router.gate."),
)
_TO_THEIRS = (
    (r"experts\.(\d+)\.fc\.", r"linears.\1."),
    (r"experts\.(\d+)\.(layer\d+)\.", r"\2s.\1."),
    (r"fc\.", "linear."),
    (r"batchformer\.encoder\.", "encoder_layers."),
    (r"router\.hidden\.(\d+)\.", r"expert_help_pred_hidden_fcs.\1."),
    (r"router\.gate\.(\d+)\.", r"expert_help_pred_fcs.\1."),
    (r"router\.gate\.", "expert_help_pred_fc."),
)


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub("^" + pattern, replacement, name)
    return name


def from_official(state: dict[str, Tensor], *, encoder: bool = True) -> dict[str, Tensor]:
    """Our names. `encoder=False` leaves a BatchFormer encoder out (evaluation does not use it)."""
    ours = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if not name.startswith("backbone."):
            raise UserError(f"not a RIDE checkpoint: expected names that start with 'backbone.', found '{name}'")
        name = _rename(name.removeprefix("backbone."), _TO_OURS)
        if encoder or not name.startswith("batchformer."):
            ours[name] = value
    if not ours:
        raise UserError("not a RIDE checkpoint: it holds no tensors")
    return ours


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released names, without `module.`."""
    return {"backbone." + _rename(name, _TO_THEIRS): value for name, value in state.items()}


LAYOUTS: dict[str, tuple[Callable[..., dict], Callable[..., dict]]] = {"ride": (from_official, to_official)}


class _Inert:
    """Stands in for any class a checkpoint names: takes what the pickle hands over and keeps none of it."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What the released trainer is known to pickle beside tensors (its configuration holds paths); files of the older,
# pre-zip format cannot be asked for their class names.
_KNOWN_CLASSES = (
    "parse_config.ConfigParser",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
)


def read_checkpoint(path: str | Path) -> dict[str, object]:
    """The released trainer's file as a dict; no class it names is imported, no code in it runs."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        named = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError):
        named = set()
    stand_ins = [(_Inert, name) for name in sorted(named | set(_KNOWN_CLASSES))]
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a damaged or foreign file
        raise UserError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} is not a checkpoint of the RIDE trainer: expected a dict with 'state_dict'")
    return content


def read_state(path: str | Path, *, encoder: bool = True) -> dict[str, Tensor]:
    """The weights of a released checkpoint under our names."""
    return from_official(read_checkpoint(path)["state_dict"], encoder=encoder)
