import copy
import pickle

import pytest
import torch
from torch import nn

from lt import models
from lt.errors import UserError
from lt.models.init import INITS

SMALL = [
    ("resnet8", {"in_channels": 1}, (2, 1, 8, 8)),
    ("resnet8", {"in_channels": 1}, (2, 1, 28, 28)),
    ("resnet8", {}, (1, 3, 8, 8)),
    ("resnet32", {"head": "cosine", "head_options": {"form": "normed"}}, (2, 3, 32, 32)),
    ("resnet10", {"in_channels": 1}, (2, 1, 64, 64)),
    ("resnet18_cifar", {}, (2, 3, 32, 32)),
    ("resnet18_cifar", {"in_channels": 1}, (2, 1, 8, 8)),
]


@pytest.mark.parametrize(("arch", "options", "shape"), SMALL)
def test_contract(arch, options, shape):
    model = models.build(arch, 7, seed=0, **options).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model.features(x)
        assert features.shape == (shape[0], model.feature_dim)
        assert torch.equal(model(x), model.classify(features))
        assert torch.equal(model.head(features), model(x))
        assert model(x).shape == (shape[0], 7)
    assert all(name.startswith("fc.") for name in model.state_dict() if "fc" in name)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(twin(x), model(x))


def test_names_are_torchvision_s():
    import lt.compat  # noqa: F401, I001
    from torchvision.models import resnet as reference

    for arch, name in (("resnet18", "resnet18"), ("resnet50", "resnet50"), ("resnext50", "resnext50_32x4d")):
        theirs = getattr(reference, name)(num_classes=5)
        ours = models.build(arch, 5)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_seed_fixes_weights_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    a, b, c = (models.build("resnet8", 3, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_a_user_s_mistake_is_one_line():
    for arch, options, words in (
        ("resnet33", {}, "did you mean"),
        ("alexnet", {}, "known: "),
        ("resnet8", {"widht": 3}, "did you mean 'width'"),
        ("resnet18_cifar", {"nope": 3}, "has no option 'nope'"),
        ("resnet8", {"init": "kaming"}, "unknown initialisation 'kaming'"),
        ("resnet8", {"head": "linaer"}, "did you mean 'linear'"),
        ("resnet8", {"head": "cosine", "head_options": {"form": "x"}}, "unknown form of the cosine head"),
        ("resnet8", {"head": "linear", "head_options": {"scale": 2}}, "has no option 'scale'"),
    ):
        with pytest.raises(UserError, match=words) as error:
            models.build(arch, 3, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="at least 1"):
        models.build("resnet8", 0)


@pytest.mark.parametrize("init", list(INITS))
def test_initialisations(init):
    model = models.build("resnet18_cifar", 10, init=init, seed=0)
    conv = model.layer4[1].conv1.weight  # 512 -> 512, 3x3: fan-in and fan-out are both 4608
    expected = (1 / 3 / 4608) ** 0.5 if init == "library" else (2 / 4608) ** 0.5
    assert conv.std().item() == pytest.approx(expected, rel=0.01)
    stem = model.conv1.weight  # 3 -> 64: fan-in 27, fan-out 576
    fan = {"library": 3 * 27}.get(init, 27 / 2 if INITS[init].__name__.startswith("fan_in") else 576 / 2)
    assert stem.std().item() == pytest.approx(fan**-0.5, rel=0.1)
    linear = (2 / 512) ** 0.5 if INITS[init].__name__ == "fan_in" else (1 / 3 / 512) ** 0.5
    assert model.fc.weight.std().item() == pytest.approx(linear, rel=0.05)
    gamma = 0 if init.endswith("zero_gamma") else 1
    assert (model.layer2[0].bn2.weight == gamma).all() and (model.layer2[0].bn1.weight == 1).all()
    assert (model.bn1.weight == 1).all() and (model.layer2[0].downsample[1].weight == 1).all()


def grown_means(model):
    """Which normalisations moved their running means in one training forward."""
    before = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("running_mean")}
    model.train()
    model(torch.randn(4, 3, 16, 16) + 3)
    after = model.state_dict()
    return {k.removesuffix(".running_mean") for k, v in before.items() if not torch.equal(v, after[k])}


def test_freeze():
    model = models.build("resnet8", 5, seed=0)
    everything = {n for n, _ in model.named_parameters()}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(models.freeze(model)) == everything
    assert grown_means(model) == norms
    assert models.freeze(model, train="head", bn="train") == ["fc.weight", "fc.bias"]
    assert grown_means(model) == norms  # shifted BN: statistics move, gamma and beta do not learn
    assert models.freeze(model, train="head", bn="eval") == ["fc.weight", "fc.bias"]
    assert grown_means(model) == set() and model.training
    out = model(torch.randn(2, 3, 16, 16)).sum()
    out.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {"fc.weight", "fc.bias"}
    assert grown_means(copy.deepcopy(model)) == set()
    assert set(models.freeze(model, train="all", bn="train")) == everything  # and back
    assert grown_means(model) == norms


def test_freeze_keeps_what_the_head_freezes():
    model = models.set_head(models.build("resnet8", 5, seed=0), "lws", train_linear=False)
    assert models.freeze(model, train="head") == ["fc.scales"]
    models.set_head(model, "lws")
    assert models.freeze(model, train="head") == ["fc.weight", "fc.bias", "fc.scales"]


def test_freeze_two_parts():
    model = models.build("resnet152_places", 6, layers=(1, 1, 1, 2), seed=0)
    assert model.block_name == "layer4.1" and model.block is model.layer4[1]
    block = {"layer4.1.bn1", "layer4.1.bn2", "layer4.1.bn3"}
    own = [n for n, _ in model.named_parameters() if n.startswith(("layer4.1.", "fc."))]
    assert grown_means(model) == block  # the backbone stays in eval mode, asked or not
    for train, bn, learns, moves in (
        ("block+head", "train", own, block),
        ("all", "train", own, block),
        ("head", "train", own[-2:], block),
        ("head", "eval", own[-2:], set()),
    ):
        assert models.freeze(model, train=train, bn=bn) == learns
        assert grown_means(model) == moves
    # the block does not start as torchvision's blocks do
    assert model.block.conv2.weight.std() < 0.7 * model.layer4[0].conv2.weight.std()


def test_freeze_refuses():
    model = models.build("resnet8", 5)
    with pytest.raises(UserError, match="has no block"):
        models.freeze(model, train="block+head")
    with pytest.raises(UserError, match="did you mean 'head'"):
        models.freeze(model, train="heads")
    with pytest.raises(UserError, match="bn: 'off'"):
        models.freeze(model, bn="off")


def test_set_head():
    model = models.build("resnet8", 5, seed=0)
    weight, x = model.fc.weight.clone(), torch.randn(2, 3, 8, 8)
    before = model.eval()(x)
    models.set_head(model, "lws")
    assert torch.equal(model.fc.weight, weight) and torch.equal(model(x), before)  # scales start at 1
    models.set_head(model, "tau_norm", tau=0.0)
    assert torch.allclose(model(x), model.features(x) @ weight.T)
    models.set_head(model, "linear", inherit=False, seed=3)
    assert not torch.equal(model.fc.weight, weight)
    models.set_head(model, "linear", num_classes=9, seed=3)
    assert model(x).shape == (2, 9)
    models.set_head(model, nn.Linear(64, 2))
    assert model(x).shape == (2, 2) and model.head is model.fc


def test_gradients_agree_with_float64():
    model = models.build("resnet8", 4, seed=0).train()
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    double = copy.deepcopy(model).double()
    model(x).square().mean().backward()
    double(x.double()).square().mean().backward()
    for (name, a), b in zip(model.named_parameters(), double.parameters(), strict=True):
        scale = b.grad.abs().max()
        assert (a.grad - b.grad).abs().max() <= 1e-4 * scale + 1e-6, name
