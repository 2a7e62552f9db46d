"""Networks and learnable weight scaling against the numbers of the MiSLAS and BTM code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_rule import bn_sums, container, fill, images

from lt import models
from lt.models import convert, heads

DATA = Path(__file__).parent / "btm"


@pytest.fixture(scope="module")
def z():
    return np.load(DATA / "models.npz")


@pytest.fixture(scope="module")
def published():
    return json.loads((DATA / "models_names.json").read_text())


def relative(a, b, rtol=1e-9):
    b = np.asarray(b, np.float64)
    np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=rtol * np.abs(b).max())


def load(model, published_case):
    """The containers of an official file, through the same conversion that imports use."""
    rows = {
        key: container(((e["name"], e["shape"], e["norm_weight"]) for e in entries), late=True)
        for key, entries in published_case.items()
        if key.startswith("state_dict")
    }
    convert.load_state(model, convert.LAYOUTS["mislas"](rows))
    return model


CASES = [
    ("cifar10_resnet32", "resnet32", 10),
    ("cifar100_resnet32", "resnet32", 100),
    ("imagenet_resnet50", "resnet50", 1000),
    ("imagenet_resnet101", "resnet101", 1000),
    ("imagenet_resnet152", "resnet152", 1000),
    ("inat_resnet50", "resnet50", 8142),
]


@pytest.mark.parametrize(("case", "arch", "classes"), CASES)
def test_networks(z, published, case, arch, classes):
    model = load(models.build(arch, classes), published[case]).eval()
    counts = [sum(p.numel() for n, p in model.named_parameters() if n.startswith("fc.") == head) for head in (0, 1)]
    assert counts == z[f"{case}__nparams"].tolist()
    x = images(case, z[f"{case}__input_shape"])
    check = f"{case}__input_first8"
    np.testing.assert_array_equal(x.ravel()[:8], z[check] if check in z else z[f"{case}__input"].ravel()[:8])
    x = torch.from_numpy(x)
    with torch.no_grad():
        if f"{case}__logits_eval32" in z:
            np.testing.assert_allclose(model(x.float()), z[f"{case}__logits_eval32"], rtol=0, atol=1e-4)
        model.double()
        features = model.features(x)
        relative(features, z[f"{case}__feat_eval64"])
        stored = z[f"{case}__logits_eval64"]
        relative(model.classify(features), stored, 1e-9 if stored.dtype == np.float64 else 1e-6)
        if f"{case}__logits_train64" in z:
            relative(model.train()(x), z[f"{case}__logits_train64"])
        else:
            model.train()(x)
        relative(bn_sums(model), z[f"{case}__bn_after_train_sum_abssum"])


def test_places(z, published):
    case = "places_resnet152"
    model = load(models.build("resnet152_places", 365), published[case])
    block = sum(p.numel() for p in model.block.parameters())
    head = sum(p.numel() for p in model.head.parameters())
    total = sum(p.numel() for p in model.parameters())
    assert [total - block - head, head, block] == z[f"{case}__nparams"].tolist()
    x = torch.from_numpy(images(case, z[f"{case}__input_shape"]))
    np.testing.assert_array_equal(x.ravel()[:8], z[f"{case}__input_first8"])
    model.double().eval()
    seen = []
    hook = model.block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        relative(model(x), z[f"{case}__logits_eval64"])
        relative(seen[0].mean((2, 3)), z[f"{case}__backbone_eval64_mean"])
        hook.remove()
        before = bn_sums(model)
        relative(model.train()(x), z[f"{case}__logits_blocktrain64"])  # the backbone stays in eval mode
    relative(bn_sums(model, "layer4.2."), z[f"{case}__block_bn_after_sum_abssum"])
    relative(model.block.bn1.running_mean, z[f"{case}__block_bn1.running_mean"])
    relative(model.block.bn1.running_var, z[f"{case}__block_bn1.running_var"])
    assert (np.any(before != bn_sums(model), axis=1)).sum() == 6


def test_lws():
    losses = np.load(DATA / "losses.npz")
    x = torch.from_numpy(losses["lws__x"]).double().requires_grad_()
    classes = x.shape[1]
    head = heads.build("lws", classes, classes).double()
    scales = torch.from_numpy(losses["lws__learned_norm"]).double().flatten()
    head.load_state_dict({"weight": torch.eye(classes), "bias": torch.zeros(classes), "scales": scales})
    logits = head(x)
    relative(logits.detach(), losses["lws__out"], 1e-12)
    # label-aware smoothing by the card; eps and 1 - eps are rounded to float32 as the code stores them
    counts, (top, low) = losses["lws__counts"].astype(np.float64), losses["lws__headtail"]
    u = (counts - counts.min()) / (counts.max() - counts.min())
    eps = torch.from_numpy((low + (top - low) * np.sin(np.pi * u / 2)).astype(np.float32))
    target = torch.from_numpy(losses["lws__target"]).long()
    nll, e = -logits.log_softmax(1), eps[target]
    e, rest = e.double(), (1 - e).double()
    loss = (rest * nll.gather(1, target[:, None])[:, 0] + e * nll.mean(1)).mean()
    relative(loss.item(), losses["lws__loss64"], 1e-12)
    loss.backward()
    relative(x.grad, losses["lws__grad_x"], 1e-12)
    relative(head.scales.grad[None], losses["lws__grad_learned_norm"], 1e-12)


def test_rule_is_the_readme_s():
    model = fill(models.build("resnet32", 10))
    assert model.bn1.weight.detach().min() >= 0.5 and model.bn1.running_var.min() >= 0.5
