"""RIDE's printed torchvision pipelines, built again and run, against the presets under the same seeds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from replay import Torch

import lt.compat  # noqa: F401
from lt.data import augment
from lt.data.augment import pil_ops as ops

TEXT = json.loads((Path(__file__).parent / "ride" / "transforms.json").read_text())
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
INAT = {"mean": (0.466, 0.471, 0.380), "std": (0.195, 0.194, 0.192)}


def build(name):
    """The Compose that was printed."""
    from torchvision import transforms

    names = {key: getattr(transforms, key) for key in dir(transforms) if key[0].isupper()}
    names |= {mode.value: mode for mode in transforms.InterpolationMode}
    lines = [line.strip() for line in TEXT[name].splitlines()[1:-1]]
    return transforms.Compose([eval(line.replace("hue=None", "hue=0"), names) for line in lines])


def picture(height, width):
    rough = np.random.RandomState(height).randint(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height))


@pytest.mark.parametrize("seed", range(6))
def test_cifar_training(seed):
    image, pipeline = picture(32, 32), build("CIFAR100-LT/train")
    preset = augment.build("crop_flip_rotate", **CIFAR)
    torch.manual_seed(seed)
    expected = pipeline(image)
    torch.manual_seed(seed)
    top, left, mirrored, degrees = preset.parameters(Torch())
    row = [(top + 0.5) / 9, (left + 0.5) / 9, 0.25 if mirrored else 0.75, (degrees + 15) / 30]
    rows = torch.tensor([row], dtype=torch.float64)
    ours = preset.batch(ops.to_tensor(image).unsqueeze(0), rows)[0]
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "preset", "stats"),
    [("ImageNet-LT/train", "rrc_jitter", IMAGENET), ("iNaturalist18/train", "rrc_flip", INAT)],
)
def test_large_training(name, preset, stats, seed):
    image, pipeline, preset = picture(190, 260), build(name), augment.build(preset, **stats)
    torch.manual_seed(seed)
    expected = pipeline(image)
    torch.manual_seed(seed)
    raw = ops.to_tensor(preset.apply(image, preset.parameters(Torch(), image.height, image.width)))
    ours = preset.batch(raw.unsqueeze(0), torch.zeros(1, preset.columns))[0]
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "preset", "stats"),
    [
        ("ImageNet-LT/test", "eval_large", IMAGENET),
        ("iNaturalist18/test", "eval_large", INAT),
        ("CIFAR100-LT/val", "eval", CIFAR),
    ],
)
def test_evaluation(name, preset, stats):
    image = picture(32, 32) if preset == "eval" else picture(301, 260)
    preset = augment.build(preset, **stats)
    ours = preset.batch(preset.sample(image, ()).unsqueeze(0), torch.zeros(1, 0))[0]
    np.testing.assert_allclose(ours.numpy(), build(name)(image).numpy(), atol=1e-6)
