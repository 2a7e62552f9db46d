"""A Snakemake that was killed leaves locks, marks and, with luck, jobs that still run. The next one puts that right.

Every driver holds a file of its own in `.snakemake/drivers/` for as long as it lives; the kernel frees it however the
driver dies. Only where no driver is alive, and the dead one ran on this host, is anything touched.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lt.artefact import MANIFEST

if TYPE_CHECKING:
    from lt.config import Config

STATE = Path(".snakemake")
PATIENCE = 120  # seconds for jobs to save their state and end
OWNER = re.compile(r"process (\d+) on (\S+?)( \(SLURM job (\d+)\))?")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # the plugin names its jobs by their run


def begin(*, acting: bool = True) -> TextIO:
    """Register this driver until it ends: keep what is returned. A dry run is not `acting`: it ends no jobs."""
    folder, host = STATE / "drivers", socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    own = open(folder / f"{host}-{os.getpid()}", "a")  # noqa: SIM115 - for as long as the driver lives
    with contextlib.suppress(BlockingIOError):  # this process planned before, and holds it already
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    atexit.register(Path(own.name).absolute().unlink, missing_ok=True)
    others = [path for path in folder.iterdir() if path.name != Path(own.name).name]
    dead = [path for path in others if not held(path)]
    left = (STATE / "locks").is_dir()
    if left and dead == others and dead and all(path.name.startswith(f"{host}-") for path in dead):
        _put_right(acting)
        left = not acting
    if not left:
        for path in dead:
            path.unlink(missing_ok=True)
    return own


def held(path: Path) -> bool:
    """Is somebody alive who holds this file's lock?"""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _put_right(acting: bool) -> None:
    said = ["the driver before this one was killed"]
    if jobs := slurm_jobs():
        said.append(f"its SLURM jobs {' '.join(jobs)} are asked to save their state and end")
    processes = trainings()
    if processes:
        said.append(f"its processes {' '.join(map(str, processes))} are asked to save their state and end")
    if acting:
        _end(jobs, processes)
        shutil.rmtree(STATE / "locks", ignore_errors=True)
    if kept := [_unmark(mark, path) for mark, path in marks() if path.name == MANIFEST and path.exists()]:
        said.append(f"{len(kept)} artefacts that came after its end are kept")
    print(f"lt: {'; '.join(said)}", file=sys.stderr, flush=True)


def slurm_jobs() -> list[str]:
    """This user's jobs that some driver submitted from this folder, queued ones as well."""
    if not shutil.which("squeue"):
        return []
    done = subprocess.run(["squeue", "--me", "-h", "-o", "%i|%j|%Z"], capture_output=True, text=True, check=False)
    jobs = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return [number for number, name, where in jobs if UUID.fullmatch(name) and Path(where) == Path.cwd()]


def trainings() -> list[int]:
    """Processes of this host, no SLURM jobs, that hold a stage."""
    found = []
    for lock in Path("scratch").rglob("lock"):
        match = OWNER.fullmatch(lock.read_text().strip()) if held(lock) else None
        if match and match[2] == socket.gethostname() and not match[4]:
            found.append(int(match[1]))
    return found


def _end(jobs: list[str], processes: list[int]) -> None:
    """SIGTERM makes a training save its state; SLURM sends the same."""
    if jobs:
        subprocess.run(["scancel", *jobs], capture_output=True, check=False)
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while (slurm_jobs() or trainings()) and time.monotonic() < deadline:
        time.sleep(1)


def marks() -> Iterator[tuple[Path, Path]]:
    """Snakemake's marks of outputs that were begun, each with its output. An artefact comes whole or not at all."""
    base = STATE / "incomplete"
    for mark in [path for path in base.rglob("*") if path.is_file()]:
        name = "".join(part.removeprefix("@") for part in mark.relative_to(base).parts)
        with contextlib.suppress(ValueError):
            yield mark, Path(base64.urlsafe_b64decode(name).decode())


def _unmark(mark: Path, output: Path) -> Path:
    mark.unlink(missing_ok=True)
    return output


def tell(config: Config, tables: list[str]) -> None:
    """After a run that failed: each table with its missing rows named, and a line for each of them that says why."""
    from lt.commands.status import table_lines
    from lt.stages import recipe as recipes

    for table in tables:
        recipe = f"results/recipes/{table}.json"
        recipes.write(recipe, recipes.of_table(config, table))
        out, log = f"results/tables/{table}.csv", f"logs/tables/{table}.log"
        command = [sys.executable, "scripts/tabulate.py", "--recipe", recipe, "--out", out, "--log", log]
        subprocess.run(command, check=False)
        for line in table_lines(config, table):
            if not line.startswith("done"):
                print(f"lt: {line.rstrip()}", file=sys.stderr, flush=True)
