"""The SLURM of two nodes that the tests of a file share; it takes a second to start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import slurm


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Slurm]:
    if lacking := slurm.missing():
        pytest.skip(f"no SLURM here and none could be installed: {', '.join(lacking)} (slurm-wlm, munge)")
    root = tmp_path_factory.mktemp("slurm")
    with slurm.slurm(root) as running:
        yield running
    assert not left_of(root), "the bench left processes behind"


def left_of(root: Path) -> list[str]:
    """Processes that know this bench's slurm.conf."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == f"{root}/slurm.conf":
                found.append(" ".join(process.cmdline()))
    return found
