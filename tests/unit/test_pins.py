"""Pins stand in pyproject.toml; the lock and the conda environment repeat them, and nothing runs on other versions."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>!~; ]", requirement, maxsplit=1)[0]).lower()


def pins(lines: list[str]) -> dict[str, str]:
    """Name -> version; whatever is not pinned exactly has no version and fails."""
    return {name_of(line): line.partition("==")[2].split(";")[0].strip() for line in lines}


def project() -> dict[str, str]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return pins(
        [*content["dependencies"], *(line for extra in content["optional-dependencies"].values() for line in extra)]
    )


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return pins([line for line in lines if line.strip() and not line.startswith(("#", "-"))])


def conda() -> dict[str, str]:
    (inner,) = [
        d for d in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if isinstance(d, dict)
    ]
    return pins([line for line in inner["pip"] if not line.startswith("-")])


def test_the_three_lists_are_in_step() -> None:
    own = project()
    assert all(own.values()), own
    assert conda() == own
    assert {name: lock().get(name) for name in own} == own


def test_the_lock_holds_what_its_packages_pull_in() -> None:
    locked = lock()
    assert all(locked.values())
    missing = set()
    for name in locked:
        for requirement in metadata.requires(name) or []:
            wanted, _, marker = requirement.partition(";")
            if not marker and name_of(wanted) not in locked:
                missing.add(f"{name} needs {wanted}")
    assert not missing


def test_what_is_installed_is_what_is_locked() -> None:
    found = {name: metadata.version(name).partition("+")[0] for name in lock()}
    assert found == {name: version.partition("+")[0] for name, version in lock().items()}
