"""Let a CUDA build of torchvision import beside a CPU build of torch.

The registry's torchvision wheel links against CUDA; without it the compiled operators do not load and
`import torchvision` stops at `operator torchvision::nms does not exist` when it registers shape functions.
Declaring the schemas is enough for transforms, datasets and models; nothing here runs the operators.
Where torchvision's own operators load, this module does nothing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import warnings
from pathlib import Path

import torch
from torch import library as operators

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: operators.Library | None = None  # kept: dropping it would take the declarations back


def _operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        extension = Path(spec.origin).parent / f"_C{suffix}"
        if extension.exists():
            try:
                torch.ops.load_library(str(extension))
            except (OSError, RuntimeError):
                return False
            return True
    return False


if not _operators_load():
    _declared = operators.Library("torchvision", "DEF")
    for _schema in _SCHEMAS:
        _declared.define(_schema)
    warnings.filterwarnings("ignore", message="Failed to load image Python extension")
