"""Order, draws, ranks, workers and restarts of the loader."""

import copy
import hashlib
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lt.data import augment
from lt.data.loader import Loader, draw_rows
from lt.errors import UserError
from lt.rng import stream

STATS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
CROP = augment.build("crop_flip", **STATS)


def memory(n=60, channels=3, size=16):
    rng = np.random.RandomState(n)
    images = rng.randint(0, 256, (n, channels, size, size), dtype=np.uint8)
    return SimpleNamespace(images=images, labels=rng.randint(0, 5, n), paths=None, root=None)


@pytest.fixture
def files(tmp_path):
    """Photographs of unequal size, one of them grey."""
    rng, paths = np.random.RandomState(1), []
    for number in range(30):
        height, width = rng.randint(40, 90, 2)
        pixels = rng.randint(0, 256, (height, width) if number == 7 else (height, width, 3), dtype=np.uint8)
        paths.append(f"c{number % 3}/{number}.jpg")
        (tmp_path / paths[-1]).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / paths[-1])
    return SimpleNamespace(images=None, labels=np.arange(30) % 3, paths=paths, root=tmp_path)


def digest(batches):
    total = hashlib.sha256()
    for batch in batches:
        views = batch["image"] if isinstance(batch["image"], tuple) else (batch["image"],)
        for tensor in (*views, batch["target"], batch["index"]):
            total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


def test_an_epoch_sees_every_image_once_with_its_label():
    source = memory()
    chosen = np.random.RandomState(0).permutation(60)[:50]
    loader = Loader(source, chosen, preset=CROP, batch_size=16, seed=3)
    batches = list(loader.epoch(0))
    seen = [i for batch in indices(batches) for i in batch]
    assert len(loader) == 4
    assert [len(batch["index"]) for batch in batches] == [16, 16, 16, 2]
    assert sorted(seen) == sorted(chosen.tolist())
    assert seen != chosen.tolist()
    assert torch.cat([batch["target"] for batch in batches]).tolist() == source.labels[seen].tolist()
    assert indices(loader.epoch(1)) != indices(loader.epoch(0))


def test_pixels_are_the_presets_under_the_tables_rows():
    source = memory()
    loader = Loader(source, np.arange(20, 60), preset=CROP, batch_size=40, seed=3)
    batch = next(loader.epoch(5))
    table = stream(3, "augment", 5).random((40, 3), dtype=np.float32)
    for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
        expected = CROP.batch(torch.from_numpy(source.images[index : index + 1]), torch.from_numpy(table[[index - 20]]))
        assert torch.equal(image, expected[0])


def test_rows_of_repeats():
    """Row i for the first occurrence, N + position for repeats: with and without repeats the first agree."""
    order = np.array([2, 0, 2, 2, 1, 0])
    table = stream(9, "augment", 4).random((3 + 6, 5), dtype=np.float32)
    rows = draw_rows(order, n=3, columns=5, seed=9, epoch=4)
    assert np.array_equal(rows, table[[2, 0, 3 + 2, 3 + 3, 1, 3 + 5]])
    assert np.array_equal(draw_rows(np.array([1, 2]), n=3, columns=5, seed=9, epoch=4), table[[1, 2]])
    assert draw_rows(order, n=3, columns=0, seed=9, epoch=4).shape == (6, 0)


@pytest.mark.parametrize("preset", ["crop_flip", "cifar_autoaugment_cutout", "simclr"])
def test_a_restart_gives_the_same_rest(preset):
    options = {"size": 16} if preset == "simclr" else {}
    build = lambda: Loader(memory(), preset=augment.build(preset, **STATS, **options), batch_size=16, seed=1)
    whole = list(build().epoch(2))
    for start in range(5):
        assert digest(build().epoch(2, start)) == digest(whole[start:])


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("preset", ["rrc_jitter", "randaugment_timm", "bagmar_large", "eval_large"])
def test_workers_do_not_change_pixels(files, preset, workers):
    build = lambda count: Loader(
        files, preset=augment.build(preset, size=24, **STATS), batch_size=8, seed=1, workers=count
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader, alone = build(workers), build(0)
        for epoch, start in ((0, 0), (1, 0), (1, 2)):
            assert digest(loader.epoch(epoch, start)) == digest(alone.epoch(epoch, start))
        half_way = loader.epoch(3)
        next(half_way)
        assert digest(loader.epoch(4)) == digest(alone.epoch(4)), "an epoch broken off leaves nothing behind"


def test_workers_serve_images_in_memory():
    build = lambda count: Loader(
        memory(), preset=augment.build("cifar_autoaugment_cutout", **STATS), batch_size=16, seed=1, workers=count
    )
    assert digest(build(0).epoch(0)) == digest(build(1).epoch(0))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_each_global_batch(world, shuffle):
    """Also the ragged last one: each image once, whatever the number of ranks."""
    build = lambda rank, n: Loader(
        memory(), preset=CROP, batch_size=16, seed=1, shuffle=shuffle, rank=rank, world=n, channels=3
    )
    alone = list(build(0, 1).epoch(0))
    parts = [list(build(rank, world).epoch(0)) for rank in range(world)]
    for step, batch in enumerate(alone):
        together = torch.cat([part[step]["index"] for part in parts])
        assert sorted(together.tolist()) == sorted(batch["index"].tolist())
        pixels = dict(zip(batch["index"].tolist(), batch["image"], strict=True))
        for part in parts:
            for index, image in zip(part[step]["index"].tolist(), part[step]["image"], strict=True):
                assert torch.equal(image, pixels[index])


def test_a_rank_without_samples_gets_an_empty_batch():
    last = list(Loader(memory(17), preset=CROP, batch_size=16, seed=1, rank=1, world=2).epoch(0))[-1]
    assert last["image"].shape == (0, 3, 16, 16)
    assert len(last["target"]) == 0


def test_evaluation_keeps_the_order():
    batches = list(
        Loader(memory(), preset=augment.build("eval", **STATS), batch_size=7, seed=1, shuffle=False).epoch(0)
    )
    assert [i for batch in indices(batches) for i in batch] == list(range(60))


class Cycle:
    """A sampler whose position persists over epochs."""

    def __init__(self, n):
        self.n, self.at = n, 0

    def epoch(self, epoch, length):
        out = np.arange(self.at, self.at + length) % self.n
        self.at += length
        return out

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def sampled(**options):
    return Loader(memory(), preset=CROP, batch_size=16, seed=1, sampler=Cycle(60), **options)


def test_a_stateful_sampler_restarts_in_mid_epoch():
    loader = sampled(steps=3)
    first, second, third = (list(loader.epoch(epoch)) for epoch in range(3))
    assert indices(first)[0] == list(range(16))
    assert indices(second)[0][0] == 48
    loader = sampled(steps=3)
    list(loader.epoch(0))
    running = loader.epoch(1)
    next(running)
    saved = copy.deepcopy(loader.state_dict())
    restarted = sampled(steps=3)
    restarted.load_state_dict(saved)
    assert digest(restarted.epoch(1, 1)) == digest(second[1:])
    assert digest(restarted.epoch(2)) == digest(third)


def test_a_state_saved_at_the_end_of_an_epoch_opens_the_next():
    loader = sampled(steps=3)
    list(loader.epoch(0))
    restarted = sampled(steps=3)
    restarted.load_state_dict(loader.state_dict())
    assert digest(restarted.epoch(1)) == digest(loader.epoch(1))
    fresh = sampled(steps=3)
    assert digest(fresh.epoch(1)) == digest(restarted.epoch(1)), "also when the same epoch is asked for again"
    with pytest.raises(ValueError, match="cannot go back"):
        fresh.epoch(0)


def test_more_steps_than_the_data_has():
    """MiSLAS's second stage takes ceil(N / B) + 1 full batches from its sampler."""
    assert [len(batch) for batch in indices(sampled(steps=5).epoch(0))] == [16] * 5
    plain = Loader(memory(), preset=CROP, batch_size=16, seed=1, steps=5)
    seen = [i for batch in indices(plain.epoch(0)) for i in batch]
    assert len(seen) == 80
    assert sorted(seen[:60]) == list(range(60))
    shorter = Loader(memory(), preset=CROP, batch_size=16, seed=1, steps=2)
    assert [len(batch) for batch in indices(shorter.epoch(0))] == [16, 16]


def test_drop_last():
    loader = Loader(memory(), preset=CROP, batch_size=16, seed=1, drop_last=True)
    assert [len(batch) for batch in indices(loader.epoch(0))] == [16, 16, 16]
    with pytest.raises(UserError, match="batch_size: 100 with drop_last"):
        Loader(memory(), preset=CROP, batch_size=100, seed=1, drop_last=True)


@pytest.mark.parametrize("preset", ["crop_flip", "cifar_autoaugment_cutout", "eval"])
def test_grey_images_for_a_colour_network(preset):
    loader = Loader(memory(channels=1), preset=augment.build(preset), batch_size=8, seed=1, channels=3)
    image = next(loader.epoch(0))["image"]
    assert image.shape == (8, 3, 16, 16)
    assert torch.equal(image[:, 0], image[:, 2])
    with pytest.raises(UserError, match="channels: 1"):
        Loader(memory(), preset=CROP, batch_size=8, seed=1, channels=1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_a_decode_failure_names_the_file(files, damage, workers):
    path = files.root / files.paths[11]
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"not an image")
    loader = Loader(files, preset=augment.build("rrc", size=24, **STATS), batch_size=8, seed=1, workers=workers)
    with pytest.raises(UserError) as error:
        list(loader.epoch(0))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_unequal_size_need_a_crop(files):
    with pytest.raises(UserError, match="images differ in size"):
        list(Loader(files, preset=augment.build("eval", **STATS), batch_size=8, seed=1).epoch(0))


def test_lists_that_cannot_work():
    with pytest.raises(UserError, match="no images"):
        Loader(memory(), [], preset=CROP, batch_size=8, seed=1)
    with pytest.raises(UserError, match="2 labels for 3 images"):
        Loader(memory(), [1, 2, 3], labels=[0, 1], preset=CROP, batch_size=8, seed=1)
    with pytest.raises(UserError, match="batch_size: 0"):
        Loader(memory(), preset=CROP, batch_size=0, seed=1)


def test_no_global_generator_moves(files):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for source, preset in ((memory(), CROP), (files, augment.build("randaugment_timm", size=24, **STATS))):
        list(Loader(source, preset=preset, batch_size=8, seed=1).epoch(0))
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
