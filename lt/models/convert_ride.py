"""Tensor names of released RIDE and BatchFormer checkpoints <-> ours.

Theirs: `backbone.layer3s.<e>.<block>...`, `backbone.linears.<e>.weight`, `backbone.encoder_layers.*`,
`backbone.expert_help_pred_*`, with `module.` in front where several devices trained. One expert is the plain
network (`backbone.layer3`, `backbone.linear`) and maps to a plain ResNet's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

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


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names; `module.` and `backbone.` fall away."""
    ours = {}
    for name, value in state.items():
        plain = name.removeprefix("module.")
        if not plain.startswith("backbone."):
            raise UserError(f"not a RIDE checkpoint: expected names that start with 'backbone.', found '{name}'")
        if not isinstance(value, Tensor):
            raise UserError(f"entry '{name}' is no tensor but {type(value).__name__}")
        ours[_rename(plain.removeprefix("backbone."), _TO_OURS)] = value
    if not ours:
        raise UserError("not a RIDE checkpoint: it holds no tensors")
    return ours


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released names, without `module.`."""
    return {"backbone." + _rename(name, _TO_THEIRS): value for name, value in state.items()}


def ride(container: dict[str, Any]) -> dict[str, Tensor]:
    """RIDE, BatchFormer on RIDE: {state_dict, optimizer, config, ...}; only the weights are taken."""
    return from_official(container["state_dict"])


def _is_ride(container: dict[str, Any]) -> bool:
    state = container.get("state_dict")
    return isinstance(state, dict) and any(str(k).removeprefix("module.").startswith("backbone.") for k in state)


# for `lt.models.convert`: the layout, how it is known, and what evaluation can do without
LAYOUTS: dict[str, Callable[[dict[str, Any]], dict[str, Tensor]]] = {"ride": ride}
SIGNATURES: dict[str, Callable[[dict[str, Any]], bool]] = {"ride": _is_ride}
ENCODER = ("batchformer.",)
