"""A training killed with SIGKILL, anywhere, and started again ends in the same bits as one that never was."""

import numpy as np
import pytest
from faults import runs

UPDATES, SAVES = 6, 7  # 3 epochs of 2 updates, a save after each and one at the end

POINTS = [
    "forward:1",  # the first step
    "update:1",  # after the first update, before its save
    "backward:5",  # mid-accumulation
    "backward:8",  # after an epoch's last backward
    "epoch:2",
    "closed:2",  # a validation and a snapshot done, not yet saved
    "half:1",
    "half:4",  # the temporary file half written
    "digest:1",
    "digest:5",  # before its digest
    "replace:2",
    "replace:6",  # before it takes its name
    "replaced:3",
    f"replace:{SAVES}",  # after the last step
    "swap:1",  # the artefact written, not yet in its place
    "swapped:1",  # committed, the state not yet cleared
]
FEW = ["backward:5", "half:4"]


def seeded() -> list[str]:
    """Points that nobody chose."""
    draw = np.random.default_rng(20)
    places = {"forward": 12, "backward": 12, "update": UPDATES, "digested": SAVES}
    names = draw.choice(list(places), 6)
    return [f"{name}:{draw.integers(1, places[name] + 1)}" for name in names]


def broken(path, point, **given):
    killed = runs.train(path, point, **given)
    assert killed.returncode == -9, (killed.returncode, killed.stderr)
    if point != "swapped:1":
        assert not (path / runs.OUT).exists()
    again = runs.train(path)
    assert again.returncode == 0, again.stderr
    assert not (path / "scratch").exists()
    assert not list((path / runs.RUN).glob(".*"))
    return runs.result(path)


@pytest.mark.parametrize("point", FEW)
def test_a_killed_run_ends_in_the_same_bits(unbroken, tmp_path, monkeypatch, point):
    assert broken(runs.folder(tmp_path, monkeypatch), point) == unbroken


@pytest.mark.slow
@pytest.mark.parametrize("point", [p for p in dict.fromkeys(POINTS + seeded()) if p not in FEW])
def test_every_point(unbroken, tmp_path, monkeypatch, point):
    assert broken(runs.folder(tmp_path, monkeypatch), point) == unbroken


@pytest.mark.slow
def test_killed_again_and_again(unbroken, tmp_path, monkeypatch):
    """Each attempt gets two updates further, and dies inside the next save."""
    path = runs.folder(tmp_path, monkeypatch)
    for point in ("half:3", "replace:2", "digest:2"):
        assert runs.train(path, point).returncode == -9
    assert runs.train(path).returncode == 0
    assert runs.result(path) == unbroken


@pytest.mark.slow
def test_a_rare_save_loses_work_but_no_bits(unbroken, tmp_path, monkeypatch):
    assert broken(runs.folder(tmp_path, monkeypatch), "update:5", every=30) == unbroken


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"mix": {"name": "mixup", "alpha": 1.0}, "sampler": {"name": "class_aware", "k": 4}},
    {"ema": 0.9, "optimizer": {"name": "adamw"}, "lr": 1e-3, "clip": 1.0},
    {"loss": {"name": "bagmar"}},
    {"workers": 2},
], ids=["sampler", "ema", "bagmar", "workers"])  # fmt: skip
def test_all_that_a_recipe_carries_along(tmp_path, monkeypatch, changes):
    """Mixup and a stateful sampler, EMA and AdamW, a loss with sums of its own, workers."""
    whole = runs.folder(tmp_path / "whole", monkeypatch, **changes)
    assert runs.train(whole).returncode == 0
    assert broken(runs.folder(tmp_path / "broken", monkeypatch, **changes), "update:4") == runs.result(whole)
