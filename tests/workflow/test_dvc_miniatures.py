"""Every graph of dvc.yaml run by `dvc repro` to table rows: generated images in a large set's layout, two steps.

The methods are those whose two graphs test_two_drivers.py compares, where the set has them, on one network and one ViT.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from small_project import environment, make
from test_miniatures import CONFIG, generated, small_params
from test_two_drivers import CIFAR, LARGE
from trees import seed_rows
from warm import python_for

GRID = {  # data set -> lists of methods, network, ViT
    "imagenet_lt": (LARGE, "resnet50", "vit_base"),
    "cifar10_lt_if100": (CIFAR, "resnet32", "vit_tiny"),
}
OF_VITS = ("mae", "livt", "livt_readme")
NO_METHODS = ("datasets", "archs", "seeds", "branches", "btm_nodes", "packs", "pack_parts", "vits")
NO_ROW = ("mae", "on_val", "on_train", "btm_drawn_by")


def miniature(dataset: str) -> tuple[str, list[str]]:
    """params.yaml whose grid has every graph with this set's recipes and one table, `mini`; the table's methods."""
    compared, arch, vit = GRID[dataset]
    params = small_params()
    grid = params["grid"] | compared
    lists = [k for k, v in grid.items() if isinstance(v, list) and k not in NO_METHODS]
    for key in lists:
        on = vit if key in OF_VITS else arch
        grid[key] = [m for m in grid[key] if on in CONFIG.archs(m, dataset)]
    names = list(dict.fromkeys(m for key in lists if key not in NO_ROW for m in grid[key]))
    grid |= {"datasets": [f"{dataset}_smoke"], "archs": [arch], "vits": [vit], "seeds": [0], "figures": {}}
    grid |= {"packs": [name for name in grid["packs"] if name.startswith(dataset)]}
    grid |= {"tables": {"mini_smoke": f"results/metrics/{dataset}_smoke"}}
    table = {"datasets": [dataset], "methods": names, "archs": {dataset: [arch, vit]}}
    return yaml.safe_dump(params | {"grid": grid, "tables": {"mini": table}}, sort_keys=False), names


@pytest.mark.miniature
@pytest.mark.parametrize("dataset", GRID)
def test_every_graph_of_dvc_reaches_a_table_row(tmp_path: Path, dataset: str) -> None:
    generated(dataset, tmp_path / "data")
    text, names = miniature(dataset)
    project = make(tmp_path / "tree", {}, git=False, params=lambda _: text)
    given = environment(tmp_path) | {"LT_DATA_ROOT": str(tmp_path / "data")}
    with python_for(project.root) as warm:
        given["PATH"] = os.pathsep.join([str(warm), given["PATH"]])
        done = subprocess.run(
            ["dvc", "repro"], cwd=project.root, env=given, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    found = {row["method"] for row in seed_rows(project.root, "mini_smoke") if row["top1"]}
    assert len(names) >= 8 and found == set(names)
