"""Presets: batched equals per image under equal draws; draws, options and their errors."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lt.data import augment
from lt.data.augment import batched, colour, draws, policies
from lt.data.augment import pil_ops as ops
from lt.data.augment.presets import functional
from lt.errors import UserError

CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
BATCHED = ["none", "eval", "crop_flip", "crop_flip_rotate"]
PER_IMAGE = [name for name in augment.PRESETS if name not in (*BATCHED, "simclr", "simclr_large")]


def images(n, size=32, channels=3, seed=0):
    """Photo-like: smooth shapes and some noise."""
    rng = np.random.RandomState(seed)
    rough = rng.randint(0, 256, (n, channels, size // 8, size // 8)).repeat(8, 2).repeat(8, 3)
    return np.clip(rough + rng.randint(-20, 20, (n, channels, size, size)), 0, 255).astype(np.uint8)


def both(preset, pixels, seed=1):
    rows = np.random.RandomState(seed).rand(len(pixels), preset.columns).astype(np.float32)
    raw = [preset.sample(ops.to_pil(image), row) for image, row in zip(pixels, rows, strict=True)]
    fast = preset.batch(torch.stack(raw) if preset.per_image else torch.from_numpy(pixels), torch.from_numpy(rows))
    return fast, [preset.reference(ops.to_pil(image), row) for image, row in zip(pixels, rows, strict=True)]


@pytest.mark.parametrize("name", BATCHED)
def test_batched_equals_torchvision(name):
    fast, slow = both(augment.build(name, **CIFAR), images(64))
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, torch.stack(slow), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_files_equal_torchvision(name):
    options = {} if "cutout" in name else {"size": 48}
    preset = augment.build(name, **CIFAR, **options)
    fast, slow = both(preset, images(12, size=64))
    torch.testing.assert_close(fast, torch.stack(slow), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pad", [1, 2, 4])
def test_digits_crop(pad):
    """8x8 grey digits: every offset of the padding is used and nothing else."""
    preset = augment.build("crop_flip", pad=pad)
    pixels = images(200, size=8, channels=1)
    fast, slow = both(preset, pixels)
    torch.testing.assert_close(fast, torch.stack(slow), rtol=0, atol=1e-6)
    rows = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    offsets = [preset.parameters(draws.Row(row))[:2] for row in rows.tolist()]
    assert {v for pair in offsets for v in pair} == set(range(2 * pad + 1))


def test_crop_at_the_ends_of_the_draws():
    preset = augment.build("crop_flip", **CIFAR)
    low, high = 0.0, 1 - 2.0**-24
    rows = torch.tensor([[a, b, c] for a in (low, high) for b in (low, high) for c in (low, high)])
    pixels = images(8)
    fast = preset.batch(torch.from_numpy(pixels), rows)
    slow = [preset.reference(ops.to_pil(image), row) for image, row in zip(pixels, rows.tolist(), strict=True)]
    torch.testing.assert_close(fast, torch.stack(slow), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(5, 9), (32, 32), (33, 20)])
def test_rotation_is_pillows(size):
    pixels = np.random.RandomState(3).randint(0, 256, (40, 3, *size), dtype=np.uint8)
    degrees = [0.0, 15.0, -15.0, 90.5, *np.random.RandomState(4).uniform(-180, 180, 36).tolist()]
    fast = batched.rotate(torch.from_numpy(pixels), degrees)
    slow = [ops.to_tensor(ops.to_pil(image).rotate(angle)) for image, angle in zip(pixels, degrees, strict=True)]
    assert torch.equal(fast, torch.stack(slow))


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_simclr_views(strength):
    """99 % of the values equal Pillow's; truncation after the blur may move the rest, by at most 2 grey levels."""
    preset = augment.build("simclr", jitter_strength=strength)
    fast, slow = both(preset, images(150, seed=7))
    for view in range(2):
        difference = ((fast[view] - torch.stack([pair[view] for pair in slow])) * 255).abs().round()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.01
    assert not torch.equal(fast[0], fast[1])


def test_simclr_of_files():
    """Crops are Pillow's own there; colours and blur as for images in memory."""
    preset = augment.build("simclr_large", size=48)
    pixels = images(24, size=64, seed=3)
    fast, slow = both(preset, pixels)
    for view in range(2):
        difference = ((fast[view] - torch.stack([pair[view] for pair in slow])) * 255).abs().round()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.01
    assert fast[0].shape == (24, 3, 48, 48)
    assert not torch.equal(fast[0], fast[1])


def test_simclr_of_grey_images():
    """One channel is treated as three equal ones, and stays one."""
    preset, pixels = augment.build("simclr", size=16, mean=(0.3,), std=(0.5,)), images(40, size=16, channels=1)
    rows = torch.rand(40, preset.columns, generator=torch.Generator().manual_seed(0))
    grey = preset.batch(torch.from_numpy(pixels), rows)
    colour_ = preset.batch(torch.from_numpy(pixels.repeat(3, 1)), rows)
    for one, three in zip(grey, colour_, strict=True):
        assert one.shape == (40, 1, 16, 16)
        assert ((three - one) * 255 * 0.5).abs().max() <= 1.5  # hue may round a grey level


def test_simclr_can_keep_what_a_digit_is():
    preset = augment.build("simclr", size=8, mirror=False, scale=[0.9, 1.0], jitter_strength=0.0, views=1)
    pixels = images(50, size=8, channels=1)
    rows = torch.rand(50, preset.columns, generator=torch.Generator().manual_seed(0))
    kept = preset.batch(torch.from_numpy(pixels), rows) - torch.from_numpy(pixels).float() / 255
    mirrored = kept + torch.from_numpy(pixels - pixels[..., ::-1].astype(float)).float() / 255
    assert kept.abs().mean() < mirrored.abs().mean()
    with_flip = augment.build("simclr", size=8, scale=[0.9, 1.0], jitter_strength=0.0, views=1)
    assert not torch.equal(
        with_flip.batch(torch.from_numpy(pixels), rows), preset.batch(torch.from_numpy(pixels), rows)
    )


@pytest.mark.parametrize("place", range(4))
def test_colour_operation_is_pillows(place):
    """Before the blur there is no truncation of floats: at most one value in 10,000 is off, by one."""
    name = ("brightness", "contrast", "saturation", "hue")[place]
    pixels = images(64, seed=place)
    factors = torch.from_numpy(np.random.RandomState(place).uniform(*draws.jitter_ranges(2.0)[place], 64))
    planes = torch.from_numpy(pixels).float().transpose(0, 1).contiguous()
    fast = colour.OPERATIONS[place](planes, factors.float() if place < 3 else factors).transpose(0, 1)
    adjust = getattr(functional(), f"adjust_{name}")
    slow = [ops.to_tensor(adjust(ops.to_pil(i), f)) for i, f in zip(pixels, factors.tolist(), strict=True)]
    difference = (fast - torch.stack(slow).float()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-4


@pytest.mark.parametrize("shape", [(32, 32), (40, 25), (100, 400), (1, 50)])
def test_resized_crop_boxes_agree(shape):
    rows = torch.rand(500, draws.CROP_COLUMNS, generator=torch.Generator().manual_seed(5))
    fast = draws.resized_crop_batch(rows, *shape)
    slow = [draws.resized_crop_box(draws.Row(row), *shape) for row in rows.tolist()]
    assert fast.tolist() == [list(box) for box in slow]
    top, left, height, width = fast.unbind(1)
    assert ((top >= 0) & (left >= 0) & (top + height <= shape[0]) & (left + width <= shape[1])).all()


@pytest.mark.parametrize(("size", "share"), [(32, 1e-3), (64, 0.05), (96, 0.05)])
def test_resized_crop_against_pillow(size, share):
    """Enlarged: all but ties equal. Shrunk (antialiased): within one grey level, for the order of the passes."""
    pixels = np.random.RandomState(size).randint(0, 256, (60, 3, size, size), dtype=np.uint8)
    rows = torch.rand(60, draws.CROP_COLUMNS, generator=torch.Generator().manual_seed(size))
    boxes = draws.resized_crop_batch(rows, size, size)
    boxes[:3] = torch.tensor([[0, 0, size, size], [size - 2, size - 3, 2, 3], [0, 0, 1, 1]])
    fast = colour.resized_crop(torch.from_numpy(pixels), boxes, size=32, mirrored=torch.zeros(60, dtype=torch.bool))
    slow = [
        ops.to_tensor(ops.resized_crop(ops.to_pil(image), box, 32, Image.Resampling.BILINEAR))
        for image, box in zip(pixels, boxes.tolist(), strict=True)
    ]
    difference = (fast.transpose(0, 1) - torch.stack(slow)).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < share


def test_cutout_clips_at_the_borders():
    white = torch.full((3, 1, 32, 32), 255, dtype=torch.uint8)
    out = batched.cutout(white, torch.tensor([0, 16, 31]), torch.tensor([0, 16, 31]), length=16)
    assert (out == 0).sum((1, 2, 3)).tolist() == [64, 256, 81]


def test_erasing_share_and_noise():
    preset = augment.build("randaugment_timm", size=32, **CIFAR)
    rows = torch.rand(2000, preset.columns, generator=torch.Generator().manual_seed(2))
    which, boxes, keys = preset.erasures(rows, 32, 32)
    assert 0.21 < len(which) / 2000 < 0.29
    areas = np.array([h * w for _, _, h, w in boxes]) / 1024
    assert 0.01 < areas.min() < areas.max() < 0.36
    assert len(set(keys)) == len(keys)
    out = preset.batch(torch.zeros(2000, 3, 32, 32, dtype=torch.uint8), rows)
    plain = preset.normalise(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert torch.nonzero((out != plain).flatten(1).any(1)).flatten().tolist() == which
    top, left, height, width = boxes[0]
    changed = (out[which[0]] != plain[0]).all(0)
    assert changed.sum() == height * width
    assert changed[top : top + height, left : left + width].all()


def test_pixel_noise_is_normal_and_depends_on_the_key_alone():
    keys = torch.tensor([0, 1, 2**24, 2**48 - 1])
    noise = batched.pixel_noise(keys, (3, 64, 64)).double()
    flat = noise.flatten(1)
    assert flat.mean(1).abs().max() < 4 / math.sqrt(flat.shape[1])
    assert (flat.var(1) - 1).abs().max() < 4 * math.sqrt(2 / flat.shape[1])
    assert abs((flat**4).mean() - 3) < 0.2
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 4 / math.sqrt(flat.shape[1])
    assert torch.equal(batched.pixel_noise(keys[2:3], (3, 64, 64)), noise[2:3].float())


@pytest.mark.parametrize("bits", range(9))
def test_posterise_keeps_the_upper_bits(bits):
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    step = 2 ** (8 - bits)
    assert np.array_equal(np.asarray(ops.posterize(ramp, bits)), np.arange(256).reshape(16, 16) // step * step)


def test_every_draw_of_randaugment_can_be_applied():
    """Hostile rows: all low, all high, and 300 at random, on colour and grey images."""
    columns = policies.RANDAUGMENT_COLUMNS
    rows = [[0.0] * columns, [1 - 2.0**-24] * columns, *np.random.RandomState(0).rand(300, columns).tolist()]
    for image in (ops.to_pil(images(1)[0]), ops.to_pil(images(1, channels=1)[0])):
        for operations, magnitude in ((policies.INCREASING, 9.0), (policies.PLAIN, 10.0)):
            for row in rows:
                out = image
                for name, argument, resample in policies.randaugment_steps(
                    draws.Row(row), operations, magnitude=magnitude
                ):
                    out = policies.apply_step(out, name, argument, resample=resample, fill=(1, 2, 3))
                assert (out.size, out.mode) == (image.size, image.mode)


def test_every_policy_works_on_grey_images():
    image = ops.to_pil(images(1, channels=1)[0])
    for row in np.random.RandomState(0).rand(200, policies.AUTOAUGMENT_COLUMNS).tolist():
        assert policies.apply_autoaugment(image, policies.autoaugment_steps(draws.Row(row))).mode == "L"


def test_rows_stay_aligned():
    """What one operation leaves unused does not shift the next: the flip depends on its own column only."""
    preset = augment.build("rrc_jitter", size=16, **CIFAR)
    row = np.full(preset.columns, 0.4, dtype=np.float32)
    first = preset.parameters(draws.Row(row.tolist()), 30, 40)
    row[0] = 0.999  # the first try now asks for almost the whole area: it fails and a second is drawn
    second = preset.parameters(draws.Row(row.tolist()), 30, 40)
    assert second["box"] == first["box"]  # all its draws are equal
    assert (first["flip"], first["jitter"]) == (second["flip"], second["jitter"])


@pytest.mark.parametrize("name", [n for n in augment.PRESETS if n != "cifar_autoaugment_cutout"])
def test_a_preset_never_reads_past_its_columns(name):
    preset = augment.build(name, **CIFAR)
    for value in (0.0, 0.3, 0.7, 1 - 2.0**-24):
        row = [value] * preset.columns
        preset.reference(ops.to_pil(images(1, size=64)[0]), row)


def test_large_image_is_not_needed():
    assert augment.build("eval_large", size=384).resize == 384
    assert augment.build("eval_large", size=224).resize == 256
    with pytest.raises(UserError, match="smaller than size"):
        augment.build("eval_large", size=224, resize=200)


def test_unknown_names():
    with pytest.raises(UserError, match="unknown augmentation 'crop_flop'; did you mean 'crop_flip'"):
        augment.build("crop_flop")
    with pytest.raises(UserError, match="'crop_flip' has no option 'padding'"):
        augment.build("crop_flip", padding=4)
    with pytest.raises(UserError, match="unknown interpolation 'bicubik'"):
        augment.build("rrc", interpolation="bicubik")
    with pytest.raises(UserError, match="scale"):
        augment.build("simclr", scale=[0.5, 2.0])


def test_options_survive_json():
    """Parameters come from a file: lists for tuples."""
    preset = augment.build(
        "rrc", **json.loads('{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "scale": [0.2, 1.0]}')
    )
    assert preset.scale == (0.2, 1.0)
    assert preset.sample(ops.to_pil(images(1)[0]), [0.5] * preset.columns).shape == (3, 224, 224)


def test_mirror_false_never_flips_in_either_form():
    preset = augment.build("crop_flip", pad=1, mirror=False)
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    rows = torch.tensor([[0.5, 0.5, draw] for draw in (0.0, 0.49, 0.51, 0.99)])  # the crop in the middle
    batched = preset.batch(image.expand(4, -1, -1, -1), rows)
    torch.testing.assert_close(batched, (image.float() / 255).expand(4, -1, -1, -1), rtol=0, atol=1e-6)
    pil = Image.fromarray(image[0, 0].numpy())
    assert torch.allclose(preset.reference(pil, rows[0].tolist()), image[0].float() / 255, atol=1e-6)
