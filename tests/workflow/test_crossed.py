"""The crossing in the graph: every cell is planned, shared stages once; two cells and a senseless one as rows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from trees import checkout, only_table, seed_rows, snakemake, warm_snakemake

CELLS = ["x_bns_dpp_merge_crt", "x_mgp_all_one_gala"]


def test_the_plan_trains_every_stage_of_the_crossing_once(tmp_path: Path) -> None:
    done = snakemake(checkout(tmp_path), "-n", "results/tables/crossed_smoke.csv")
    plan = done.stdout + done.stderr
    assert done.returncode == 0, plan[-3000:]
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", plan, flags=re.M)}
    branches = 2  # of the smoke overlay; those of mixup on balanced subsets are BTM's
    expected = {"crossed_branch": 11 * branches, "btm_branch": branches, "crossed_merge": 11, "btm_merge": 1}
    expected |= {"crossed_stage2": 4 * 6 * 3 - 2 - 3, "btm_stage2": 1, "mislas_stage2": 1, "baseline_stage2": 1}
    expected |= {"baseline_train": 1, "btm_stage1": 1, "ipdpp_pretrain": 1, "livt_pretrain": 1}
    expected |= {"subset": 4 * branches, "predict": 92, "evaluate": 92}
    assert {name: jobs.get(name) for name in expected} == expected


@pytest.mark.slow
def test_cells_run_to_rows_and_a_senseless_one_says_why(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    only_table(tree, ["digits"], [*CELLS, "x_bns_all_one_none"], {})
    done = warm_snakemake(tree, "--cores", "2", "results/tables/rows_smoke.csv")
    assert done.returncode == 0, done.stderr[-4000:]
    assert {r["method"] for r in seed_rows(tree, "rows_smoke") if r["top1"]} == set(CELLS)
    with open(tree / "results/tables/rows_smoke.csv") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["method"] == "x_bns_all_one_none" and last["verdict"].startswith("no such run: stage 1 has no")

    results = tree / "results/digits_smoke"
    home = results / "x_bns_dpp_one_none/resnet8/seed0/branches"  # the first cell that has these branches
    draws = [np.load(home / f"branch{i}/draws/draw0.npy") for i in range(2)]
    assert not np.array_equal(*draws)
    start = load_file(results / "bns_lp/resnet8/seed0/pretrain/model.safetensors")
    branch = [load_file(home / f"branch{i}/model.safetensors") for i in range(2)]
    assert all(not np.array_equal(start["conv1.weight"], b["conv1.weight"]) for b in branch)
    merged = load_file(results / "x_bns_dpp_merge_none/resnet8/seed0/merge/model.safetensors")
    mean = (branch[0]["conv1.weight"].astype(np.float64) + branch[1]["conv1.weight"]) / 2
    np.testing.assert_allclose(merged["conv1.weight"], mean, rtol=1e-6)
    after = load_file(results / "x_bns_dpp_merge_crt/resnet8/seed0/stage2/model.safetensors")
    assert np.array_equal(after["conv1.weight"], merged["conv1.weight"])

    second = results / "x_mgp_all_one_gala/vit_digits/seed0/stage2"
    parents = json.loads((second / "manifest.json").read_text())["parents"]
    assert parents["init"].endswith("digits_smoke/mae/vit_digits/seed0/pretrain")
    encoder = load_file(results / "mae/vit_digits/seed0/pretrain/model.safetensors")
    trained = load_file(second / "model.safetensors")
    assert np.array_equal(trained["blocks.0.attn.qkv.weight"], encoder["blocks.0.attn.qkv.weight"])
