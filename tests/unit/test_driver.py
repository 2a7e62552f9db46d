import base64
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lt import driver

HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
HOLD += "print('', flush=True); time.sleep(60)"


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose driver was killed: its lock, its own file, and three marks of outputs that were begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "slurm_jobs", lambda: [])
    state = tmp_path / ".snakemake"
    for name in ("locks", "drivers", "incomplete"):
        (state / name).mkdir(parents=True)
    (state / "locks" / "0.output.lock").write_text("results/a/manifest.json\n")
    (state / "drivers" / f"{socket.gethostname()}-1").touch()
    for name in ("results/a/manifest.json", "results/b/manifest.json", "results/tables/t.csv"):
        mark(state, name).touch()
    for name in ("results/a/manifest.json", "results/tables/t.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return state


def mark(state: Path, name: str) -> Path:
    return state / "incomplete" / base64.urlsafe_b64encode(name.encode()).decode()


def holder(path: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_a_killed_drivers_locks_go_and_its_finished_artefacts_stay(killed: Path, capsys) -> None:
    own = driver.begin()
    assert not (killed / "locks").exists()
    assert not mark(killed, "results/a/manifest.json").exists()  # whole: artefacts come whole or not at all
    assert mark(killed, "results/b/manifest.json").exists() and mark(killed, "results/tables/t.csv").exists()
    assert [p.name for p in (killed / "drivers").iterdir()] == [Path(own.name).name]
    said = capsys.readouterr().err
    assert said == "lt: the driver before this one was killed; 1 artefacts that came after its end are kept\n"
    own.close()


def test_nothing_is_touched_while_a_driver_lives(killed: Path, capsys) -> None:
    alive = holder(killed / "drivers" / f"{socket.gethostname()}-2")
    driver.begin().close()
    alive.kill()
    alive.wait()
    assert (killed / "locks").exists() and mark(killed, "results/a/manifest.json").exists()
    assert capsys.readouterr().err == ""


def test_a_driver_of_another_host_may_be_alive_unseen(killed: Path) -> None:
    (killed / "drivers" / "elsewhere-3").touch()
    driver.begin().close()
    assert (killed / "locks").exists() and (killed / "drivers" / "elsewhere-3").exists()


def test_one_process_may_plan_twice(killed: Path) -> None:
    first, second = driver.begin(), driver.begin()
    assert driver.held(Path(first.name))
    first.close(), second.close()


def test_a_dry_run_ends_no_jobs(killed: Path) -> None:
    path = killed.parent / "scratch/a/lock"
    path.parent.mkdir(parents=True)
    training = holder(path)
    path.write_text(f"process {training.pid} on {socket.gethostname()}")
    driver.begin(acting=False).close()
    assert (killed / "locks").exists() and training.poll() is None
    driver.begin().close()
    assert training.wait(10) == -15 and not (killed / "locks").exists()


def test_slurm_jobs_of_this_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = "20a7ab36-6cce-4d8f-9172-3af26effb888"
    lines = f"7|{run}|{tmp_path}", f"8|{run}|/elsewhere", f"9|notebook|{tmp_path}"
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert driver.slurm_jobs() == ["7"]


def test_a_lock_is_seen_as_held_only_while_it_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert driver.held(path)
    assert not driver.held(path) and not driver.held(tmp_path / "none")
