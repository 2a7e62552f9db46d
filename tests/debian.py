"""Programs that only some tests need, from Debian: installed where the test runs as root, else the test is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def program(name: str, *packages: str) -> str:
    """The path of a program; its packages are fetched where it is not there."""
    if not shutil.which(name):
        if os.geteuid() or not shutil.which("apt-get"):
            pytest.skip(f"no {name} here: apt-get install {' '.join(packages)}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            command = ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=120", *words]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
            if done.returncode:
                pytest.skip(f"no {name} here, and apt-get {words[0]} failed: {done.stderr.strip()[-300:]}")
    found = shutil.which(name)
    assert found, f"{' '.join(packages)} brought no {name}"
    return found
