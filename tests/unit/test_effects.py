"""What a part of a crossing adds: the cells that differ in it alone, paired within a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lt import cli, stats
from lt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CELLS = {
    "x_ce_all_one_none": [80, 82, 84],
    "x_ce_all_one_crt": [83, 84, 88],
    "x_ce_bal_one_none": [70, 71, 72],
    "x_ce_bal_one_crt": [71, 71, 72],
    "x_mixup_bal_one_mislas": [1, 1, 1],  # two parts from every other cell
}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return tmp_path / "crossed.csv"


def write(table: Path, cells: dict[str, list[float]], **arch: str) -> None:
    rows = ["set,method,arch,seed,top1,verdict"]
    for cell, values in cells.items():
        by_seed = {str(seed): str(value) for seed, value in enumerate(values)} | {"mean": "0"}
        rows += [f"digits,{cell},{arch.get(cell, 'resnet8')},{s},{v},not published" for s, v in by_seed.items()]
    table.write_text("\n".join(rows) + "\n")


def printed(capsys: pytest.CaptureFixture, *words: str) -> dict[str, str]:
    """Axis and parts, with what `--by` adds -> pairs, difference, interval."""
    cli.run(["effects", *words])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    cut = [next(i for i, word in enumerate(row) if word.isdigit()) for row in rows]
    return {" ".join(row[:i]): " ".join(row[i:]) for row, i in zip(rows, cut, strict=True)}


def told(pairs: int, by_seed: list[float]) -> str:
    s = stats.summary(by_seed)
    return f"{pairs} {s.mean:+.2f} {s.low:+.2f} to {s.high:+.2f}"


def test_cells_that_differ_in_one_part_are_averaged_within_a_seed(table: Path, capsys: pytest.CaptureFixture) -> None:
    write(table, CELLS)
    assert printed(capsys, str(table)) == {
        "subset all -> bal": told(2, [-11, -12, -14]),  # of -10, -11, -12 and -12, -13, -16
        "stage2 none -> crt": told(2, [2, 1, 2]),  # of 3, 2, 4 and 1, 0, 0
    }
    assert printed(capsys, str(table), "--by", "subset", "stage1") == {
        "stage2 none -> crt all ce": told(1, [3, 2, 4]),
        "stage2 none -> crt bal ce": told(1, [1, 0, 0]),
    }


def test_only_cells_of_one_network_are_paired(table: Path, capsys: pytest.CaptureFixture) -> None:
    write(table, CELLS, x_ce_all_one_none="vit", x_ce_bal_one_none="vit")
    assert [*printed(capsys, str(table))] == ["subset all -> bal"]


def test_seeds_that_not_every_cell_has_do_not_count(table: Path, capsys: pytest.CaptureFixture) -> None:
    write(table, CELLS | {"x_ce_bal_one_none": [70, 71]})
    assert printed(capsys, str(table))["stage2 none -> crt"] == told(2, [2, 1])
    write(table, CELLS | {"x_ce_bal_one_none": [70]})
    assert printed(capsys, str(table))["stage2 none -> crt"] == "2 +2.00 1 seed in common"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--by", "stag2"], "--by stag2: no such axis; did you mean 'stage2'"),
        (["--metric", "tpo1"], "no column 'tpo1'; did you mean 'top1'"),
        (["--metric", "verdict"], "column 'verdict': expected numbers, got 'not published'"),
    ],
)
def test_a_mistake_is_one_line(table: Path, words: list[str], error: str) -> None:
    write(table, CELLS)
    with pytest.raises(UserError, match=error):
        cli.run(["effects", str(table), *words])


def test_other_tables_have_no_parts(table: Path) -> None:
    write(table, {"ce": [80], "btm": [81]})
    with pytest.raises(UserError, match="no cell of a crossing; crossings: x"):
        cli.run(["effects", str(table)])
    with pytest.raises(UserError, match=r"no column 'set'; expected results/tables/<table>\.csv"):
        cli.run(["effects", "README.md"])
