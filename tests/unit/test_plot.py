"""Which runs of a table a figure shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lt import artefact
from lt.stages.plot import by_method, spread


def table(tmp_path: Path, *runs: tuple[str, str, str, float], chosen: list[str] | None = None) -> dict[str, Any]:
    rows = []
    for number, (dataset, method, arch, top1) in enumerate(runs):
        folder = tmp_path / str(number)
        with artefact.commit(folder, recipe={"stage": "evaluate"}, inputs={}) as draft:
            (draft / "metrics.json").write_text(json.dumps({"metrics": {"top1": top1}, "cost": {}}))
        rows.append({"manifest": f"{folder}/manifest.json", "dataset": dataset, "method": method, "arch": arch})
    return {"rows": rows, "figures": {"groups": chosen or []}}


def test_networks_of_a_method_are_series_of_their_own(tmp_path: Path) -> None:
    """Averaged as if they were seeds, two networks would be one bar with their distance as its spread."""
    runs = [("a", "ce", "resnet10", 40.0), ("a", "ce", "resnet50", 60.0), ("a", "btm", "resnet50", 62.0)]
    found = by_method(table(tmp_path, *runs), "groups")
    assert {name: spread(folders, "top1")["top1"] for name, folders in found.items()} == {
        "ce, resnet10": (40.0, 0.0), "ce, resnet50": (60.0, 0.0), "btm": (62.0, 0.0),
    }  # fmt: skip


def test_one_data_set_and_the_methods_that_the_table_names(tmp_path: Path) -> None:
    runs = [("a", "ce", "r", 1.0), ("a", "ce", "r", 2.0), ("a", "btm", "r", 3.0), ("b", "ce", "r", 4.0)]
    found = by_method(table(tmp_path, *runs, chosen=["ce"]), "groups")
    assert {name: [Path(f).name for f in folders] for name, folders in found.items()} == {"ce": ["0", "1"]}
