"""What is frozen and what batch normalisation does, step by step, against the MiSLAS and BTM code.

The steps are made by what a training stage calls: its recipe's numbers, network, loss, mix, groups of rates, schedule,
number of batches and loop. Only weights, images and the generators' own bits are the published ones.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from weight_rule import value

from lt import engine
from lt.config import Run, load
from lt.stages.batches import steps_of
from lt.stages.common import Recipe
from lt.stages.recipe import of_stage
from lt.stages.train import Job
from lt.tasks import mixing

DATA = Path(__file__).parent / "btm"
CONFIG = load(Path(__file__).resolve().parents[2] / "params.yaml")
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


class Recorded(torch.nn.Module):
    """A loss that keeps its values in call order."""

    def __init__(self, loss):
        super().__init__()
        self.loss, self.values = loss, []

    def forward(self, logits, target):
        found = self.loss(logits, target)
        self.values.append(found.item())
        return found


class Batches:
    """The case's batches in place of the loader; the stage's rule says how many of them make an epoch."""

    batch_size = 4

    def __init__(self, images, targets, steps):
        assert steps <= len(targets)
        self.batches = [{"image": x, "target": y} for x, y in zip(images[:steps], targets[:steps], strict=True)]

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, start=0):
        yield from self.batches[start:]


def published_draws(z, case):
    """numpy's global generator draws lam, torch's the permutation."""
    lams = np.random.RandomState(int(z[f"{case}__np_seed"]))
    perms = torch.Generator().manual_seed(int(z[f"{case}__torch_seed"]))
    permutation = lambda n: torch.randperm(n, generator=perms).numpy()
    return SimpleNamespace(beta=lams.beta, permutation=permutation)


def trained(z, case, run, stage, monkeypatch, *, size, images, counts, epoch=0, **changes):
    """One epoch of the recipe's stage from weights by the rule, as `lt.stages.train` puts it together."""
    raw = of_stage(CONFIG, Run.parse(f"{run}/seed0"), stage)
    raw["params"] = {**raw["params"], "batch": 4, "pretrained": None, **changes}
    raw["data"] = {**raw["data"], "num_classes": len(counts)}
    job = Job.__new__(Job)
    job.recipe, job.params, job.device, job.seed = Recipe(raw), raw["params"], torch.device("cpu"), 0
    job.split = SimpleNamespace(class_counts=np.array(counts))
    model = job._model(None)
    job.model = filled(model, getattr(model, "block_name", None))
    targets = torch.from_numpy(z[f"{case}__targets"]).long()
    x = np.random.RandomState(int(z[f"{case}__seed_x"])).randn(*targets.shape, 3, size, size)
    job.loader = Batches(torch.from_numpy(x), targets, steps_of(job.params["steps"], images, 4))
    job.settings = job._settings()
    job.state = job._state(None)
    job.state.task.loss = loss = Recorded(job.state.task.loss)
    draws = published_draws(z, case)
    monkeypatch.setattr(mixing, "stream", lambda *keys: draws)
    job.state.epoch = epoch
    rates = []
    hooks = engine.Hooks(after_step=lambda state: rates.append([g["lr"] for g in state.optimizer.param_groups]))
    engine.fit(job.state, SimpleNamespace(**{**vars(job.settings), "epochs": epoch + 1}), hooks, engine.Stop())
    assert len(rates) == len(job.loader)
    expected = sorted({float(rate) for rate in z[f"{case}__lr"]}) if f"{case}__lr" in z else None
    for found in rates:
        assert expected is None or sorted(found) == pytest.approx(expected, rel=1e-12)
    return job.model, loss.values


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


CIFAR = {"size": 32, "counts": CIFAR10_IF100}


@pytest.mark.parametrize("case", ["s1_mix", "s1_mix_cos", "s1_plain"])
def test_stage_one_learns_everything(z, case, monkeypatch):
    epoch, epochs, cos, mixed, alpha, decay = z[f"{case}__epoch_E_cos_mix_alpha_wd"].tolist()
    changes = {
        "epochs": int(epochs),
        "schedule": {"name": "cosine_mislas" if cos else "step_mislas"},
        "mix": {"name": "mixup", "alpha": alpha} if mixed else None,
        "weight_decay": decay,
    }
    run = "cifar10_lt_if100/mislas/resnet32"
    known = CONFIG.stage(Run.parse(f"{run}/seed0"), "stage1").params.model_dump()
    if case == "s1_mix":  # the released CIFAR-10 file itself
        assert {k: known[k] for k in changes} == changes
    given = {**CIFAR, "images": 12, "epoch": int(epoch), **changes}
    for stage in [(run, "stage1"), (run.replace("mislas", "btm"), "branch")]:
        check(z, case, *trained(z, case, *stage, monkeypatch, **given))


@pytest.mark.parametrize("case", ["s2_shift", "s2_noshift"])
def test_stage_two_shifts_statistics_or_not(z, case, monkeypatch):
    """One batch more than the images fill; the classifier at the slow rate, the scales at the full one."""
    epoch, factor, *_ = z[f"{case}__epoch_lrfactor_shift_mix"].tolist()
    changes = {} if case == "s2_noshift" else {  # the released CIFAR-10 file, factor 100, is s2_noshift
        "bn": "train", "groups": {"name": "all", "lr_scales": {"fc.weight": factor, "fc.bias": factor}}}  # fmt: skip
    run = "cifar10_lt_if100/mislas/resnet32"
    given = {**CIFAR, "images": int(z[f"{case}__n_dataset"]), "epoch": int(epoch), **changes}
    model, values = trained(z, case, run, "stage2", monkeypatch, **given)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias", "fc.scales"]
    assert len(values) == 4 == steps_of("ceil", given["images"], 4) + 1
    check(z, case, model, values)


PLACES = {"size": 64, "counts": PLACES_TOY, "options": {"layers": (1, 1, 1, 2)}}


@pytest.mark.parametrize("stage", ["mislas/stage1", "btm/branch"])
def test_places_learns_block_and_classifier(z, stage, monkeypatch):
    method, name = stage.split("/")
    given = {**PLACES, "images": 12}
    model, values = trained(z, "pl_s1", f"places_lt/{method}/resnet152_places", name, monkeypatch, **given)
    check(z, "pl_s1", model, values, model.block_name)


def test_places_stage_two_shifts_the_block_only(z, monkeypatch):
    given = {**PLACES, "images": 9}
    model, values = trained(z, "pl_s2", "places_lt/btm/resnet152_places", "stage2", monkeypatch, **given)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias", "fc.scales"]
    check(z, "pl_s2", model, values, model.block_name)
