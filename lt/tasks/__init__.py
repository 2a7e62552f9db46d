"""What one training step means, by name: batch -> {loss, logits}. One module a task."""

from __future__ import annotations

import importlib
from typing import Any

from lt.errors import pick

TASKS = {
    "classify": "lt.tasks.classify:Classify",
    "reconstruct": "lt.tasks.reconstruct:Reconstruct",
}


def build(name: str, **given: Any) -> Any:
    """The task of that name; modules load when they are asked for."""
    module, _, attribute = str(pick("task", name, TASKS)).partition(":")
    return getattr(importlib.import_module(module), attribute)(**given)
