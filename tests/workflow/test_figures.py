"""Every figure that a table may name, drawn by its rule from the runs of a small table."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from trees import checkout, only_table, warm_snakemake

from lt import cli
from lt.stages.plot import DRAW

METHODS = ["ce", "bagmar_pn", "ipdpp_paper", "livt", "ce_best"]


@pytest.mark.slow
def test_all_figures_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    tree = checkout(tmp_path)
    only_table(tree, ["digits"], METHODS, {})
    params = yaml.safe_load((tree / "params.yaml").read_text())
    own = {"tau": ["bagmar_pn"], "inclusion": ["ce", "ipdpp_paper"], "reconstruction": ["livt"]}
    params["tables"]["rows"]["figures"] = {name: own.get(name, []) for name in DRAW}
    params["tables"]["rows"]["comparisons"] = [["ipdpp_paper", "ce"], ["livt", "ce"]]  # livt: another network
    (tree / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    drawn = [f"results/figures/rows_smoke/{name}.svg" for name in DRAW]
    done = warm_snakemake(tree, "--cores", "2", "results/tables/rows_smoke.csv", *drawn)
    assert done.returncode == 0, done.stderr[-4000:]
    for path in drawn:
        paths = ET.parse(tree / path).getroot().findall(".//{http://www.w3.org/2000/svg}path")
        images = ET.parse(tree / path).getroot().findall(".//{http://www.w3.org/2000/svg}image")
        assert len(paths) > 20 or len(images) == 12, path

    with open(tree / "results/tables/rows_smoke.csv") as file:
        rows = {r["method"]: r for r in csv.DictReader(file) if r["seed"] == "0"}
    found = json.loads((tree / "results/metrics/digits_smoke/ce/resnet8/seed0/train/metrics.json").read_text())
    for name, (low, high) in found["bootstrap"].items():
        assert low <= found["metrics"][name.partition("_")[0]] <= high
        assert float(rows["ce"][f"{name}_ci95"]) == pytest.approx((high - low) / 2, abs=0.01)
    assert rows["ce_best"]["test_bonus"] == "0.00" and rows["ce_best"]["selected_on"] == "best_on_test"
    with open(tree / "results/tables/rows_smoke.comparisons.csv") as file:
        assert [(r["a"], r["b"], r["seeds"], r["p"]) for r in csv.DictReader(file)] == [("ipdpp_paper", "ce", "1", "")]

    monkeypatch.chdir(tree)
    cli.run(["verify", "results"])
    assert "1 tables, 0 problems" in capsys.readouterr().out
    cli.run(["explain", "results/tables/rows_smoke.csv", "--row", "ce_best", "--column", "gm"])
    said = capsys.readouterr().out
    for role in ("metrics", "predictions", "model", "split"):
        assert f"  {role:12} results/" in said
    assert "scripts/choose.py --recipe results/digits_smoke/ce_best/resnet8/seed0/recipe/best.json" in said
    (tree / "results/digits_smoke/ce/resnet8/seed0/train/history.csv").write_text("by hand")
    with pytest.raises(Exception, match="1 problems"):
        cli.run(["verify", "results"])
    assert "history.csv: changed since it was written" in capsys.readouterr().out
