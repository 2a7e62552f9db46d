"""What goes wrong around a training: damaged states, full disks, second processes, hostile files, signals."""

import contextlib
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from faults import runs

from lt import artefact


@pytest.fixture
def path(tmp_path, monkeypatch):
    return runs.folder(tmp_path, monkeypatch)


def stop(path, point="update:4"):
    assert runs.train(path, point).returncode == -9
    assert len(runs.states(path)) == 2
    return runs.states(path)


def truncate(state):
    os.truncate(state, state.stat().st_size // 2)


def flip(state):
    raw = bytearray(state.read_bytes())
    raw[len(raw) // 2] ^= 1
    state.write_bytes(raw)


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def hostile(state):
    """A pickle with code in it, under a digest that fits."""
    torch.save({"state": Hostile(), "threads": 1}, state)
    state.with_suffix(".sha256").write_text(artefact.sha256(state))


def foreign(state):
    state.write_bytes(pickle.dumps(Hostile()))
    state.with_suffix(".sha256").write_text(artefact.sha256(state))


@pytest.mark.parametrize("damage", [flip, pytest.param(hostile, marks=pytest.mark.slow)])
def test_a_damaged_state_gives_way_to_the_one_before(path, unbroken, damage):
    newest = stop(path)[-1]
    damage(newest)
    done = runs.train(path)
    assert done.returncode == 0, done.stderr
    assert f"{newest.relative_to(path)}: damaged; going back to the state before it" in done.stderr
    assert "resumed in epoch 1, step 4" in done.stderr
    assert not (path / "executed").exists()
    assert runs.result(path) == unbroken


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, foreign, lambda s: s.with_suffix(".sha256").unlink()])
def test_two_damaged_states_give_way_to_the_start(path, unbroken, damage):
    for state in stop(path):
        damage(state)
    done = runs.train(path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("damaged") == 2 and "resumed" not in done.stderr
    assert not (path / "executed").exists()
    assert runs.result(path) == unbroken


def test_a_hostile_checkpoint_as_initial_weights_is_refused(path):
    model = path / "given"
    with artefact.commit(model, recipe={}, inputs={}) as draft:
        (draft / "model.safetensors").write_bytes(pickle.dumps(Hostile()))
    done = runs.train(path, "", "--init", "given")
    assert done.returncode == 2
    assert done.stderr == "lt: given/model.safetensors: not a safetensors file; run its stage again\n"
    assert not (path / "executed").exists()


@pytest.mark.slow
def test_a_full_disk_while_saving_does_not_stop_the_training(path, unbroken):
    done = runs.train(path, "unsaved:3")
    assert done.returncode == 0, done.stderr
    assert "state not saved ([Errno 28] No space left on device); the last one is kept" in done.stderr
    assert runs.result(path) == unbroken


@pytest.mark.slow
def test_a_full_disk_at_the_commit_is_one_line_and_costs_no_training(path, unbroken):
    done = runs.train(path, "full:1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"lt: {runs.RUN}/train: no space left on device; free some and run the same command again"
    )
    assert "Traceback" not in done.stderr
    assert not list((path / runs.RUN).glob(".*"))
    assert len(runs.states(path)) == 2
    again = runs.train(path)
    assert again.returncode == 0 and "resumed in epoch 4, step 0" in again.stderr
    assert runs.result(path) == unbroken


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """A file system of its own over a folder, as small as asked; yields how to make it larger."""

    def mount(option, size):
        line = ["mount", "-t", "tmpfs", "-o", f"{option}size={size}k", "lt-test", str(folder)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    kept = folder.with_name("kept")
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, kept)
    refused = mount("", kilobytes)
    if refused.returncode:
        pytest.skip(f"no file system can be mounted here: {refused.stderr.strip()}")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield lambda size: mount("remount,", size)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
@pytest.mark.parametrize(("name", "kilobytes", "told", "resumed"), [
    ("scratch", 1800, "not written (No space left on device); run the same command again", "resumed in epoch"),
    ("results", 800, "no space left on device; free some and run the same command again", "resumed in epoch 4, step 0"),
], ids=["scratch", "results"])  # fmt: skip
def test_a_disk_that_is_really_full(path, unbroken, name, kilobytes, told, resumed):
    """Two states and a snapshot fit into one, the split but no network into the other: one line, and no bit is lost."""
    with small_disk(path / name, kilobytes) as enlarge:
        done = runs.train(path)
        assert done.returncode == 2, (done.returncode, done.stderr)
        assert done.stderr.splitlines()[-1].endswith(told), done.stderr
        assert ("state not saved" in done.stderr) == (name == "scratch")
        assert "Traceback" not in done.stderr and not (path / runs.OUT).exists()
        assert enlarge(8000).returncode == 0
        again = runs.train(path)
        assert again.returncode == 0, again.stderr
        assert resumed in again.stderr
        assert runs.result(path) == unbroken


@pytest.mark.slow
def test_a_small_disk_is_one_line(path):
    """A real limit: the file size that the shell allows."""
    line = " ".join(runs.command())
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 40; trap '' XFSZ; exec {line}"],
        cwd=path, env=runs.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "state not saved" in done.stderr or "not written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_process_stops_and_names_the_owner(path, unbroken):
    owner = subprocess.Popen(runs.command(), cwd=path, env=runs.environment("stand:2"), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not runs.states(path) and time.monotonic() < deadline:
            time.sleep(0.1)
        second = runs.train(path)
        assert second.returncode == 2
        lines = second.stderr.splitlines()
        assert len(lines) == 1, second.stderr
        assert f"{runs.OUT}: already being made by process {owner.pid} on" in lines[0]
    finally:
        owner.send_signal(signal.SIGCONT)
        owner.communicate(timeout=60)
    assert owner.returncode == 0
    assert runs.result(path) == unbroken


@pytest.mark.slow
def test_another_configuration_starts_afresh_and_says_so(path):
    stop(path)
    runs.write(path, lr=0.05)
    done = runs.train(path)
    assert done.returncode == 0
    assert "state of another recipe or input; starting afresh" in done.stderr and "resumed" not in done.stderr
    fresh = runs.result(path)
    again = runs.train(path)  # nothing of the first state is left
    assert again.returncode == 0 and "afresh" not in again.stderr
    assert runs.result(path) == fresh


@pytest.mark.parametrize("name", ["digits/ce;touch executed/resnet8/seed0", "digits/../../resnet8/seed0"])
def test_hostile_run_names_are_refused(path, name):
    done = subprocess.run(
        [*runs.command()[:1], str(runs.ROOT / "scripts/recipe.py"), "--run", name],
        cwd=runs.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("lt: ") and len(done.stderr.splitlines()) == 1
    assert not (runs.ROOT / "executed").exists()


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_signal_saves_and_has_its_own_exit_code(path, unbroken, name):
    done = runs.train(path, f"{name}:6", every=1000)
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == (
        f"lt: stopped by {name} in epoch 2, step 2; state saved, run the same command again"
    )
    again = runs.train(path, every=1000)
    assert again.returncode == 0 and "resumed in epoch 2, step 2" in again.stderr
    assert runs.result(path) == unbroken


def test_a_loss_that_is_not_finite_stops_before_the_update(path):
    done = runs.train(path, "nan:4")
    assert done.returncode == 76
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lt: the loss is nan in epoch 1, step 4; nothing was updated; captured: lt replay scratch/")
    captured = torch.load(path / last.rpartition(" ")[2], weights_only=True)
    assert captured["step"] == {"seed": 0, "epoch": 0, "step": 3, "rank": 0}
    assert {"recipe", "state", "batch"} < set(captured)
    assert len(captured["batch"]["target"]) == 16
    assert len(runs.states(path)) == 1
    kept = torch.load(runs.states(path)[0], weights_only=True)["state"]["model"]
    weights = {k: v for k, v in kept.items() if "running" not in k and "num" not in k}
    assert all(torch.equal(captured["state"]["model"][k], v) for k, v in weights.items())


def test_replay_shows_the_same_loss_again(path):
    """A rate far too high makes weights that no forward pass survives; nothing is broken by hand."""
    runs.write(path, lr=1e25)
    done = runs.train(path)
    assert done.returncode == 76
    told = re.search(r"the loss is (\S+) in (epoch \d+, step \d+); .* lt replay (\S+)$", done.stderr.strip())
    loss, step, capture = told.groups()
    assert not math.isfinite(float(loss))
    again = subprocess.run(
        [sys.executable, "-m", "lt.cli", "replay", capture],
        cwd=path, env=runs.environment() | {"PYTHONPATH": str(runs.ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    lines = again.stdout.splitlines()
    assert lines[0] == "digits/ce/resnet8/seed0/train" and lines[1].startswith(f"{step}, lr 1e+25")
    assert f"loss {loss}" in lines
    assert lines[2].startswith("batch: finite") and "forward: first not finite: " in again.stdout
    assert lines[-1].startswith("gradient: ") and not lines[-1].startswith("gradient: 0 ")


@pytest.mark.slow
def test_equal_bits_for_two_runs_and_for_any_number_of_workers(tmp_path, monkeypatch, unbroken):
    again = runs.folder(tmp_path / "again", monkeypatch)
    assert runs.train(again).returncode == 0
    assert runs.result(again) == unbroken
    for workers in (1, 4):
        other = runs.folder(tmp_path / str(workers), monkeypatch, workers=workers)
        assert runs.train(other).returncode == 0
        found = runs.result(other)
        found.pop("manifest")  # names its recipe, and so the number of workers
        assert found == {k: v for k, v in unbroken.items() if k != "manifest"}


@pytest.mark.slow
def test_a_resume_uses_the_recorded_threads(path, unbroken):
    stop(path)
    assert runs.train(path, threads=2).returncode == 0
    assert artefact.read(runs.OUT).manifest["threads"] == 1
    assert runs.result(path) == unbroken
