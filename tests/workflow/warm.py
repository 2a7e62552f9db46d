"""One Python that has everything imported, for tests that run hundreds of jobs: a `python` that asks it to fork.

The drivers run the same commands; what a job saves is the two to three seconds in which it would import torch.
`python -m tests.workflow.warm SOCKET` serves the project in the current folder.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

CLIENT = """#!{python} -SE
import json, os, socket, sys
given = sys.argv[1:]
if not given or not given[0].startswith("scripts/"):
    os.execv({python!r}, ["python", *given])
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
said = json.dumps([given, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(said).to_bytes(8, "little")], [0, 1, 2])
server.sendall(said)
code = server.recv(1)
os._exit(code[0] if code else 1)
"""
WARM = ("torch", "lt.compat", "torchvision", "timm", "scipy.stats", "yaml", "safetensors.torch", "PIL.Image")
STAGES = ("split", "subset", "train", "merge", "predict", "evaluate", "tabulate", "pack", "redraw", "recipe")


@contextlib.contextmanager
def python_for(tree: Path) -> Iterator[Path]:
    """A folder for the head of PATH, whose `python` starts the scripts of `tree` at once."""
    folder = tree / ".warm"
    folder.mkdir(exist_ok=True)
    path = folder / "socket"
    program = folder / "python"
    program.write_text(CLIENT.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    server = subprocess.Popen([sys.executable, __file__, str(path)], cwd=tree, env=environment)
    while not path.exists() and server.poll() is None:
        time.sleep(0.05)
    try:
        yield folder
    finally:
        server.terminate()
        server.wait()
        path.unlink(missing_ok=True)


def serve(path: str) -> None:
    for name in (*WARM, *(f"lt.stages.{stage}" for stage in STAGES)):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path + ".new")
    listening.listen(64)
    os.rename(path + ".new", path)
    while True:
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            client.sendall(bytes([run(client)]))
            os._exit(0)
        client.close()


def run(client: socket.socket) -> int:
    """One script, with the client's own files, folder and environment; its exit status."""
    head, files, _, _ = socket.recv_fds(client, 8, 3)
    size, said = int.from_bytes(head, "little"), b""
    while len(said) < size:
        said += client.recv(size - len(said))
    argv, folder, environment = json.loads(said)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    serve(sys.argv[1])
