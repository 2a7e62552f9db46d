"""Artefacts: a folder written under a temporary name and renamed whole, `manifest.json` last.

`manifest.json` holds digests only and is a function of the inputs, so equal work gives an equal manifest;
what varies from run to run (time, memory, host, job, git revision) stands in `run.json` beside it. An artefact is
named by the path of its manifest.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lt.errors import UserError

MANIFEST, RUN = "manifest.json", "run.json"
FORMAT = 1
RECORDED = ("torch", "torchvision", "numpy", "timm", "scipy")


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Replace a file whole: a reader sees the old text or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """What keeps a command from writing there is one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror})") from None


def dump(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: str | Path, again: str = "", /, **expected: type) -> dict[str, Any]:
    """The object in a JSON file, where these keys are of these types; `again` says what to type where they are not."""
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}){again}") from None
    except ValueError:
        raise UserError(f"{path}: not JSON, or cut short{again}") from None
    for key, kind in expected.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise UserError(f"{path}: expected an object with '{key}'{again}")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object{again}")
    return content


def read_csv(path: str | Path, again: str = "", /, *, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns and is whole."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}){again}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: not a CSV file in UTF-8{again}") from None
    if not rows:
        raise UserError(f"{path}: expected rows, got none{again}")
    for name in columns:
        if name not in rows[0]:
            raise UserError(f"{path}: no column '{name}'{again}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise UserError(f"{path}: row {number}: expected a value for every column and no more{again}")
    return rows


def environment() -> dict[str, str]:
    """Versions that numbers depend on; read from package metadata, nothing is imported."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@dataclass(frozen=True)
class Artefact:
    """A committed artefact: its folder, and its manifest's digest as its identity."""

    folder: Path
    manifest: dict[str, Any]
    digest: str

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def again(self) -> str:
        """What to type where something in the folder is not as it was written; ends a message."""
        return f"; delete {self.folder} and run again: snakemake --cores all {self.folder / MANIFEST}"

    def check(self, *names: str) -> list[str]:
        """Re-hash every file, or these: what is missing or was changed after the commit."""
        problems = []
        for name in names or self.manifest["outputs"]:
            path, meta = self.folder / name, self.manifest["outputs"].get(name)
            if meta is None:
                problems.append(f"{path}: not part of the artefact")
            elif not path.is_file():
                problems.append(f"{path}: missing")
            elif path.stat().st_size != meta["bytes"] or sha256(path) != meta["sha256"]:
                problems.append(f"{path}: changed since it was written")
        return problems

    def verified(self, *names: str) -> Artefact:
        """Itself, if its files, or these of them, are as they were written."""
        if problems := self.check(*names):
            raise UserError(problems[0] + self.again)
        return self

    def facts(self) -> dict[str, Any]:
        """run.json: time, memory, host; empty where it did not travel along."""
        path = self.folder / RUN
        return read_json(path, f"; delete {path}, numbers do not depend on it") if path.exists() else {}


def read(path: str | Path, *, verify: bool = True) -> Artefact:
    """Open an artefact by its manifest or its folder; a missing one names the stage to run again."""
    path = Path(path)
    manifest = path if path.name == MANIFEST else path / MANIFEST
    if not manifest.exists():
        raise UserError(f"{manifest.parent}: no finished artefact; run again: snakemake --cores all {manifest}")
    try:
        raw = manifest.read_bytes()
        content = json.loads(raw)
    except (ValueError, OSError):
        raw = content = None
    if not _whole(content):
        raise UserError(f"{manifest}: not a manifest; delete {manifest.parent} and run its stage again")
    artefact = Artefact(manifest.parent, content, hashlib.sha256(raw).hexdigest())
    return artefact.verified() if verify else artefact


def _whole(content: Any) -> bool:
    """Has a manifest all that its readers look for?"""
    if not isinstance(content, dict) or not isinstance(content.get("stage"), str):
        return False
    if not all(isinstance(content.get(key), dict) for key in ("recipe", "inputs", "parents", "outputs")):
        return False
    digests = all(isinstance(m, dict) and {"bytes", "sha256"} <= m.keys() for m in content["outputs"].values())
    return digests and all(isinstance(content["inputs"].get(name), str) for name in content["parents"])


def git_revision() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def run_facts(started: float) -> dict[str, Any]:
    """What a run cost and where it ran."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    jobs = {k: v for k, v in os.environ.items() if k in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURMD_NODENAME")}
    return {
        "wall_s": round(time.time() - started, 3),
        "peak_mb": round(max(peak, children) / 1024, 1),
        "host": socket.gethostname(),
        "git": git_revision(),
        "slurm": jobs,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class Draft:
    """The folder being written; `facts` go to run.json, `extra` into the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@contextlib.contextmanager
def commit(
    out: str | Path,
    *,
    recipe: dict[str, Any],
    inputs: dict[str, Artefact | str],
    started: float | None = None,
) -> Iterator[Draft]:
    """Write an artefact: nothing is visible before the whole is there; a failure leaves nothing behind."""
    folder = Path(out).parent if Path(out).name == MANIFEST else Path(out)
    started = time.time() if started is None else started
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        draft = Draft(temporary)
        yield draft
        names = sorted(p.relative_to(temporary).as_posix() for p in temporary.rglob("*") if p.is_file())
        outputs = {n: {"sha256": sha256(temporary / n), "bytes": (temporary / n).stat().st_size} for n in names}
        parents = {k: v.digest if isinstance(v, Artefact) else v for k, v in sorted(inputs.items())}
        where = {k: str(v.folder) for k, v in sorted(inputs.items()) if isinstance(v, Artefact)}
        content = {
            "format": FORMAT,
            "stage": str(folder),
            "recipe": recipe,
            "inputs": parents,
            "parents": where,
            "outputs": outputs,
            "environment": environment(),
            **draft.extra,
        }
        (temporary / RUN).write_text(dump({**run_facts(started), **draft.facts}))
        (temporary / MANIFEST).write_text(dump(content))
        _swap(temporary, folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(f"{folder}: no space left on device; free some and run the same command again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, folder: Path) -> None:
    """Put the new folder in the old one's place. Readers judge by the manifest, which the old one loses first."""
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        (folder / MANIFEST).unlink(missing_ok=True)
        os.rename(folder, old)
        os.rename(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(temporary, folder)
