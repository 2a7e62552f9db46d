"""Loaded by the interpreter of a test's training process: breaks it at a chosen place, and notes how it ended.

LT_TEST_BREAK=<place>:<n> acts at the n-th time that the process comes to the place; LT_TEST_END=<file> receives
the digest of the whole training state when the loop is through. The product knows nothing of either.
"""

import errno
import hashlib
import io
import os
import signal
import sys
from pathlib import Path

PLACE, _, COUNT = os.environ.get("LT_TEST_BREAK", "").partition(":")
END = os.environ.get("LT_TEST_END")
seen = {}


def due(place: str) -> bool:
    seen[place] = seen.get(place, 0) + 1
    return place == PLACE and seen[place] == int(COUNT)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(module, name, *, before="", after="", action=kill, when=lambda *a: True):
    original = getattr(module, name)

    def wrapped(*args, **given):
        if before and when(*args) and due(before):
            action()
        result = original(*args, **given)
        if after and when(*args) and due(after):
            action()
        return result

    setattr(module, name, wrapped)


def walk(digest, value) -> None:
    import torch

    if isinstance(value, torch.Tensor):
        digest.update(str((value.dtype, tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else b"")
        digest.update(repr(value.item()).encode() if value.ndim == 0 else b"")
    elif isinstance(value, dict):
        for key in value:
            digest.update(repr(key).encode())
            walk(digest, value[key])
    elif isinstance(value, list | tuple):
        for each in value:
            walk(digest, each)
    else:
        digest.update(repr(value).encode())


def half_a_save(scratch, torch):
    original = torch.save

    def save(content, file):
        if not due("half"):
            return original(content, file)
        buffer = io.BytesIO()
        original(content, buffer)
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        file.flush()
        kill()

    torch.save = save


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def poison(engine, torch):
    from lt.tasks.classify import Classify

    original = Classify.__call__

    def call(self, network, batch, step):
        result = original(self, network, batch, step)
        if due("nan"):
            result["loss"] = result["loss"] * float("nan")
        return result

    Classify.__call__ = call


def install() -> None:
    root = str(Path(__file__).resolve().parents[3])
    sys.path.insert(0, root)
    import torch

    from lt import artefact, engine, scratch

    around(engine, "_micro_step", before="forward", after="backward")
    around(engine, "_update", after="update")
    around(engine, "_close_epoch", before="epoch", after="closed")
    around(scratch, "write_text", before="digest", after="digested")
    states = lambda source, target, *rest: str(target).endswith(".pt")
    around(os, "replace", before="replace", after="replaced", when=states)
    around(artefact, "_swap", before="swap", after="swapped")
    around(artefact, "_swap", before="full", action=no_space)
    around(engine, "_micro_step", after="SIGTERM", action=lambda: os.kill(os.getpid(), signal.SIGTERM))
    around(engine, "_micro_step", after="SIGUSR1", action=lambda: os.kill(os.getpid(), signal.SIGUSR1))
    around(engine, "_update", after="stand", action=lambda: os.kill(os.getpid(), signal.SIGSTOP))
    if PLACE == "unsaved":
        around(os, "fsync", before="unsaved", action=no_space)
    half_a_save(scratch, torch)
    poison(engine, torch)
    fit = engine.fit

    def fitted(state, *rest):
        result = fit(state, *rest)
        if END:
            digest = hashlib.sha256()
            walk(digest, state.state_dict())
            Path(END).write_text(digest.hexdigest())
        return result

    engine.fit = fitted


if PLACE or END:
    install()
