"""What is frozen and what batch normalisation does, step by step, against the MiSLAS and BTM code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from weight_rule import value

from lt import losses, models
from lt.data import mix

DATA = Path(__file__).parent / "btm"
CIFAR10_IF100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
PLACES_TOY = [60, 40, 25, 12, 9, 5]


@pytest.fixture(scope="module")
def z():
    return np.load(DATA / "train_steps.npz")


def filled(model, block=None):
    """Weights by the rule, seeded with the name in the published container; scales are ones."""
    norms = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    state = model.state_dict()
    for name, entry in state.items():
        theirs = name.removeprefix(f"{block}.")
        state[name] = value(theirs, entry.shape, norm_weight=name in norms, late=True)
    if "fc.scales" in state:
        state["fc.scales"] = torch.ones_like(state["fc.scales"])
    model.load_state_dict(state)
    return model.double()


def two_rates(model, lr, weight_decay):
    """MiSLAS's stage 2: the classifier at the slow rate, the scales at the full one."""
    head = model.head
    groups = [{"params": [head.weight, head.bias], "lr": lr[0]}, {"params": [head.scales], "lr": lr[1]}]
    return torch.optim.SGD(groups, lr=lr[1], momentum=0.9, weight_decay=weight_decay)


def steps(z, case, model, optimizer, loss, *, size, batches, alpha=None):
    targets = torch.from_numpy(z[f"{case}__targets"]).long()
    x = np.random.RandomState(int(z[f"{case}__seed_x"])).randn(*targets.shape, 3, size, size)
    lams = np.random.RandomState(int(z[f"{case}__np_seed"]))
    perms = torch.Generator().manual_seed(int(z[f"{case}__torch_seed"]))
    values = []
    model.train()
    for images, y in list(zip(torch.from_numpy(x), targets, strict=True))[:batches]:
        drawn = None if alpha is None else mix.draw_mixup(lams, len(y), alpha, perm_source=perms)
        logits = model(images if drawn is None else mix.apply(images, drawn))
        parts = [loss(logits, y)]
        total = parts[0]
        if drawn is not None:
            parts.append(loss(logits, y[torch.from_numpy(drawn.perm)]))
            total = drawn.lam * parts[0] + (1 - drawn.lam) * parts[1]
        values += [part.item() for part in parts]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return values


def check(z, case, model, values, block=None):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())

    close(values, z[f"{case}__crit_calls"])
    state = model.state_dict()
    inside = ("fc.", f"{block}.") if block else ("fc.",)
    parts = {
        "model": [k for k in state if not k.startswith(inside)],
        "classifier": ["fc.weight", "fc.bias"],
        "lws": [k for k in state if k == "fc.scales"],
        "block": [k for k in state if block and k.startswith(f"{block}.")],
    }
    for part, names in parts.items():
        if names:
            entries = [state[name].double() for name in names]
            close([e.sum().item() for e in entries], z[f"{case}__{part}__sum"])
            close([e.square().sum().item() for e in entries], z[f"{case}__{part}__sumsq"])


@pytest.mark.parametrize("case", ["s1_mix", "s1_mix_cos", "s1_plain"])
def test_stage_one_learns_everything(z, case):
    model = filled(models.build("resnet32", 10))
    models.freeze(model, train="all")
    *_, mixed, alpha, decay = z[f"{case}__epoch_E_cos_mix_alpha_wd"]
    lr = float(z[f"{case}__lr"][0])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=float(decay))
    loss = losses.build("cross_entropy", class_counts=CIFAR10_IF100)
    alpha = float(alpha) if mixed else None
    check(z, case, model, steps(z, case, model, optimizer, loss, size=32, batches=3, alpha=alpha))


@pytest.mark.parametrize("case", ["s2_shift", "s2_noshift"])
def test_stage_two_shifts_statistics_or_not(z, case):
    model = filled(models.set_head(models.build("resnet32", 10), "lws"))
    shift = bool(z[f"{case}__epoch_lrfactor_shift_mix"][2])
    learns = models.freeze(model, train="head", bn="train" if shift else "eval")
    assert learns == ["fc.weight", "fc.bias", "fc.scales"]
    loss = losses.build("label_aware_smoothing", class_counts=CIFAR10_IF100, head=0.3, tail=0.0)
    optimizer = two_rates(model, z[f"{case}__lr"].tolist(), 2e-4)
    check(z, case, model, steps(z, case, model, optimizer, loss, size=32, batches=4))


def places(head="linear"):
    return models.build("resnet152_places", 6, layers=(1, 1, 1, 2), head=head)


def test_places_stage_one_learns_block_and_classifier(z):
    model = places()
    filled(model, model.block_name)
    models.freeze(model, train="block+head")
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learns, lr=0.1, momentum=0.9, weight_decay=5e-4)
    loss = losses.build("cross_entropy", class_counts=PLACES_TOY)
    values = steps(z, "pl_s1", model, optimizer, loss, size=64, batches=3, alpha=0.2)
    check(z, "pl_s1", model, values, model.block_name)


def test_places_stage_two_shifts_the_block_only(z):
    model = places("lws")
    filled(model, model.block_name)
    assert models.freeze(model, train="head", bn="train") == ["fc.weight", "fc.bias", "fc.scales"]
    loss = losses.build("label_aware_smoothing", class_counts=PLACES_TOY, head=0.4, tail=0.1)
    optimizer = two_rates(model, [0.1 * 0.05, 0.1], 5e-4)
    values = steps(z, "pl_s2", model, optimizer, loss, size=64, batches=4, alpha=0.2)
    check(z, "pl_s2", model, values, model.block_name)
