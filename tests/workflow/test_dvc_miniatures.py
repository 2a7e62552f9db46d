"""Every recipe of the large sets' tables by `dvc repro`, too: test_miniatures.py's trees and networks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from dvc_grids import CONFIG, smoke_grid
from small_project import environment, make
from test_miniatures import SETS, generated, methods, small_params
from trees import seed_rows
from warm import python_for

MINIATURES = [(dataset, arch) for dataset in SETS for arch in methods(dataset)]  # a grid is a product: one for each
EVERY_TIME = [("places_lt", "resnet152"), ("cifar10_lt_if100", "vit_base"), ("cifar10_lt_if100", "vit_tiny")]


@pytest.mark.parametrize(
    ("dataset", "arch"),
    [pytest.param(*m, marks=getattr(pytest.mark, "slow" if m in EVERY_TIME else "miniature")) for m in MINIATURES],
)
def test_every_recipe_reaches_a_table_row_by_dvc(tmp_path: Path, dataset: str, arch: str) -> None:
    listed = methods(dataset)[arch]
    generated(dataset, tmp_path / "data")
    params = small_params()
    packs = [f"{name}_smoke" for name in CONFIG.params.datasets if name == f"{dataset}_raw256"]
    params["grid"] |= smoke_grid(dataset, arch, listed) | {
        "packs": packs,
        "tables": {"mini_smoke": f"results/metrics/{dataset}_smoke"},
    }
    params["tables"] = {"mini": {"datasets": [dataset], "methods": listed, "archs": {dataset: [arch]}}}
    text = yaml.safe_dump(params, sort_keys=False)
    project = make(tmp_path / "tree", {}, git=False, params=lambda _: text)
    given = environment(tmp_path) | {"LT_DATA_ROOT": str(tmp_path / "data")}
    with python_for(project.root) as warm:
        given["PATH"] = os.pathsep.join([str(warm), given["PATH"]])
        done = subprocess.run(
            ["dvc", "repro"], cwd=project.root, env=given, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    rows = [row for row in seed_rows(project.root, "mini_smoke") if row["top1"]]
    assert {row["method"] for row in rows} == set(listed)
    assert all((project.root / f"results/{name}/pack/train/manifest.json").exists() for name in packs)
