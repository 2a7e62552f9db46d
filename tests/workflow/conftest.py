"""A small project for tests that run a driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_project import METHODS, Project, make


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make(tmp_path / "project", METHODS)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke table, made by Snakemake, adopted by DVC and committed. Copy it; do not change it."""
    project = make(tmp_path_factory.mktemp("finished") / "project", METHODS)
    project.snakemake()
    project.adopt("dvc")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "A finished table")
    return project
