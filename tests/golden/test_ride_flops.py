"""GMACs against the released tool (thop 0.1.1.post2209072238)."""

import json
from pathlib import Path

import pytest

from lt import models
from lt.flops import count, gmacs

GOLDEN = json.loads((Path(__file__).parent / "ride" / "flops.json").read_text())
CLASSES = {"c100": 100, "imlt": 1000, "inat": 8142}
NETS = {"ResNet32": "resnet32", "ResNet10": "resnet10", "ResNet50": "resnet50", "ResNeXt50": "resnext50"}
PLAIN = [name for name, case in GOLDEN.items() if isinstance(case, dict) and "decomposition" in case]


def build(name: str, **options: object):
    model, _, *words = GOLDEN[name]["args"]
    given = dict(zip(words[::2], words[1::2], strict=True))
    classes = CLASSES[name.split("_")[0]]
    arch = NETS[model.removesuffix("EAModel").removesuffix("Model")]
    experts = int(given["--num_experts"])
    if experts > 1:
        return models.build(f"ride_{arch}", classes, experts=experts, **options)
    head = {"head": "cosine", "head_options": {"form": "normed"}} if "--use_norm" in given else {}
    return models.build(arch, classes, **head)


def size(name: str) -> tuple[int, int, int]:
    side = 32 if name.startswith("c100") else 224
    return 3, side, side


@pytest.mark.parametrize("name", PLAIN)
def test_networks(name: str) -> None:
    net, parts = build(name), GOLDEN[name]["decomposition"]
    counted = count(net, size(name))
    assert counted.conv == parts["conv_macs"]
    assert counted.norm == parts["bn_elems"]
    assert counted.linear == parts["linear_macs"]
    assert counted.cosine == parts["normed_linear_macs"]
    assert counted.pool == parts["pool_out_elems"]
    assert sum(p.numel() for p in net.parameters()) == parts["params"]
    assert counted.published() / 1e9 == pytest.approx(GOLDEN[name]["check_conv+4bn+linear+pool"], rel=1e-9)
    assert gmacs(net, size(name))["published"] == pytest.approx(GOLDEN[name]["gmacs"], rel=1e-9)


def test_routed_network() -> None:
    """The released tool builds its routed networks with 5 top logits, whatever the recipe says."""
    name = "c100_r32ea_e3_40.99_9.47_49.54"
    shares = [float(p) / 100 for p in GOLDEN[name]["args"][-1].split(",")]
    ours = gmacs(build(name, router=True, top_k=5), size(name), shares=shares)
    assert ours["published"] == pytest.approx(GOLDEN[name]["gmacs"], rel=1e-9)
