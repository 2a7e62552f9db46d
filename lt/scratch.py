"""Resumable state in `scratch/<stage's path>/<key>/`, outside every declared output.

The key is a digest of the recipe and the inputs, so an edited recipe never resumes from another's weights. Two
last states are kept, each beside its own digest; a lock names the process that holds the stage.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pickle
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lt.artefact import sha256, write_text
from lt.errors import UserError

KEPT = 2
ROOT = Path("scratch")


def key_of(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def home(out: str | Path) -> Path:
    """`results/a/b/manifest.json` and `results/a/b` both work under `scratch/a/b`."""
    folder = Path(out).parent if Path(out).name == "manifest.json" else Path(out)
    parts = folder.parts[1:] if folder.parts and folder.parts[0] == "results" else folder.parts
    return ROOT.joinpath(*(p for p in parts if p not in ("/", "..")))


class Scratch:
    """The states of one stage under one key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        return sorted(int(p.stem.split("-")[1]) for p in self.folder.glob("state-*.pt"))

    def _path(self, number: int) -> Path:
        return self.folder / f"state-{number}.pt"

    def save(self, state: dict[str, Any]) -> bool:
        """Write a state; a full disk loses nothing: the two before it stay, and training goes on."""
        import torch

        number = self.written + 1
        path = self._path(number)
        temporary = path.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            write_text(path.with_suffix(".sha256"), sha256(temporary) + "\n")
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch's writer wraps a full disk in a RuntimeError
            temporary.unlink(missing_ok=True)
            path.with_suffix(".sha256").unlink(missing_ok=True)
            print(f"lt: {path}: state not saved ({error}); the last one is kept", file=sys.stderr, flush=True)
            return False
        self.written = number
        for old in self._numbers()[:-KEPT]:
            self._path(old).unlink(missing_ok=True)
            self._path(old).with_suffix(".sha256").unlink(missing_ok=True)
        return True

    def load(self, device: Any = "cpu") -> dict[str, Any] | None:
        """The newest state whose digest holds; a damaged one is named and passed over."""
        import torch

        for number in reversed(self._numbers()):
            path = self._path(number)
            stated = path.with_suffix(".sha256")
            if stated.exists() and stated.read_text().strip() == sha256(path):
                with contextlib.suppress(pickle.UnpicklingError, RuntimeError, EOFError):  # no state of ours
                    return torch.load(path, map_location=device, weights_only=True)
            print(f"lt: {path}: damaged; going back to the state before it", file=sys.stderr, flush=True)
        return None


@contextlib.contextmanager
def hold(out: str | Path, key: str) -> Iterator[Scratch]:
    """Hold a stage: one process at a time. The folder goes when the work inside succeeds, and only then."""
    base = home(out)
    folder = base / key
    with _locked(base, str(out)):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(Path(out).parent if Path(out).name == "manifest.json" else Path(out))
        for other in base.iterdir():
            if other.is_dir() and other != folder and list(other.glob("state-*.pt")):
                print(f"lt: {other}: state of another recipe or input; starting afresh", file=sys.stderr)
        yield Scratch(folder)
        shutil.rmtree(base, ignore_errors=True)
    for parent in base.parents:
        with contextlib.suppress(OSError):
            if parent != ROOT.parent:
                parent.rmdir()


def _sweep(target: Path) -> None:
    """What a commit left that was killed; whoever holds the stage's lock is the only one who commits it."""
    for kind in ("tmp", "old"):
        for left in target.parent.glob(f".{target.name}.*.{kind}"):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _locked(base: Path, out: str) -> Iterator[None]:
    """The kernel frees the lock of a process that dies, however it dies."""
    path = base / "lock"
    while True:
        base.mkdir(parents=True, exist_ok=True)
        with open(path, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip() or "another process"
                raise UserError(f"{out}: already being made by {owner}; end that job first") from None
            if not path.exists() or os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                continue  # the owner before finished between our open and our lock, and took the file with it
            job = os.environ.get("SLURM_JOB_ID")
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}" + (f" (SLURM job {job})" if job else ""))
            lock.flush()
            yield
            return
