"""AutoAugment, RandAugment, Cutout and BaGMar's CIFAR pipeline against the published code's pixels."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from replay import Python, Timm, Torch, seed_all

from lt.data import augment
from lt.data.augment import batched, draws, policies
from lt.data.augment import pil_ops as ops

HERE = Path(__file__).parent / "bagmar"
DATA = np.load(HERE / "augment.npz")
CONSTANTS = json.loads((HERE / "augment_constants.json").read_text())
IMAGE, LARGER = Image.fromarray(DATA["image"]), Image.fromarray(DATA["ra_image"])
STATS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
FILL = tuple(CONSTANTS["randaugment"]["ra_params"]["default"]["img_mean"])
SHORT = {"shearX": "shear_x", "shearY": "shear_y", "translateX": "translate_x", "translateY": "translate_y"}
SNAKE = {
    "AutoContrast": "autocontrast",
    "PosterizeTpu": "posterize",
    "SolarizeAdd": "solarize_add",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}
SINGLE = [key for key in DATA.files if key.startswith("op_")]
RANDAUGMENT = [key for key in DATA.files if key.startswith("ra_") and key[-1].isdigit()]


def test_policy_table():
    rows = [
        (p1, SHORT.get(a, a), int(i), p2, SHORT.get(b, b), int(j))
        for p1, a, i, _, p2, b, j, _ in CONSTANTS["CIFAR10Policy"]
    ]
    assert rows == list(policies.CIFAR10_POLICY)
    for name, values in CONSTANTS["magnitude_ranges"].items():
        ours = policies.MAGNITUDES.get(SHORT.get(name, name), np.zeros(10))
        np.testing.assert_allclose(ours, values, rtol=1e-12)


@pytest.mark.parametrize("key", SINGLE)
def test_single_operation(key):
    _, name, level = key.split("_")
    random.seed(3)
    random.random()  # the probability, drawn before the operation
    name = SHORT.get(name, name)
    argument = policies.autoaugment_argument(Python(), name, int(level))
    assert np.array_equal(np.array(policies.apply_autoaugment(IMAGE, [(name, argument)])), DATA[key])


def test_policies():
    for seed, expected in zip(DATA["policy_seeds"], DATA["policy_out"], strict=True):
        random.seed(int(seed))
        ours = policies.apply_autoaugment(IMAGE, policies.autoaugment_steps(Python()))
        assert np.array_equal(np.array(ours), expected), seed


def test_cutout():
    for seed, mask in zip(DATA["cutout_seeds"], DATA["cutout_mask"], strict=True):
        np.random.seed(int(seed))
        y, x = (torch.tensor([np.random.randint(32)]) for _ in range(2))
        ours = batched.cutout(torch.ones(1, 1, 32, 32, dtype=torch.uint8), y, x, length=16)
        assert np.array_equal(ours[0, 0].numpy(), mask), seed


def test_training_pipeline():
    preset = augment.build("cifar_autoaugment_cutout", **STATS)
    for seed, expected in zip(DATA["pipeline_seeds"], DATA["pipeline_train"], strict=True):
        seed_all(int(seed))
        top, left = draws.crop_offset(Torch(), 8, 8)
        mirrored = Torch().flip()
        image = preset.apply(IMAGE, top, left, mirrored, policies.autoaugment_steps(Python()))
        centre = [(np.random.randint(32) + 0.5) / 32 for _ in range(2)]
        rows = torch.tensor([[0.0] * (preset.columns - 2) + centre])
        ours = preset.batch(ops.to_tensor(image).unsqueeze(0), rows)[0]
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_evaluation_pipeline():
    ours = augment.build("eval", **STATS).batch(ops.to_tensor(IMAGE).unsqueeze(0), torch.zeros(1, 0))
    np.testing.assert_allclose(ours[0].numpy(), DATA["pipeline_eval"], atol=1e-6)


def test_randaugment_levels():
    levels = CONSTANTS["randaugment"]["level_to_arg_levels"]
    table = CONSTANTS["randaugment"]["level_to_arg_unsigned"]
    names = CONSTANTS["randaugment"]["rand_transforms"]
    assert [level.name for level in policies.PLAIN] == [SNAKE.get(name, name.lower()) for name in names]
    for level, name in zip(policies.PLAIN, names, strict=True):
        assert level.signed == (name in CONSTANTS["randaugment"]["signed_ops"])
        if table[name] is None:
            assert level.argument is None
        else:
            ours = [level.argument(m) for m in levels]
            np.testing.assert_allclose(ours, np.array(table[name])[:, 0], rtol=1e-12)


@pytest.mark.parametrize("key", RANDAUGMENT)
def test_randaugment_operation(key):
    _, name, level = key.split("_")
    operation = {op.name: op for op in policies.PLAIN}[SNAKE.get(name, name.lower())]
    random.seed(5)
    random.random()  # the probability, drawn before the operation
    argument = policies.randaugment_argument(Timm(), operation, float(level))
    resample = random.choice(("bilinear", "bicubic"))
    ours = policies.apply_step(LARGER, operation.name, argument, resample=resample, fill=FILL)
    assert np.array_equal(np.array(ours), DATA[key])


def test_randaugment():
    preset = augment.build("bagmar_large", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert preset.fill == FILL
    for seed, expected in zip(DATA["ra_seeds"], DATA["ra_out"], strict=True):
        random.seed(int(seed))
        np.random.seed(int(seed))
        image = LARGER
        steps = policies.randaugment_steps(
            Timm(), preset.operations, magnitude=preset.magnitude, resamples=preset.resamples
        )
        for name, argument, resample in steps:
            image = policies.apply_step(image, name, argument, resample=resample, fill=preset.fill)
        assert np.array_equal(np.array(image), expected), seed
