"""CIFAR-stem ResNets, projector and an official checkpoint against the numbers of the BNS + IP-DPP code."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from weight_rule import container

from lt import models
from lt.config import load
from lt.models import convert, heads
from lt.schema import Run
from lt.stages import importing
from lt.stages.common import Recipe
from lt.stages.recipe import of_stage

DATA = Path(__file__).parent / "ipdpp"
CASES = [("r18", "c10", 3, "resnet18_cifar"), ("r34", "c100", 2, "resnet34_cifar")]


@pytest.fixture(scope="module")
def z():
    return np.load(DATA / "models.npz")


def network(arch, classes, tensors, **options):
    """Our network holding a published state dict, imported as a checkpoint would be."""
    model = models.build(arch, classes, **options)
    state = convert.LAYOUTS["ipdpp"]({"model": container(tensors)})
    convert.load_state(model, state)
    return model, state


def close(a, b, atol):
    np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=atol)


@pytest.mark.parametrize(("size", "classes", "batch", "arch"), CASES)
def test_networks(z, size, classes, batch, arch):
    table = json.loads((DATA / "models.json").read_text())
    tag = f"{size}_{classes}_b{batch}"
    x = torch.from_numpy(z[f"{tag}_x"]).float()
    number = int(classes[1:])
    simclr, state = network(arch, 128, table[f"{size}_simclr"]["tensors"], head="projector")
    assert list(state) == list(simclr.state_dict())
    assert sum(p.numel() for p in simclr.parameters()) == table[f"{size}_simclr"]["n_params"]
    simclr.eval()
    with torch.no_grad():
        close(simclr.features(x), z[f"{tag}_simclr_eval_feature"], 2e-6)
        close(simclr(x), z[f"{tag}_simclr_eval_proj"], 2e-6)
        simclr.train()
        features = simclr.features(x)
        close(features, z[f"{tag}_simclr_train_feature"], 2e-5)
        close(simclr.classify(features), z[f"{tag}_simclr_train_proj"], 2e-5)
    close(simclr.bn1.running_mean, z[f"{tag}_after_train_bn1_running_mean"], 2e-5)
    close(simclr.bn1.running_var, z[f"{tag}_after_train_bn1_running_var"], 2e-5)
    last = [v for k, v in simclr.state_dict().items() if k.endswith("running_var")][-1]
    close(last, z[f"{tag}_after_train_last_running_var"], 2e-5)
    assert int(simclr.bn1.num_batches_tracked) == int(z[f"{tag}_after_train_nbt"])
    for kind, key in (("linmodel", "lin"), ("base", "base")):
        model, state = network(arch, number, table[f"{size}_{classes}_{kind}"]["tensors"])
        assert list(state) == list(model.state_dict())
        with torch.no_grad():
            close(model.eval()(x), z[f"{tag}_{key}_eval_logits"], 2e-6)
            if key == "lin":
                close(model.train()(x), z[f"{tag}_lin_train_logits"], 2e-5)


class Tiny(heads.Network):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.feature_dim, self.fc = 4, nn.Linear(4, 5)

    def features(self, x):
        return self.bn1(self.conv1(x)).relu().mean((2, 3))


def test_official_checkpoint():
    model = Tiny()
    report = convert.import_state(DATA / "checkpoint_tiny.pth", model)
    assert report.layout == "ipdpp"
    expected = np.load(DATA / "checkpoint_tiny.npz")
    with torch.no_grad():
        close(model.eval()(torch.from_numpy(expected["x"])), expected["eval_logits"], 1e-6)


@pytest.mark.parametrize(("dataset", "arch"), [("cifar10_lt_if100", "resnet18"), ("cifar100_lt_if100", "resnet34")])
@pytest.mark.parametrize("stage", ["bns_lp/pretrain", "bns_lp/probe", "ipdpp/finetune"])
def test_each_of_the_six_released_files_fits_its_recipe(dataset, arch, stage, tmp_path):
    """Names and shapes of the released containers go into the network that the recipe builds, none left over."""
    method, name = stage.split("/")
    kind = "simclr" if name == "pretrain" else {"resnet18": "c10", "resnet34": "c100"}[arch] + "_linmodel"
    tensors = json.loads((DATA / "models.json").read_text())[f"r{arch[6:]}_{kind}"]["tensors"]
    state = container(tensors)
    path = tmp_path / "released.pth"
    args = argparse.Namespace(batch_size=64)
    torch.save({"model": state, "optimizer": {}, "epoch": 99, "scaler": {}, "args": args}, path)
    config = load(Path(__file__).parents[2] / "params.yaml")
    made = of_stage(config, Run(dataset, method, arch, 0), name)
    report = importing.read_into(importing.network(Recipe(made)), path)
    assert report["layout"] == "ipdpp" and report["loaded"] == len(tensors)
    assert not report["dropped"] and not report["kept"]
