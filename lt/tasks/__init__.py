"""What one training step means, by name: batch -> {loss, logits}. One module a task."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from lt.errors import UserError, nearest, pick

TASKS = {
    "classify": "lt.tasks.classify:Classify",
    "experts": "lt.tasks.experts:Experts",  # RIDE, with or without BatchFormer and a teacher
    "route": "lt.tasks.route:Route",  # RIDE's expert assignment
    "two_streams": "lt.tasks.two_streams:TwoStreams",  # BatchFormer on a plain network
    "contrast": "lt.tasks.contrast:Contrast",
    "meta": "lt.tasks.meta:Meta",  # BALMS
    "reconstruct": "lt.tasks.reconstruct:Reconstruct",
}


def build(name: str, **given: Any) -> Any:
    """The task of that name; modules load when they are asked for."""
    module, _, attribute = str(pick("task", name, TASKS)).partition(":")
    make = getattr(importlib.import_module(module), attribute)
    known = inspect.signature(make).parameters
    for option in given:
        if option not in known:
            raise UserError(f"task '{name}' takes no '{option}'{nearest(option, known)}")
    return make(**given)
