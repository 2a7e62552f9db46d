"""Augmentation presets by name.

`sample` works on one image, `batch` on uint8 tensors, `reference` goes the ordinary way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

from lt.data.augment import policies
from lt.data.augment.presets import AutoAugmentCutout, CropFlip, EvalLarge, Large, Preset
from lt.data.augment.simclr import SimClr, SimClrLarge
from lt.errors import UserError, nearest, pick

__all__ = ["PRESETS", "Preset", "build"]

PRESETS: dict[str, Callable[..., Preset]] = {
    "none": Preset,
    "eval": Preset,
    "crop_flip": CropFlip,  # MiSLAS, BTM on CIFAR; pad 1 for 8x8 digits
    "crop_flip_rotate": partial(CropFlip, degrees=15.0),  # RIDE on CIFAR
    "cifar_autoaugment_cutout": AutoAugmentCutout,  # BaGMar on CIFAR
    "simclr": SimClr,  # IP-DPP
    "simclr_large": partial(SimClrLarge, size=224),  # the same on files
    "rrc": partial(Large, interpolation="bicubic", scale=(0.2, 1.0)),  # MAE pre-training
    "rrc_flip": Large,  # RIDE, BTM's ancestors on iNaturalist: no jitter
    "rrc_jitter": partial(Large, jitter=0.4),  # MiSLAS, RIDE, BTM on large sets
    "randaugment_timm": partial(  # LiVT: rand-m9-mstd0.5-inc1 and random erasing
        Large, interpolation="bicubic", operations=policies.INCREASING, magnitude=9.0, p_erase=0.25
    ),
    "bagmar_large": partial(
        Large,
        reflect=4,
        jitter=0.4,
        operations=policies.PLAIN,
        magnitude=10.0,
        resamples=("bilinear", "bicubic"),
    ),
    "eval_large": EvalLarge,
    "eval_bicubic": partial(EvalLarge, interpolation="bicubic"),  # MAE, LiVT; size 384 resizes to 384
}


def _options(factory: Callable[..., Preset]) -> list[str]:
    kind = factory.func if isinstance(factory, partial) else factory
    return [name for name in inspect.signature(kind).parameters if name not in ("mean", "std", "stats")]


def takes(name: str, option: str) -> bool:
    """Whether the preset of that name has this option."""
    return option in _options(pick("augmentation", name, PRESETS))


def build(
    name: str, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, **options: object
) -> Preset:
    """A preset under its statistics; `mean=None` keeps x / 255 (IP-DPP)."""
    factory = pick("augmentation", name, PRESETS)
    for option in options:
        if option not in (known := _options(factory)):
            raise UserError(f"augmentation '{name}' has no option '{option}'{nearest(option, known)}")
    return factory(mean=mean, std=std, **options)
