"""Digests of code: comments and unrelated modules do not count, what runs does."""

from __future__ import annotations

from pathlib import Path

import pytest

from lt import code
from lt.config import Run, load
from lt.stages.recipe import members

WORK = "from lt import losses\nfrom lt.deep.inner import x\n\ndef work():\n    import lt.late\n    {}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "scripts/train.py": "from lt.work import work\nwork()\n",
        "lt/__init__.py": "",
        "lt/work.py": '"""Doc."""\n' + WORK.format("pass"),
        "lt/late.py": "LATE = 1\n",
        "lt/other.py": "OTHER = 1\n",
        "lt/deep/__init__.py": "",
        "lt/deep/inner.py": "x = 1  # one\n",
        "lt/losses/__init__.py": "from lt.losses.a import a\nfrom lt.losses.b import b\nLOSSES = {'a': a, 'b': b}\n",
        "lt/losses/a.py": "def a():\n    return 1\n",
        "lt/losses/b.py": "def b():\n    return 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for cached in (code._tree, code.module_path, code.imports, code.closure, code.file_digest, code.digest):
        cached.cache_clear()


def digest(project: Path, name: str | None = None, text: str = "", members: tuple[str, ...] = ("lt.losses.a",)) -> str:
    if name:
        (project / name).write_text(text)
    forget()
    return code.digest("scripts/train.py", members)


SAME = {
    "lt/deep/inner.py": "# two\nx = (1)\n\n\n",
    "lt/work.py": "# a comment\n" + WORK.format("pass  # why"),
    "lt/other.py": "OTHER = 2\n",
    "lt/losses/b.py": "def b():\n    return 2\n",
    "lt/losses/__init__.py": "from lt.losses.a import a\nLOSSES = {'a': a}\n",
}
OTHER = {
    "lt/deep/inner.py": "x = 2\n",
    "lt/late.py": "LATE = 2\n",
    "lt/losses/a.py": "def a():\n    return 2\n",
    "scripts/train.py": "from lt.work import work\nwork()\nwork()\n",
    "lt/losses/__init__.py": "LOSSES = {}\ndef build():\n    return 1\n",
}


@pytest.mark.parametrize("name", SAME)
def test_what_does_not_count(project: Path, name: str) -> None:
    assert digest(project) == digest(project, name, SAME[name])


@pytest.mark.parametrize("name", OTHER)
def test_what_counts(project: Path, name: str) -> None:
    assert digest(project) != digest(project, name, OTHER[name])


def test_the_named_member_is_part_of_it(project: Path) -> None:
    assert digest(project) != digest(project, members=("lt.losses.b",))
    paths = [p.relative_to(project).as_posix() for p in code.closure("scripts/train.py", ("lt.losses.a",))]
    assert "lt/losses/a.py" in paths and "lt/losses/b.py" not in paths and "lt/late.py" in paths


def test_the_projects_own_scripts() -> None:
    forget()
    light = {p.name for p in code.closure("scripts/evaluate.py")}
    assert "metrics.py" in light and "engine.py" not in light


@pytest.mark.parametrize(("method", "dataset", "arch", "own", "foreign"), [
    ("ce", "digits", "resnet8", {"resnet_cifar"}, {"convert", "mae", "vit", "experts", "redraw"}),
    ("livt/finetune", "digits", "vit_digits", {"vit"}, {"convert", "resnet_cifar", "experts", "batchformer"}),
    ("ride3/stage1", "digits", "resnet8", {"experts"}, {"convert", "mae", "vit", "centroids"}),
    ("mislas/stage1", "places_lt", "resnet152", {"resnet", "convert"}, {"redraw"}),
])  # fmt: skip
def test_a_training_stands_on_its_own_papers_networks(
    method: str, dataset: str, arch: str, own: set[str], foreign: set[str]
) -> None:
    """An edit of how checkpoints are imported, or of another paper's network, trains nothing again."""
    forget()
    config = load(code.ROOT / "params.yaml")
    name, _, stage = method.partition("/")
    params = config.stage(Run(dataset, name, arch, 0), stage or "train").params.model_dump()
    names = {p.stem for p in code.closure("scripts/train.py", members(params, arch))}
    assert own <= names and not foreign & names
