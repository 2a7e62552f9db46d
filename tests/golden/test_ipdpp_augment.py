"""IP-DPP's SimCLR pipeline against the published code's pixels, per image and batched."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from replay import Torch

from lt.data import augment
from lt.data.augment import colour, draws, simclr
from lt.data.augment import pil_ops as ops

HERE = Path(__file__).parent / "ipdpp"
DATA = np.load(HERE / "augment.npz")
TEXT = json.loads((HERE / "augment.json").read_text())
CASES = [("s2", 2.0), ("s1", 1.0)]


def row_of(drawn, preset, height, width):
    """Uniforms that make a preset draw these parameters."""
    top, left, h, w = drawn["box"]
    low, high = math.log(3 / 4), math.log(4 / 3)
    row = torch.zeros(preset.columns, dtype=torch.float64)
    row[0] = (h * w / (height * width) - 0.08) / 0.92
    row[1] = (math.log(w / h) - low) / (high - low)
    row[2], row[3] = (top + 0.5) / (height - h + 1), (left + 0.5) / (width - w + 1)
    rest = row[draws.CROP_COLUMNS :]
    order = tuple(op for op, _ in drawn["jitter"]) or (0, 1, 2, 3)
    rest[0], rest[1] = 0.25 + 0.5 * (not drawn["flip"]), 0.4 if drawn["jitter"] else 0.9
    rest[2] = (draws.ORDERS.index(order) + 0.5) / len(draws.ORDERS)
    for op, factor in drawn["jitter"]:
        low, high = preset.ranges[op]
        rest[3 + op] = (factor - low) / (high - low)
    rest[7], rest[8] = 0.1 if drawn["grey"] else 0.6, (drawn["sigma"] - 0.1) / 1.9
    return row


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blur(seed):
    np.random.seed(seed)
    sigma = np.random.uniform(0.1, 2.0)
    assert sigma == pytest.approx(float(DATA[f"blur32_npseed{seed}_sigma"]), abs=1e-12)
    kernel = colour.blur_kernel(torch.tensor([sigma]), 1)[0]
    np.testing.assert_allclose(kernel.numpy(), DATA[f"blur32_npseed{seed}_kernel"], atol=1e-6)
    image, expected = Image.fromarray(DATA["blur32_img"]), DATA[f"blur32_npseed{seed}_out"].astype(int)
    planes = ops.to_tensor(image).float().unsqueeze(1)
    blurred = colour.blur(planes, torch.tensor([sigma]), radius=1).squeeze(1).permute(1, 2, 0)
    for ours in (blurred.numpy(), np.asarray(simclr.blur_reference(image, sigma, 1))):
        difference = np.abs(ours.astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("seed", [1000, 1001])
@pytest.mark.parametrize(("case", "strength"), CASES)
def test_pipeline(case, strength, seed):
    """Per image as published; batched equal on 99 % of the values, never further than 2 grey levels."""
    image, expected = (
        Image.fromarray(DATA[f"pipe_{case}_img"]),
        DATA[f"pipe_{case}_seed{seed}_out"].astype(int),
    )
    preset = augment.build("simclr", jitter_strength=strength, views=1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    drawn = preset.parameters(Torch(), 32, 32)
    drawn["sigma"] = np.random.uniform(0.1, 2.0)
    ordinary = np.asarray(preset.apply_reference(image, drawn)).transpose(2, 0, 1).astype(int)
    difference = np.abs(ordinary - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    rows = row_of(drawn, preset, 32, 32).unsqueeze(0)
    fast = (preset.batch(ops.to_tensor(image).unsqueeze(0), rows)[0] * 255).round().int().numpy()
    difference = np.abs(fast - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize(("case", "strength"), CASES)
def test_parameters(case, strength):
    """The printed pipeline names the ranges that the preset draws from."""
    text = " ".join(TEXT[case])
    brightness, contrast, saturation, hue = draws.jitter_ranges(strength)
    assert f"brightness={brightness}, contrast={contrast}, saturation={saturation}" in text
    assert f"hue={hue}" in text
    assert augment.build("simclr").radius == 1
    assert augment.build("simclr", size=224).radius == 11
