from __future__ import annotations

import itertools
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lt import figures, metrics
from lt.errors import UserError
from lt.figures import per_class, style

NAMES = ["ce", "mislas", "btm", "ride3_bf", "bagmar_pn"]


def examples() -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of every figure, with the holes that real tables have."""
    random = np.random.default_rng(0)
    counts = np.array([int(500 * 0.01 ** (c / 99)) for c in range(100)])
    accuracy = {n: random.random(100) for n in NAMES[:3]}
    accuracy["btm"][3] = np.nan
    groups = {n: {"many": (70 - i, 1.5), "medium": 50.0, "few": None} for i, n in enumerate(NAMES)}
    means = {n: {"mean": (40 + i, 0.5), "hm": 5.0 * i, "gm": None} for i, n in enumerate(NAMES)}
    bins = metrics.calibration(random.random(300), random.random(300) < 0.5)
    empty = metrics.calibration(np.array([0.4]), np.array([1]))
    epochs = np.arange(20.0)
    runs = {"a": {"epoch": epochs, "loss": np.exp(-epochs)}, "b": {"epoch": epochs, "top1": epochs * np.nan}}
    p = random.random(30)
    cost = {n: {"cost": 0.1 * (i + 1), "accuracy": (40 + i, None)} for i, n in enumerate(NAMES)}
    return {
        "per_class": ((accuracy,), {"class_counts": counts}),
        "groups": ((groups,), {}),
        "hm_gm": ((means,), {}),
        "reliability": (({"ce": bins, "one": empty},), {}),
        "curves": ((runs,), {"panels": {"loss": "training loss", "top1": "top-1 (%)"}}),
        "tau": (([0, 0.5, 1], {"many": [60, 55, 50], "few": [10, None, 20]}), {"chosen": 0.5}),
        "cost": ((cost,), {}),
        "ablation": (({"CE": (40.0, 1.0), "LDAM": 42.0, "none": None},), {"reference": "CE"}),
        "inclusion": ((p, {"exact": p / 3, "uniform": np.full(30, 0.2)}), {"expected": {"exact": p / 3}}),
    }


def draw_all(folder: Path) -> None:
    for name, (args, more) in examples().items():
        for suffix in (".svg", ".png"):
            figures.FIGURES[name](folder / f"{name}{suffix}", *args, **more)


def test_every_figure_has_an_example() -> None:
    assert set(examples()) == set(figures.FIGURES)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_all(folder)
    return folder


def test_svg_and_png_are_whole_and_say_what_they_show(drawn: Path) -> None:
    for name in figures.FIGURES:
        root = ET.parse(drawn / f"{name}.svg").getroot()
        assert root.tag.endswith("svg") and len(list(root.iter())) > 50
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (drawn / "curves.svg").read_text()
    assert "training loss" in text and "<dc:date>" not in text  # glyph paths are preceded by the text as a comment


@pytest.mark.slow
def test_same_bytes_in_another_process(drawn: Path, tmp_path: Path) -> None:
    code = "import sys, pathlib, test_figures as t; t.draw_all(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    for name in figures.FIGURES:
        for suffix in (".svg", ".png"):
            first, second = ((f / f"{name}{suffix}").read_bytes() for f in (drawn, tmp_path))
            assert first == second, name + suffix


def test_neighbouring_series_differ_without_colour() -> None:
    looks = [style.line(i) for i in range(7)]
    assert len({look["marker"] for look in looks}) == 7 and len({look["color"] for look in looks}) == 7
    for a, b in itertools.pairwise(looks):
        assert a["linestyle"] != b["linestyle"]
    assert len({style.bar(i)["hatch"] for i in range(7)}) == 7


def test_binned_means_over_log_size() -> None:
    x, y = per_class.binned(np.array([1, 1, 100, 100]), np.array([0.0, 10.0, 50.0, np.nan]), bins=2)
    np.testing.assert_allclose(x, [1, 100])
    np.testing.assert_allclose(y, [5, 50])
    same_size = per_class.binned(np.array([7, 7]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(np.concatenate(same_size), [7, 2])
    assert len(per_class.binned(np.array([5]), np.array([np.nan]))[0]) == 0


def test_bars_have_the_heights_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    seen: list[list[float]] = []
    draw = Axes.bar
    monkeypatch.setattr(Axes, "bar", lambda self, x, h, *a, **k: (seen.append(list(h)), draw(self, x, h, *a, **k))[1])
    figures.group_bars(tmp_path / "g.svg", {"ce": {"many": (70.0, 1.0), "medium": 50.0, "few": 10.0}})
    assert seen == [[70.0, 50.0, 10.0]]


def test_unknown_format_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown format '\.pgn'; did you mean '\.png'"):
        figures.tau_sweep(tmp_path / "x.pgn", [0], {"few": [1]})
    assert not list(tmp_path.iterdir())


def test_settings_of_the_caller_neither_matter_nor_change(tmp_path: Path) -> None:
    import matplotlib

    figures.tau_sweep(tmp_path / "a.svg", [0, 1], {"few": [1, 2]})
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other"}):
        figures.tau_sweep(tmp_path / "b.svg", [0, 1], {"few": [1, 2]})
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_nothing_heavy_until_a_figure_is_drawn() -> None:
    code = "import lt.figures, sys; print([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
