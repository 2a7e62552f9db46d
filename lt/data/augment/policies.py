"""AutoAugment's CIFAR-10 policy and RandAugment as BaGMar and LiVT use them.

Draws -> (operation, argument) -> apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from lt.data.augment import pil_ops as ops
from lt.data.augment.draws import Source

Step = tuple[str, float | int | None]  # operation and its argument

# Cubuk et al. 2019, CIFAR-10: p, operation, magnitude 0..9, twice.
CIFAR10_POLICY = (
    (0.1, "invert", 7, 0.2, "contrast", 6),
    (0.7, "rotate", 2, 0.3, "translate_x", 9),
    (0.8, "sharpness", 1, 0.9, "sharpness", 3),
    (0.5, "shear_y", 8, 0.7, "translate_y", 9),
    (0.5, "autocontrast", 8, 0.9, "equalize", 2),
    (0.2, "shear_y", 7, 0.3, "posterize", 7),
    (0.4, "color", 3, 0.6, "brightness", 7),
    (0.3, "sharpness", 9, 0.7, "brightness", 9),
    (0.6, "equalize", 5, 0.5, "equalize", 1),
    (0.6, "contrast", 7, 0.6, "sharpness", 5),
    (0.7, "color", 7, 0.5, "translate_x", 8),
    (0.3, "equalize", 7, 0.4, "autocontrast", 8),
    (0.4, "translate_y", 3, 0.2, "sharpness", 6),
    (0.9, "brightness", 6, 0.2, "color", 8),
    (0.5, "solarize", 2, 0.0, "invert", 3),
    (0.2, "equalize", 0, 0.6, "autocontrast", 0),
    (0.2, "equalize", 8, 0.6, "equalize", 4),
    (0.9, "color", 9, 0.6, "equalize", 6),
    (0.8, "autocontrast", 4, 0.2, "solarize", 8),
    (0.1, "brightness", 3, 0.7, "color", 0),
    (0.4, "solarize", 5, 0.9, "autocontrast", 3),
    (0.9, "translate_y", 9, 0.7, "translate_y", 9),
    (0.9, "autocontrast", 2, 0.8, "solarize", 3),
    (0.8, "equalize", 8, 0.1, "invert", 3),
    (0.7, "translate_y", 9, 0.9, "autocontrast", 1),
)
MAGNITUDES = {
    "shear_x": np.linspace(0, 0.3, 10),
    "shear_y": np.linspace(0, 0.3, 10),
    "translate_x": np.linspace(0, 150 / 331, 10),  # the policies were found on 331-pixel images
    "translate_y": np.linspace(0, 150 / 331, 10),
    "rotate": np.linspace(0, 30, 10),
    "posterize": np.round(np.linspace(8, 4, 10)),
    "solarize": np.linspace(256, 0, 10),
    "color": np.linspace(0, 0.9, 10),
    "contrast": np.linspace(0, 0.9, 10),
    "sharpness": np.linspace(0, 0.9, 10),
    "brightness": np.linspace(0, 0.9, 10),
}
AUTOAUGMENT_COLUMNS = 5
AUTOAUGMENT_FILL = (128, 128, 128)


def autoaugment_argument(source: Source, name: str, level: int) -> float | int | None:
    """Random sign for shear and translation, 1 +- magnitude for colour, contrast, ...; rotation stays positive."""
    if name not in MAGNITUDES:
        return None
    size = float(MAGNITUDES[name][level])
    if name in ops.ENHANCERS:
        return 1 + size * source.sign()
    if name.startswith(("shear", "translate")):
        return size * source.sign()
    return int(size) if name == "posterize" else size


def autoaugment_steps(source: Source) -> list[Step]:
    """One of the 25 sub-policies, each of its two operations with its own probability."""
    p1, first, level1, p2, second, level2 = CIFAR10_POLICY[source.below(len(CIFAR10_POLICY))]
    steps: list[Step] = []
    for p, name, level in ((p1, first, level1), (p2, second, level2)):
        part = source.block(2)
        if part.chance(p):
            steps.append((name, autoaugment_argument(part, name, level)))
    return steps


@dataclass(frozen=True)
class Level:
    """From magnitude m in 0..10 to an operation's argument."""

    name: str
    argument: Callable[[float], float | int] | None = None
    signed: bool = False  # the argument itself, or with `around` its distance from 1
    around: bool = False


def _level(name: str, argument: Callable[[float], float | int], *, signed: bool = False, around: bool = False) -> Level:
    return Level(name, argument, signed, around)


_COMMON = (
    _level("rotate", lambda m: m / 10 * 30, signed=True),
    _level("solarize_add", lambda m: int(m / 10 * 110)),
    _level("shear_x", lambda m: m / 10 * 0.3, signed=True),
    _level("shear_y", lambda m: m / 10 * 0.3, signed=True),
    _level("translate_x", lambda m: m / 10 * 0.45, signed=True),
    _level("translate_y", lambda m: m / 10 * 0.45, signed=True),
)


def _operations(*special: Level) -> tuple[Level, ...]:
    """The 15 operations in timm's order, which numbers them for the draw."""
    found = {level.name: level for level in (*_COMMON, *special)}
    names = ("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color")
    names += ("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y")
    return tuple(found.get(name, Level(name)) for name in names)


# "inc1": the effect of every operation grows with m. Posterise reaches 0 bits (black) at m = 10.
INCREASING = _operations(
    _level("posterize", lambda m: 4 - int(m / 10 * 4)),
    _level("solarize", lambda m: 256 - int(m / 10 * 256)),
    *(_level(name, lambda m: m / 10 * 0.9, signed=True, around=True) for name in ops.ENHANCERS),
)
# BaGMar's list: solarise does nothing at m = 10, posterise keeps 4 bits there.
PLAIN = _operations(
    _level("posterize", lambda m: int(m / 10 * 4)),
    _level("solarize", lambda m: int(m / 10 * 256)),
    *(_level(name, lambda m: m / 10 * 1.8 + 0.1) for name in ops.ENHANCERS),
)
RANDAUGMENT_COLUMNS = 2 + 2 * 4


def randaugment_argument(source: Source, level: Level, magnitude: float) -> float | int | None:
    if level.argument is None:
        return None
    value = level.argument(magnitude)
    value = value * source.sign() if level.signed else value
    return 1 + value if level.around else value


def randaugment_steps(
    source: Source,
    operations: tuple[Level, ...],
    *,
    magnitude: float,
    std: float = 0.5,
    p: float = 0.5,
    layers: int = 2,
    resamples: tuple[str, ...] = ("bicubic",),
) -> list[tuple[str, float | int | None, str]]:
    """`layers` operations with replacement, each with probability `p`, magnitude N(m, std) cut to [0, 10]."""
    steps = []
    for index in source.picks(len(operations), layers):
        part = source.block(4)
        if not part.chance(p):
            continue
        drawn = part.gauss(magnitude, std) if std > 0 else magnitude
        argument = randaugment_argument(part, operations[index], min(10.0, max(0.0, drawn)))
        name = operations[index].name
        drawn_resample = len(resamples) > 1 and (name == "rotate" or name in _AFFINE_OPS)
        resample = resamples[part.below(len(resamples)) if drawn_resample else 0]
        steps.append((name, argument, resample))
    return steps


_PLAIN_OPS: dict[str, Callable[..., Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": ops.posterize,
    "solarize": ops.solarize,
    "solarize_add": ops.solarize_add,
}
_AFFINE_OPS: dict[str, Callable[..., Image.Image]] = {
    "shear_x": ops.shear_x,
    "shear_y": ops.shear_y,
    "translate_x": ops.translate_x,
    "translate_y": ops.translate_y,
}


def apply_step(image: Image.Image, name: str, argument: float | None, *, resample: str, fill: ops.Fill) -> Image.Image:
    """One operation of RandAugment."""
    fill = fill if len(image.getbands()) > 1 else fill[:1]
    if name in _PLAIN_OPS:
        return _PLAIN_OPS[name](image, argument)
    if name in ops.ENHANCERS:
        return ops.enhance(image, name, argument)
    if name == "rotate":
        return image.rotate(argument, resample=ops.RESAMPLE[resample], fillcolor=fill)
    return _AFFINE_OPS[name](image, argument, ops.RESAMPLE[resample], fill)


def apply_autoaugment(image: Image.Image, steps: list[Step], fill: ops.Fill = AUTOAUGMENT_FILL) -> Image.Image:
    """Shear is bicubic, translation and rotation take the nearest pixel."""
    for name, argument in steps:
        if name == "rotate":
            image = ops.rotate_alpha(image, argument, fill)
        else:
            resample = "bicubic" if name.startswith("shear") else "nearest"
            image = apply_step(image, name, argument, resample=resample, fill=fill)
    return image
