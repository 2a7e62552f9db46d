"""Augmentation of small images, and their draws."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench import ordinary
from bench.harness import Case
from lt.data import augment
from lt.data import pack as packs
from lt.data.augment import draws, fast
from lt.data.loader import draw_rows

CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


def pictures(number: int, seed: int = 0) -> np.ndarray:
    """[N, 32, 32, 3] uint8: smooth, with a little noise."""
    source = np.random.default_rng(seed)
    small = source.integers(0, 256, (number, 4, 4, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(s).resize((32, 32), Image.Resampling.BICUBIC)) for s in small])
    return (smooth + source.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def crop_flip(number: int = 256) -> Case:
    """P1. Timed with each side drawing its own way; compared under equal draws."""
    preset, pixels = augment.build("crop_flip", **CIFAR), pictures(number)
    images, order = planes(pixels), np.arange(number)

    def rows() -> np.ndarray:
        return draw_rows(order, n=number, columns=preset.columns, seed=0, epoch=0)

    def close(_: torch.Tensor, mine: torch.Tensor) -> None:
        other = ordinary.crop_flip(pixels, rows(), CIFAR["mean"], CIFAR["std"])
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)

    return Case(
        id="P1",
        what="crop, flip, normalise at 32 x 32",
        ordinary=lambda: ordinary.crop_flip(pixels, None, CIFAR["mean"], CIFAR["std"]),
        ours=lambda: preset.batch(images, torch.from_numpy(rows())),
        same=close,
        tolerance="1e-6",
        demand=10,
        items=number,
        unit="image",
        anchor=ordinary.ANCHORS["crop_flip"],
    )


def simclr(number: int = 256) -> Case:
    """P2. Timed with each side drawing its own way; compared under equal draws on the first images."""
    preset, pixels = augment.build("simclr"), pictures(number)
    images, order, shown = planes(pixels), np.arange(number), min(number, 64)

    def ours() -> tuple[torch.Tensor, ...]:
        rows = draw_rows(order, n=number, columns=preset.columns, seed=0, epoch=0)
        return preset.batch(images, torch.from_numpy(rows))

    def close(_: object, fast: tuple[torch.Tensor, ...]) -> None:
        drawn = []
        for row in draw_rows(order, n=number, columns=preset.columns, seed=0, epoch=0)[:shown]:
            source = draws.Row(row)
            drawn += [preset.parameters(source.block(preset._view), 32, 32) for _ in range(2)]
        for mine, view in zip(fast, ordinary.simclr(pixels[:shown], drawn), strict=True):
            off = ((mine[:shown] - view) * 255).abs().round()
            assert off.max() <= 2
            assert (off > 0).float().mean() < 0.01

    return Case(
        id="P2",
        what="SimCLR's two views at 32 x 32",
        ordinary=lambda: ordinary.simclr(pixels),
        ours=ours,
        same=close,
        tolerance="2/255 in under 1 % of the values",
        demand=8,
        items=2 * number,
        unit="view",
        anchor=ordinary.ANCHORS["simclr"],
    )


def photos(number: int, width: int, height: int) -> tempfile.TemporaryDirectory:
    """JPEG files of photo-like pictures; the folder goes when nobody holds it any more."""
    folder, source = tempfile.TemporaryDirectory(prefix="lt-bench-"), np.random.default_rng(0)
    for index in range(number):
        small = source.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = smooth + source.integers(-8, 9, smooth.shape, dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(f"{folder.name}/{index:05d}.jpg", quality=90)
    return folder


def packed(mode: str, demand: float, number: int = 48, width: int = 500, height: int = 400) -> Case:
    """P12. The ordinary way opens the original files; ours reads a pack through its memory map."""
    folder = photos(number, width, height)
    files = sorted(str(path) for path in Path(folder.name).glob("*.jpg"))
    packs.write(Path(folder.name) / "pack", [Path(f) for f in files], mode=mode)
    pack = packs.Pack(Path(folder.name) / "pack", mode)
    preset = augment.build("rrc_flip", fast=True)
    order = np.arange(number)

    def rows() -> np.ndarray:
        return draw_rows(order, n=number, columns=preset.columns, seed=0, epoch=0)

    def ours(keep: object = folder) -> torch.Tensor:
        return fast.stack((preset.sample(pack.pixels(i), row) for i, row in enumerate(rows())), number)

    def close(_: torch.Tensor, mine: torch.Tensor) -> None:
        drawn = []
        for index, row in enumerate(rows()):
            sizes = pack.pixels(index).shape[:2]
            parameters = preset.parameters(draws.Row(row), *sizes)
            drawn.append((parameters["box"], parameters["flip"]))
            if mode != "exact":  # the packed pixels are the picture then
                Image.fromarray(pack.pixels(index)).save(f"{folder.name}/{index:05d}.png")
        seen = files if mode == "exact" else [f.replace(".jpg", ".png") for f in files]
        off = (ordinary.photo_crops(seen, drawn).int() - mine.int()).abs()
        assert off.max() <= 2
        assert (off > 1).float().mean() < 1e-5

    return Case(
        id="P12",
        what=f"{width} x {height} JPEG to a 224 crop, pack {mode}",
        ordinary=lambda: ordinary.photo_crops(files, None),
        ours=ours,
        same=close,
        tolerance="1/255 (2/255 in under 1 of 100,000 values)" + ("" if mode == "exact" else ", of the packed pixels"),
        demand=demand,
        items=number,
        unit="image",
        anchor=ordinary.ANCHORS["photo_crop"],
        rounds=9,
    )


def draw_table(number: int = 50_000) -> Case:
    """P13's ratio: one table an epoch against a generator a sample. Equal in law only: both uniform."""
    order, part = np.random.default_rng(0).permutation(number), number // 20

    def uniform(a: np.ndarray, b: np.ndarray) -> None:
        assert a.shape[1] == b.shape[1] == 3
        for values in (a, b):
            assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * values.size)
            assert values.min() >= 0
            assert values.max() < 1

    return Case(
        id="P13b",
        what="augmentation draws of 1/20 epoch against a generator a sample",
        ordinary=lambda: ordinary.draws_by_generators(0, 0, order[:part], 3),
        ours=lambda: draw_rows(order[:part], n=number, columns=3, seed=0, epoch=0),
        same=uniform,
        tolerance="mean 1/2 within 5 standard errors",
        demand=4,
        items=part,
        unit="sample",
        anchor=ordinary.ANCHORS["generator"],
        budget_s=1.0,
    )


CASES = {
    "crop_flip": crop_flip,
    "simclr": simclr,
    "draw_table": draw_table,
    "packed_exact": partial(packed, "exact", 1.6),
    "packed_raw": partial(packed, "raw256", 12),
}
SMALL = {
    "crop_flip": {"number": 16},
    "simclr": {"number": 16},
    "draw_table": {"number": 4000},
    "packed_exact": {"number": 3},
    "packed_raw": {"number": 3},
}
