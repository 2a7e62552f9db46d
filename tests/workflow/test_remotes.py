"""A finished run goes to a remote and comes back in a fresh clone, where neither driver has anything left to do."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_project import Project

pytestmark = pytest.mark.slow
KEY = {"AWS_ACCESS_KEY_ID": "lt", "AWS_SECRET_ACCESS_KEY": "lt", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3(log: Path) -> Iterator[str]:
    """moto's S3 server as a process of its own, with one bucket; its address."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(log, "w") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        client = boto3.client("s3", endpoint_url=address)
        deadline = time.monotonic() + 30
        while True:
            try:
                client.create_bucket(Bucket="lab")
                break
            except Exception:
                assert time.monotonic() < deadline and server.poll() is None, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(10)


def timed(seconds: dict[str, float], what: str, project: Project, *command: str) -> str:
    began = time.monotonic()
    said = project.run(*command)
    seconds[what] = time.monotonic() - began
    return said


def round_trip(project: Project, clone: Path) -> Project:
    """Push with the run cache, clone, pull; both drivers agree that the table is there."""
    seconds: dict[str, float] = {}
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "A remote")
    timed(seconds, "push", project, "dvc", "push", "--run-cache")
    project.run("git", "clone", "-q", str(project.root), str(clone))
    fresh = Project(clone, project.base)
    timed(seconds, "pull", fresh, "dvc", "pull")
    assert fresh.status() == [] and fresh.dvc() == set()
    timed(seconds, "adopt", fresh, "python", "scripts/adopt.py", "snakemake", "digits_smoke")
    assert fresh.planned() == set()
    assert "Everything is up to date" in fresh.run("dvc", "push")
    print("\n" + ", ".join(f"{what} {value:.1f} s" for what, value in seconds.items()))
    return fresh


def same(a: Project, b: Project) -> None:
    files = [p.relative_to(a.root) for p in (a.root / "results").rglob("*") if p.is_file()]
    kept = [f for f in files if ".snakemake_timestamp" not in f.name]
    assert len(kept) > 30
    for file in kept:
        assert (a.root / file).read_bytes() == (b.root / file).read_bytes(), file


def test_a_folder_on_a_shared_disk(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.run("dvc", "remote", "add", "-d", "lab", str(tmp_path / "remote"))
    fresh = round_trip(project, tmp_path / "clone")
    same(project, fresh)


def test_an_s3_bucket(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in KEY.items():
        monkeypatch.setenv(name, value)
    project = finished.copy(tmp_path / "project")
    with s3(tmp_path / "s3.log") as address:
        project.run("dvc", "remote", "add", "-d", "lab", "s3://lab/results")
        project.run("dvc", "remote", "modify", "lab", "endpointurl", address)
        fresh = round_trip(project, tmp_path / "clone")
    same(project, fresh)


def digests(folder: Path) -> set[str]:
    return {hashlib.md5(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_images_are_never_copied(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split of an image folder knows its list; not one image enters the cache or the remote."""
    from lt.data.rehearse import rehearse

    counts = np.r_[3, np.ones(999, dtype=np.int64)]
    rehearse("imagenet_lt", tmp_path / "images" / "imagenet_lt", counts=counts, test_per_class=1, size=16)
    monkeypatch.setenv("LT_DATA_ROOT", str(tmp_path / "images"))
    project = finished.copy(tmp_path / "project")
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    params["grid"]["datasets"].append("imagenet_lt")
    (project.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    project.run("dvc", "remote", "add", "-d", "lab", str(tmp_path / "remote"))
    project.run("dvc", "repro", "split@imagenet_lt")
    project.run("dvc", "push", "split@imagenet_lt")
    images = digests(tmp_path / "images")
    stored = [p for where in (tmp_path / "remote", project.root / ".dvc/cache") for p in where.rglob("*")]
    names = {path.parent.name + path.name for path in stored if path.is_file()}
    assert len(images) > 2000 and len(names) > 3 and not names & images
