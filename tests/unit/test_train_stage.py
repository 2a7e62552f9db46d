"""The `train` stage in one process: what it writes, what it never reads, what it refuses."""

import csv
import json

import numpy as np
import pytest
import torch
from faults import runs
from PIL import Image
from safetensors.torch import load_file

from lt import artefact
from lt.errors import Interrupted, UserError
from lt.stages import common, importing, predict
from lt.stages import train as stage


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LT_SAVE_EVERY_S", "0")
    for name in ("LT_TENSORBOARD", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)


def trained(path, monkeypatch, log=None, **changes):
    runs.folder(path, monkeypatch, **changes)
    stage.train(f"{runs.RUN}/recipe/train.json", split=runs.SPLIT, out=runs.OUT, log=log)
    return artefact.read(runs.OUT)


def test_what_a_training_leaves(tmp_path, monkeypatch):
    made = trained(tmp_path, monkeypatch, log="logs/train.log")
    assert set(made.manifest["outputs"]) - {artefact.RUN} == {
        "model.safetensors", "history.csv", "metrics.json", *(f"snapshots/epoch{k}.safetensors" for k in (1, 2, 3)),
    }  # fmt: skip
    with open(made / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "lr", "loss", "train_top1", "val_top1"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["val_top1"]) for row in rows] == [False, True, True]
    assert json.loads((made / "metrics.json").read_text())["updates"] == 6
    last, final = load_file(made / "snapshots/epoch3.safetensors"), load_file(made / "model.safetensors")
    assert all(torch.equal(last[k], final[k]) for k in final)
    assert made.manifest["threads"] == 1 and made.manifest["seed"] == 0
    assert not (tmp_path / "scratch").exists()
    assert "epoch    3/3" in (tmp_path / "logs/train.log").read_text()


def test_a_teacher_is_grouped_like_its_student(tmp_path, monkeypatch):
    """It runs in training mode: its logits follow the statistics of the batch that it is shown."""
    trained(tmp_path / "teacher", monkeypatch)
    teacher, seen, build = tmp_path / "teacher" / runs.OUT, [], stage.tasks.build

    def watched(*given, teacher, **more):
        seen.append({getattr(m, "group_size", None) for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)})
        return build(*given, **more)

    monkeypatch.setattr(stage.tasks, "build", watched)
    for group in (None, 8):
        runs.folder(tmp_path / f"student{group}", monkeypatch, bn_group=group)
        stage.train(f"{runs.RUN}/recipe/train.json", split=runs.SPLIT, out=runs.OUT, teacher=teacher)
    assert seen == [{None}, {8}]


def test_a_training_never_opens_the_test_images(tmp_path, monkeypatch):
    opened, load = [], common.load_source

    def watched(data, part, *rest):
        opened.append(part)
        if part == "test":
            raise AssertionError("a training opened the test images")
        return load(data, part, *rest)

    monkeypatch.setattr(stage, "load_source", watched)
    seen, judge = [], stage.evaluation_loader

    def judged(source, indices, *rest, **given):
        seen.extend(indices.tolist())
        return judge(source, indices, *rest, **given)

    monkeypatch.setattr(stage, "evaluation_loader", judged)
    trained(tmp_path, monkeypatch, eval_every=1)
    _, lists = common.open_split(runs.SPLIT)
    assert opened and "test" not in opened
    assert seen == lists.val.tolist() and not set(seen) & set(lists.test.tolist())


def test_the_pixels_of_test_images_have_no_part_in_a_training(tmp_path, monkeypatch):
    """Digits keep them in one array with the training images: noise in their place changes no bit of the result."""
    load = common.load_source
    clean = trained(tmp_path / "clean", monkeypatch, eval_every=1)
    _, lists = common.open_split(runs.SPLIT)

    def poisoned(*given):
        source = load(*given)
        source.images[lists.test] = np.random.default_rng(0).integers(0, 256, source.images[lists.test].shape)
        return source

    monkeypatch.setattr(stage, "load_source", poisoned)
    other = trained(tmp_path / "poisoned", monkeypatch, eval_every=1)
    assert len(lists.test) == 600 and other.digest == clean.digest


LISTED = {"source": "list", "family": "mini", "num_classes": 2, "lists": {"train": "train.txt", "test": "test.txt"},
          "image": {"size": 8, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}, "imbalance": None,
          "holdout": {"test": 0, "val": 0}, "class_map": "label", "prefix": {}}  # fmt: skip


def test_a_training_needs_no_test_files(tmp_path, monkeypatch):
    """Neither the test list nor one test image is there; the same split cannot be predicted."""
    monkeypatch.chdir(tmp_path)
    images, draw = tmp_path / "data/mini", np.random.default_rng(0)
    images.mkdir(parents=True)
    names = [f"{i}.png" for i in range(32)]
    for name in names:
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / name)
    (images / "train.txt").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
    runs.recipes.write("split.json", {**runs.recipe_of(), "data": LISTED})
    runs.split("split.json", out=runs.SPLIT)
    short = {"batch": 16, "steps": 2, "eval_every": 1, "augment": {"name": "none"}, "options": {"in_channels": 3}}
    runs.recipes.write("train.json", {**runs.recipe_of(**short), "data": LISTED})
    stage.train("train.json", split=runs.SPLIT, out=runs.OUT)
    assert artefact.read(runs.OUT).manifest["seed"] == 0
    runs.recipes.write("predict.json", {**runs.recipe_of(), "data": LISTED, "params": {"augment": {"name": "none"}}})
    with pytest.raises(UserError, match=r"test\.txt"):
        predict.predict("predict.json", split=runs.SPLIT, model=runs.OUT, out="predictions/manifest.json")


def test_without_eval_every_nothing_is_validated(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "evaluation_loader", None)
    made = trained(tmp_path, monkeypatch, eval_every=0, snapshots_every=0)
    assert "val_top1" not in (made / "history.csv").read_text()
    assert not (made.folder / "snapshots").exists()


def test_bf16_falls_back_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(stage.engine, "supported", lambda precision, device: "fp32")
    made = trained(tmp_path, monkeypatch, log="train.log", precision="bf16")
    assert "precision: bf16 is not native to this device; training in fp32" in (tmp_path / "train.log").read_text()
    assert json.loads((made / "metrics.json").read_text())["precision"] == "fp32"


def test_the_recipe_reaches_the_loop(tmp_path, monkeypatch):
    seen = {}

    def fit(state, settings, hooks, stop):
        seen.update(state=state, settings=settings)
        raise Interrupted("enough")

    monkeypatch.setattr(stage.engine, "fit", fit)
    monkeypatch.setenv("LT_SAVE_EVERY_S", "7.5")
    with pytest.raises(Interrupted):
        trained(tmp_path, monkeypatch, compile=True, clip=2.0, ema=0.5, channels_last=False)
    used = seen["settings"]
    assert (used.compile, used.clip, used.accumulate, used.channels_last) == (True, 2.0, 2, False)
    assert used.save_every_s == 7.5 and seen["state"].ema is not None


def test_the_average_is_what_is_written(tmp_path, monkeypatch):
    kept, fit = [], stage.engine.fit
    monkeypatch.setattr(stage.engine, "fit", lambda state, *rest: kept.append(fit(state, *rest)))
    made = trained(tmp_path, monkeypatch, ema=0.9)
    written = load_file(made / "model.safetensors")
    average, last = kept[0].ema.module.state_dict(), kept[0].model.state_dict()
    assert all(torch.equal(written[k], average[k]) for k in average)
    assert not torch.equal(written["conv1.weight"], last["conv1.weight"])


def test_load_none_starts_from_random_weights(tmp_path, monkeypatch):
    made = trained(tmp_path, monkeypatch, load="none")
    stage.train(f"{runs.RUN}/recipe/train.json", split=runs.SPLIT, init=runs.OUT, out="again/manifest.json")
    first, again = load_file(made / "model.safetensors"), load_file(artefact.read("again") / "model.safetensors")
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_a_frozen_backbone_is_the_pretrained_one_though_the_graph_offers_another(tmp_path, monkeypatch):
    made = trained(tmp_path, monkeypatch)

    def pretrained(model, arch):
        model.load_state_dict({k: torch.full_like(v, 0.25) for k, v in model.state_dict().items()})
        return f"{arch}: taken"

    monkeypatch.setattr(importing, "load_pretrained", pretrained)
    first = load_file(made / "model.safetensors")["conv1.weight"]
    for load, expected in (("none", torch.full_like(first, 0.25)), ("all", first)):
        runs.write(tmp_path, load=load, pretrained="resnet152", trainable="head")
        stage.train(f"{runs.RUN}/recipe/train.json", split=runs.SPLIT, init=runs.OUT, out=f"{load}/manifest.json")
        again = artefact.read(load)
        assert torch.equal(load_file(again / "model.safetensors")["conv1.weight"], expected)
        assert again.manifest.get("loaded") == ("resnet152: taken" if load == "none" else None)


@pytest.mark.parametrize(("changes", "message"), [
    ({"batch": 33}, "the global batch 33 does not divide by accumulate 2"),
    ({"accumulate": 8, "steps": 4}, "8 micro-batches make a step, but an epoch has only 4"),
])  # fmt: skip
def test_a_batch_that_does_not_divide_is_refused(tmp_path, monkeypatch, changes, message):
    with pytest.raises(UserError, match=message):
        trained(tmp_path, monkeypatch, **changes)


def test_changed_images_are_refused(tmp_path, monkeypatch):
    class Other:
        digest = "other"

    monkeypatch.setattr(stage, "load_source", lambda *given: Other())
    with pytest.raises(UserError, match="the images changed since the split was made"):
        trained(tmp_path, monkeypatch)


@pytest.mark.slow
def test_tensorboard_on_request(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("LT_TENSORBOARD", str(tmp_path / "board"))
    trained(tmp_path, monkeypatch, log="logs/train.log")
    assert list((tmp_path / "board/logs/train").glob("events*"))
