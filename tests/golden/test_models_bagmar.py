"""Backbones and classifiers against the numbers of the lt-project code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_rule import fill

from lt import models
from lt.models import heads

DATA = Path(__file__).parent / "bagmar"


def load(name):
    return np.load(DATA / f"{name}.npz")


def close(a, b, rtol):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert (np.abs(a - b) <= rtol * (1 + np.abs(b))).all(), np.abs(a - b).max()


def names(model):
    return [[k, list(v.shape)] for k, v in model.state_dict().items() if not k.startswith("fc.")]


def test_resnet32():
    z, published = load("resnet32"), json.loads((DATA / "resnet32.json").read_text())
    model = fill(models.build("resnet32", 100, init="bagmar")).eval()
    assert names(model) == [row[:2] for row in published["feat_model"]]
    body = [p for n, p in model.named_parameters() if not n.startswith("fc.")]
    assert sum(p.numel() for p in body) == int(z["n_params"])
    x = torch.from_numpy(z["x"])
    with torch.no_grad():
        close(model.features(x), z["eval_features"], 1e-4)
        close(model(x), z["eval_logits"], 1e-4)
    model.train()
    features = model.features(x)
    close(features.detach(), z["train_features"], 1e-4)
    close(model.bn1.running_mean, z["train_bn1_running_mean"], 1e-4)
    close(model.bn1.running_var, z["train_bn1_running_var"], 1e-4)
    close(model.layer3[4].bn2.running_mean, z["train_l3_bn2_running_mean"], 1e-4)
    features.square().sum().backward()
    close(model.conv1.weight.grad, z["grad_conv1"], 1e-3)
    parameters = dict(model.named_parameters())
    close([parameters[n].grad.norm().item() for n in published["param_order"]], z["grad_norms"], 1e-3)


@pytest.mark.parametrize("arch", ["resnet10", "resnet50", "resnext50", "resnet152"])
def test_backbones(arch):
    z, published = load("backbones"), json.loads((DATA / "backbones.json").read_text())[arch]
    model = fill(models.build(arch, 3)).eval()
    assert names(model) == [row[:2] for row in published["state"]]
    body = [p for n, p in model.named_parameters() if not n.startswith("fc.")]
    assert sum(p.numel() for p in body) == int(z[f"{arch}/n_params"]) == published["n_params"]
    seed = int(z[f"{arch}/seed"])
    x = torch.from_numpy(np.random.RandomState(seed).randn(2, 3, 224, 224).astype(np.float32))
    with torch.no_grad():
        close(model.features(x), z[f"{arch}/eval_features"], 2e-3)
        if f"{arch}/train_features" in z:
            close(model.train().features(x), z[f"{arch}/train_features"], 2e-3)
            close(model.bn1.running_mean, z[f"{arch}/train_bn1_running_mean"], 2e-3)


def test_tau_norm():
    z = load("classifiers")
    weight, queries = torch.from_numpy(z["W"]), torch.from_numpy(z["test_feats"])
    for tau, expected in zip(z["tau_W_p"], z["tau_W"], strict=True):
        close(heads.tau_normalised(weight, float(tau)), expected, 1e-5)
    for tau in ("0.5", "1"):
        close(heads.tau_normalised(weight, float(tau)), z[f"normalizer_W_tau{tau}"], 1e-5)
    linear = torch.nn.Linear(*weight.shape[::-1]).to(weight)
    linear.weight.data.copy_(weight)
    head = heads.TauNorm.from_linear(linear, tau=1.0)
    close(head(queries).detach(), z["tau_logits_p1"], 1e-5)


@pytest.mark.parametrize("form", heads.NCM_FORMS)
@pytest.mark.parametrize("metric", list(heads.NCM_METRICS))
def test_ncm(form, metric):
    z = load("classifiers")
    features, labels = torch.from_numpy(z["train_feats"]), torch.from_numpy(z["train_labels"]).long()
    head = heads.build("ncm", 6, 5, form=form, metric=metric).fit(features, labels)
    close(head.mean, z["knn_mean"], 1e-5)
    close(head.centroids, z["knn_uncs" if form == "un" else f"knn_{form}cs"], 1e-5)
    close(head(torch.from_numpy(z["test_feats"])), z[f"knn_{form}_{metric}"], 1e-5)


@pytest.mark.parametrize("margin", [0, 1])
def test_lws(margin):
    z = load("classifiers")
    head = heads.build("lws", 6, 5, train_linear=False).double()
    state = {"weight": z["W"], "bias": z["b"], "scales": z["lws_scales"]}
    head.load_state_dict({k: torch.from_numpy(v).double() for k, v in state.items()})
    x, y = torch.from_numpy(z["lws_x"]), torch.from_numpy(z["lws_y"]).long()
    shift = torch.from_numpy(z["lws_pos_grad"]).log() if margin else None
    logits = head(x, shift)
    close(logits.detach(), z[f"lws_margin{margin}_logits_train"], 1e-10)
    loss = torch.nn.functional.cross_entropy(logits, y)
    loss.backward()
    close(loss.item(), z[f"lws_margin{margin}_loss"], 1e-10)
    close(head.scales.grad, z[f"lws_margin{margin}_grad_scales"], 1e-10)
    close(head(x).detach(), z[f"lws_margin{margin}_logits_eval"], 1e-10)
    frozen = [head.weight.requires_grad, head.bias.requires_grad]
    assert frozen == z[f"lws_margin{margin}_fc_trainable"].astype(bool).tolist()


def test_cosine():
    z = load("classifiers")
    head = heads.build("cosine", 6, 5, form="squash").double()
    assert head.scale == float(z["cos_scale"])
    head.load_state_dict({"weight": torch.from_numpy(z["cos_W"])})
    x = torch.from_numpy(z["cos_x"]).requires_grad_()
    logits = head(x)
    close(logits.detach(), z["cos_logits"], 1e-10)
    logits.square().sum().backward()
    close(x.grad, z["cos_grad_x"], 1e-10)
    close(head.weight.grad, z["cos_grad_W"], 1e-10)
