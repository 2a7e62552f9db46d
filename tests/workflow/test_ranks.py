"""One and two ranks on a CPU (gloo, torchrun): the same global batches, the same sums, one artefact."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faults import runs

from lt import artefact
from lt.stages.predict import predict
from lt.stages.recipe import of_stage

WORKER = Path(__file__).with_name("ranks_worker.py")
WHOLE = {"steps": "ceil", "accumulate": 1, "epochs": 2, "snapshots_every": 0, "eval_every": 1}


def worker(folder, ranks):
    out = folder / f"found{ranks}.json"
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *start, str(WORKER), str(out)],
        env=runs.environment() | {"PYTHONPATH": str(runs.ROOT), "LT_TEST_END": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return worker(folder, 1), worker(folder, 2)


BAGMAR = ["bagmar", "bagmar_single", "bagmar_bal", "bagmar_bal_norm"]


@pytest.mark.parametrize("loss", ["cross_entropy", *BAGMAR, "lade", "gml", "class_balanced", "ldam"])
def test_ragged_batches_and_accumulation_agree_with_one_rank(found, loss):
    one, two = found[0][loss], found[1][loss]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=1e-6)
    assert two["top1"] == one["top1"]
    for a, b in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert two["task"].keys() == one["task"].keys()
    for key, value in one["task"].items():  # BaGMar's sums are those of the global batch
        np.testing.assert_allclose(two["task"][key], value, rtol=1e-6, atol=1e-7)


def test_the_forms_of_bagmar_differ(found):
    assert len({tuple(found[1][loss]["losses"]) for loss in BAGMAR}) == len(BAGMAR)


def test_batch_normalisation_over_all_ranks_is_that_of_the_global_batch(found):
    for two, one in zip(found[1]["synced"], found[0]["synced"], strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norms", ["norms of a rank", "norms of all ranks"])
def test_what_batch_normalisation_does_on_two_ranks(found, norms):
    """Plain: each rank normalises its own images, as one process that takes them apart does. `sync_bn`: all images."""
    one, two = found[0][norms], found[1][norms]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=2e-6)
    for a, b in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_plain_batch_normalisation_on_two_ranks_is_not_that_of_one(found):
    assert abs(found[1]["norms of a rank"]["losses"][0] - found[0]["norms of all ranks"]["losses"][0]) > 1e-3


def test_reductions_are_as_few_as_updates(found):
    """2 updates of 2 micro-batches: each reduces its gradients once and agrees once; one sum closes the epoch.

    The state saved at the end needs none: the epoch's sums are then empty.
    """
    assert found[1]["calls"] == {"gradients": 2, "others": 3}


def test_a_signal_to_one_rank_stops_all(found):
    assert found[1]["stopped"].startswith("stopped by another rank in epoch 1, step 2")


def test_rows_of_unequal_ranks_are_gathered(found):
    assert found[1]["rows"] == [[0], [1], [2], [10], [11]]


def history(path):
    with open(path / runs.RUN / "train" / "history.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def trained(path, monkeypatch, ranks, **changes):
    runs.folder(path, monkeypatch, **{**WHOLE, **changes})
    done = runs.train(path, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert not (path / "scratch").exists()
    return path


VIT = {"net": "vit_digits", "optimizer": {"name": "adamw"}, "lr": 1e-3}


@pytest.mark.slow
def test_losses_without_bn_agree_to_1e_6(tmp_path, monkeypatch):
    one = history(trained(tmp_path / "one", monkeypatch, 0, **VIT))
    two = history(trained(tmp_path / "two", monkeypatch, 2, **VIT))
    for a, b in zip(one, two, strict=True):
        assert abs(a["loss"] - b["loss"]) <= 1e-6 * a["loss"]
        assert a["train_top1"] == b["train_top1"] and a["val_top1"] == b["val_top1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "tolerance"), [({"epochs": 1, "lr": 1e-9}, 1e-6), ({}, 1e-3)], ids=["still", "real"]
)
def test_losses_with_bn_over_all_ranks_agree(tmp_path, monkeypatch, changes, tolerance):
    """To 1e-6 at a rate that leaves the weights where they are. Sums in another order are float32 noise, which steps
    through so many normalisations make larger: docs/cluster.md has the figures at the recipe's rate and another."""
    one = history(trained(tmp_path / "one", monkeypatch, 0, **changes))
    two = history(trained(tmp_path / "two", monkeypatch, 2, sync_bn=True, **changes))
    for a, b in zip(one, two, strict=True):
        assert abs(a["loss"] - b["loss"]) <= tolerance * a["loss"]


@pytest.mark.slow
def test_two_ranks_killed_and_resumed_end_in_the_same_bits(tmp_path, monkeypatch):
    whole = runs.result(trained(tmp_path / "whole", monkeypatch, 2))
    path = runs.folder(tmp_path / "broken", monkeypatch, **WHOLE)
    assert runs.train(path, "update:15", ranks=2).returncode != 0
    assert not (path / runs.OUT).exists() and len(runs.states(path)) == 2
    again = runs.train(path, ranks=2)
    assert again.returncode == 0 and "resumed in epoch 2" in again.stderr
    assert runs.result(path) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("breaking", "code"), [("SIGTERM:6", 75), ("nan:4", 76)])
def test_two_ranks_exit_with_the_code_of_one(tmp_path, monkeypatch, breaking, code):
    path = runs.folder(tmp_path, monkeypatch, **WHOLE)
    done = runs.train(path, breaking, ranks=2, every=1000)
    assert done.returncode == code, done.stderr[-2000:]
    assert not (path / runs.OUT).exists()


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_and_says_run_again(tmp_path, monkeypatch):
    path = runs.folder(tmp_path, monkeypatch, **{**WHOLE, "epochs": 500})
    command, environment = runs.command(ranks=2), runs.environment(every=0)
    with subprocess.Popen(command, cwd=path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        patience = time.monotonic() + 120
        while not runs.states(path) and time.monotonic() < patience:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=90)[1]
    assert process.returncode == 75 and "stopped by" in said, said[-2000:]
    assert runs.states(path)


@pytest.mark.slow
def test_ranks_meet_a_lock_with_one_line(tmp_path, monkeypatch):
    from lt.scratch import hold

    path = runs.folder(tmp_path, monkeypatch, **WHOLE)
    with hold(runs.OUT, "other"):
        done = runs.train(path, ranks=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("lt: ")]
    assert done.returncode == 2 and len(lines) == 1
    assert "already being made by process" in lines[0]


@pytest.mark.slow
def test_two_ranks_predict_each_image_once(tmp_path, monkeypatch):
    """Batches of 599 and 1 of the 600 test images: ranks hold unequal numbers, one none of the last."""
    path = trained(tmp_path, monkeypatch, 0, **VIT)
    known = runs.config.load(runs.ROOT / "params.yaml")
    raw = of_stage(known, runs.config.Run.parse("digits/ce/resnet8/seed0"), "predict")
    raw["params"]["batch"] = 599
    runs.recipes.write("predict.json", raw)
    given = ["--recipe", "predict.json", "--split", runs.SPLIT, "--model", runs.OUT, "--out", "two/manifest.json"]
    script = str(runs.ROOT / "scripts/predict.py")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, script, *given], cwd=path, env=runs.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    predict("predict.json", split=runs.SPLIT, model=runs.OUT, out="one/manifest.json")
    with (
        np.load(artefact.read("one") / "predictions.npz") as one,
        np.load(artefact.read("two") / "predictions.npz") as two,
    ):
        assert len(one["indices"]) == 600
        np.testing.assert_array_equal(one["indices"], two["indices"])
        np.testing.assert_array_equal(one["labels"], two["labels"])
        np.testing.assert_allclose(one["logits"], two["logits"], rtol=0, atol=1e-5)
