"""Small parameters for tests of params.yaml, and the same with one place changed."""

from __future__ import annotations

import copy
from typing import Any

IMAGE = {"size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}
NUMBERS = {"epochs": 9, "batch": 8, "lr": 0.1}
TOY = {"source": "digits", "family": "toy", "num_classes": 10, "image": IMAGE}


def with_one(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `raw` with this value at the place that the path names; numbers count in lists."""
    raw = copy.deepcopy(raw)
    *inner, last = path.split(".")
    place: Any = raw
    for key in inner:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    place[last] = value
    return raw
