"""A script's command line is its function's signature."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lt.errors import UserError
from lt.script import call


def work(recipe: str | Path, *, out: str | Path, index: int | None = None, several: list[str] | None = None) -> None:
    if recipe == "bad":
        raise UserError("recipe: no such thing")
    Path(out).write_text(f"{recipe} {index!r} {several!r}")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["scripts/work.py", *words])
    with pytest.raises(SystemExit) as ended:
        call(work, "Work.")
    return ended.value.code


def test_options_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, log = tmp_path / "out", tmp_path / "logs" / "deep" / "x.log"
    words = ["--recipe", "r", "--out", str(out), "--index", "3", "--several", "a", "b", "--log", str(log)]
    assert run(monkeypatch, *words) == 0
    assert out.read_text() == "r 3 ['a', 'b']"
    assert log.read_text().startswith("$ python scripts/work.py --recipe r")


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--recipe", "r", "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out").read_text() == "r None None"


def test_a_users_mistake_is_one_line_here_and_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    log = tmp_path / "x.log"
    assert run(monkeypatch, "--recipe", "bad", "--out", "o", "--log", str(log)) == 2
    assert capsys.readouterr().err == "lt: recipe: no such thing\n"
    assert log.read_text().splitlines()[-1] == "lt: recipe: no such thing"


@pytest.mark.parametrize("words", [["--out", "o"], ["--recipe", "r", "--out", "o", "--index", "x"], ["--unknown", "1"]])
def test_a_wrong_command_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, *words) == 2
