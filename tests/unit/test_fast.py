"""The fast image path against Pillow's: the same draws, pixels within one grey level where it resizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lt.data import augment
from lt.data.augment import draws
from lt.data.augment import pil_ops as ops
from lt.stages.batches import preset

STATS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LARGE = ("rrc", "rrc_flip", "rrc_jitter", "randaugment_timm", "bagmar_large")


def photo(number: int, width: int = 200, height: int = 160) -> np.ndarray:
    source = np.random.default_rng(number)
    small = Image.fromarray(source.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + source.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


def rows(preset, count: int) -> torch.Tensor:
    return torch.rand(count, preset.columns, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["rrc", "rrc_flip"])
@pytest.mark.parametrize("size", [64, 224])
def test_crops_are_within_one_grey_level(name: str, size: int) -> None:
    """Shrinking and enlarging, flipped or not."""
    slow, fast = (augment.build(name, size=size, fast=f, **STATS) for f in (False, True))
    assert slow.columns == fast.columns
    off = []
    for number, row in enumerate(rows(slow, 30)):
        pixels = photo(number, 180 + number, 150)
        mine = fast.sample(pixels, row.tolist()).int()
        off.append((mine - slow.sample(Image.fromarray(pixels), row.tolist()).int()).abs())
    off = torch.stack(off)
    assert off.float().mean() < 0.15
    assert off.max() <= 2 and (off > 1).float().mean() < (1e-4 if name == "rrc" else 1e-5)


@pytest.mark.parametrize("name", ["eval_large", "eval_bicubic"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (61, 64), (224, 224)])
def test_evaluation_is_within_one_grey_level(name: str, shape: tuple[int, int]) -> None:
    slow, fast = (augment.build(name, size=56, fast=f, **STATS) for f in (False, True))
    pixels = photo(1, *shape)
    off = (fast.sample(pixels, []).int() - slow.sample(Image.fromarray(pixels), []).int()).abs()
    assert off.max() <= 1 and off.float().mean() < 0.3


def test_jitter_in_the_batch_has_pillows_pixels() -> None:
    fast = augment.build("rrc_jitter", size=64, fast=True, **STATS)
    images = torch.stack([ops.to_tensor(Image.fromarray(photo(n, 64, 64))) for n in range(24)])
    table = rows(fast, 24)
    found = fast.jitter_batch(images, table)
    for image, row, mine in zip(images, table, found, strict=True):
        source = draws.Row(row)
        steps = fast.parameters(source, 64, 64)["jitter"]
        theirs = ops.to_tensor(ops.jitter(ops.to_pil(image), steps)).float()
        off = (mine - theirs).abs()
        assert off.max() <= 1 and (off > 0).float().mean() < 0.01


@pytest.mark.parametrize("name", LARGE)
def test_the_whole_preset_stays_close(name: str) -> None:
    """Colour operations stretch a grey level of the resize; a posterised or solarised pixel may change sides."""
    slow, fast = (augment.build(name, size=64, fast=f, **STATS) for f in (False, True))
    table = rows(slow, 24)
    theirs = torch.stack([slow.sample(Image.fromarray(photo(n)), row.tolist()) for n, row in enumerate(table)])
    mine = torch.stack([fast.sample(photo(n), row.tolist()) for n, row in enumerate(table)])
    off = (fast.batch(mine, table) - slow.batch(theirs, table)).abs() * 255 * 0.225
    assert (off > 4).float().mean() < 0.02 and off.mean() < 0.5


def test_other_draws_are_seen() -> None:
    fast = augment.build("rrc_jitter", size=64, fast=True, **STATS)
    one, other = (fast.sample(photo(0), row.tolist()) for row in rows(fast, 2))
    assert (one.int() - other.int()).abs().float().mean() > 5


def test_grey_and_read_only_arrays() -> None:
    fast = augment.build("rrc_flip", size=16, fast=True, mean=(0.5,), std=(0.5,))
    pixels = photo(0)[..., 0]
    pixels.flags.writeable = False
    assert fast.sample(pixels, rows(fast, 1)[0].tolist()).shape == (1, 16, 16)


def test_the_switch_of_a_stage() -> None:
    data = {"image": {"size": 32, "mean": [0.5], "std": [0.5]}}
    for name, taken in (("rrc_flip", True), ("eval_large", True), ("crop_flip", False)):
        assert preset({"name": name}, data, {}, pixels="fast").fast is taken
        assert preset({"name": name}, data, {}).fast is False
