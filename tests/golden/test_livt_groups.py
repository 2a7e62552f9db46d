"""Parameter groups: layer decay for fine-tuning, two groups for masked pre-training."""

import json

import pytest
import torch
from livt_nets import DATA

from lt import models, optim

GOLDEN = json.loads((DATA / "param_groups.json").read_text())


@pytest.mark.parametrize(
    ("case", "pool", "decay"),
    [
        ("vit_tiny_gp_0.75", "avg", 0.75),
        ("vit_tiny_gp_0.65", "avg", 0.65),
        ("vit_tiny_cls_0.75", "token", 0.75),
    ],
)
def test_layer_decay(case: str, pool: str, decay: float) -> None:
    with torch.device("meta"):
        model = models.build("vit_tiny", 10, global_pool=pool)
    groups = optim.param_groups(model, weight_decay=0.05, rule="layer_decay", decay=decay)
    assert len(groups) == 28
    for ours, golden in zip(groups, GOLDEN[case], strict=True):
        assert ours["names"] == golden["params"]
        assert ours["weight_decay"] == golden["weight_decay"]
        assert ours["lr_scale"] == golden["lr_scale"]


def test_pretraining() -> None:
    with torch.device("meta"):
        model = models.build("mae_tiny", 1)
    groups = optim.param_groups(model, weight_decay=0.05, rule="mae")
    golden = GOLDEN["mae_add_weight_decay"]
    assert [g["weight_decay"] for g in groups] == [g["weight_decay"] for g in golden]
    assert [g["names"] for g in groups] == [g["params"] for g in golden]
