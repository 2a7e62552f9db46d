"""LiVT's crops, RandAugment, erasing and whole pipelines against the published code (timm 0.3.2)."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from replay import Timm, Torch, seed_all

from lt.data import augment
from lt.data.augment import batched, draws, policies
from lt.data.augment import pil_ops as ops

HERE = Path(__file__).parent / "livt"
DATA = np.load(HERE / "augment.npz")
TEXT = json.loads((HERE / "augment.json").read_text())
NAMES = {
    "AutoContrast": "autocontrast",
    "PosterizeIncreasing": "posterize",
    "SolarizeIncreasing": "solarize",
    "SolarizeAdd": "solarize_add",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}


def short(name):
    return NAMES.get(name, name.removesuffix("Increasing").lower())


def test_levels():
    assert [level.name for level in policies.INCREASING] == [short(name) for name in TEXT["op_names"]]
    by_name = {level.name: level for level in policies.INCREASING}
    for key in DATA.files:
        if key.startswith("level/") and key != "level/m":
            level = by_name[short(key.removeprefix("level/"))]
            ours = [level.argument(m) for m in DATA["level/m"]]
            np.testing.assert_allclose(ours, DATA[key], rtol=1e-12, atol=1e-12)


def test_operations_drawn():
    for seed, expected in zip(DATA["ra/np_seed"], DATA["ra/op_index"], strict=True):
        np.random.seed(int(seed))
        assert Timm().picks(15, 2) == expected.tolist()


@pytest.mark.parametrize("size", ["500x375", "32x32", "100x400"])
def test_crops(size):
    width, height = (int(part) for part in size.split("x"))
    for seed in range(20):
        seed_all(seed)
        ours = draws.resized_crop_box(Timm(), height, width)
        assert list(ours) == DATA[f"rrc_bft/{size}"][seed].tolist()
        ours = draws.resized_crop_box(Torch(), height, width, scale=(0.2, 1.0))
        assert list(ours) == DATA[f"rrc_mgp/{size}"][seed].tolist()


@pytest.mark.parametrize("size", [224, 32])
def test_erased_boxes(size):
    for seed, expected in enumerate(DATA[f"erase/{size}"].tolist()):
        seed_all(seed)
        box = draws.erase_box(Timm(), size, size, p=0.25)
        ours = [-1] * 4 if box is None else [box[0], box[0] + box[2], box[1], box[1] + box[3]]
        assert ours == expected, seed


def pipeline(name):
    dataset, size = name.split("_")
    mean, std = TEXT["mean_std"][dataset]
    return int(size), {"mean": mean, "std": std}


@pytest.mark.parametrize("name", ["ImageNet-LT_48", "cifar10-LT_32"])
def test_training_pipeline(name):
    size, stats = pipeline(name)
    image = Image.fromarray(DATA["pipe/img"])
    preset = augment.build("randaugment_timm", size=size, **stats)
    for seed in range(4):
        seed_all(seed)
        drawn = preset.parameters(Timm(), image.height, image.width)
        raw = ops.to_tensor(preset.apply(image, drawn)).unsqueeze(0)
        ours = preset.normalise(raw)
        box = draws.erase_box(Timm(), size, size, p=preset.p_erase)
        if box is not None:
            top, left, height, width = box
            noise = torch.zeros(1, 3, size, size)
            noise[0, :, top : top + height, left : left + width] = torch.empty(3, height, width).normal_()
            ours = batched.erase(ours, torch.tensor([box]), noise)
        np.testing.assert_allclose(ours[0].numpy(), DATA[f"pipe/{name}/train"][seed], atol=1e-5)


@pytest.mark.parametrize("name", ["ImageNet-LT_48", "cifar10-LT_32"])
def test_evaluation_pipeline(name):
    size, stats = pipeline(name)
    preset = augment.build("eval_bicubic", size=size, **stats)
    raw = preset.sample(Image.fromarray(DATA["pipe/img"]), ()).unsqueeze(0)
    ours = preset.batch(raw, torch.zeros(1, 0))[0]
    np.testing.assert_allclose(ours.numpy(), DATA[f"pipe/{name}/eval"], atol=1e-5)


@pytest.mark.parametrize("size", [int(size) for size in TEXT["eval_sizes"]])
def test_evaluation_sizes(size):
    preset = augment.build("eval_bicubic", size=size)
    expected = TEXT["eval_sizes"][str(size)]
    assert (preset.resize, preset.size) == (expected["resize"], expected["crop"])


@pytest.mark.parametrize(
    ("dataset", "fill"), [("ImageNet-LT", "ImageNetLT"), ("iNat18", "iNat18"), ("ImageNet", "ImageNet")]
)
def test_fill(dataset, fill):
    mean, std = TEXT["mean_std"][dataset]
    assert list(augment.build("randaugment_timm", mean=mean, std=std).fill) == TEXT["fill"][fill]


def test_increasing_posterise_reaches_black():
    """At m = 10 no bit is left; Pillow 13 refuses that, the published runs drew it."""
    level = {op.name: op for op in policies.INCREASING}["posterize"]
    random.seed(0)
    bits = policies.randaugment_argument(Timm(), level, 10.0)
    image = Image.fromarray(DATA["pipe/img"])
    ours = policies.apply_step(image, "posterize", bits, resample="bicubic", fill=(0, 0, 0))
    assert bits == 0
    assert np.asarray(ours).max() == 0
