"""MiSLAS's and BTM's pipelines against the published code's pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from replay import Torch

from lt.data import augment
from lt.data.augment import pil_ops as ops

DATA = np.load(Path(__file__).parent / "btm" / "transforms.npz")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
LARGE = Image.fromarray(DATA["large_img_small"].repeat(6, 0).repeat(6, 1))
SMALL = Image.fromarray(DATA["cifar_img"])


def check_large(ours, name):
    np.testing.assert_allclose(ours[:, ::16, ::16].numpy(), DATA[name], atol=1e-6)
    np.testing.assert_allclose(ours.double().mean((1, 2)).numpy(), DATA[f"{name}_mean"], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_large_training(seed):
    preset = augment.build("rrc_jitter", **IMAGENET)
    torch.manual_seed(seed)
    image = preset.apply(LARGE, preset.parameters(Torch(), LARGE.height, LARGE.width))
    ours = preset.batch(ops.to_tensor(image).unsqueeze(0), torch.zeros(1, preset.columns))[0]
    check_large(ours, f"large_train_seed{seed}")


def test_large_test():
    preset = augment.build("eval_large", **IMAGENET)
    raw = preset.sample(LARGE, ()).unsqueeze(0)
    check_large(preset.batch(raw, torch.zeros(1, 0))[0], "large_test")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cifar_training(seed):
    preset = augment.build("crop_flip", **CIFAR)
    torch.manual_seed(seed)
    top, left, mirrored, _ = preset.parameters(Torch())
    rows = torch.tensor([[(top + 0.5) / 9, (left + 0.5) / 9, 0.25 if mirrored else 0.75]])
    ours = preset.batch(ops.to_tensor(SMALL).unsqueeze(0), rows)[0]
    np.testing.assert_allclose(ours.numpy(), DATA[f"cifar_train_seed{seed}"], atol=1e-6)


def test_cifar_test():
    ours = augment.build("eval", **CIFAR).batch(ops.to_tensor(SMALL).unsqueeze(0), torch.zeros(1, 0))[0]
    np.testing.assert_allclose(ours.numpy(), DATA["cifar_test"], atol=1e-6)
