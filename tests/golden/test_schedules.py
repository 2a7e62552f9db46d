"""Learning rates of every published configuration, and the optimiser groups of IP-DPP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lt.optim import Lars, param_groups, schedule, warmup_cosine_at

HERE = Path(__file__).parent
BAGMAR = np.load(HERE / "bagmar" / "schedules.npz")
BTM = np.load(HERE / "btm" / "schedules.npz")
RIDE = np.load(HERE / "ride" / "misc.npz")
LIVT = np.load(HERE / "livt" / "schedule.npz")
IPDPP = np.load(HERE / "ipdpp" / "schedule.npz")
LARS = np.load(HERE / "ipdpp" / "lars.npz")


def rates(name: str, *, lr: float, epochs: int, **options: object) -> np.ndarray:
    rate = schedule(name, lr=lr, epochs=epochs, steps_per_epoch=3, **options)
    assert rate(0, 0) == rate(0, 2) or name == "mae"
    return np.array([rate(e, 0) for e in range(epochs)])


@pytest.mark.parametrize("case", ["gala_cifar", "bs_cifar_592"])
def test_cosine_with_warmup_of_bagmar(case: str) -> None:
    epochs, warmup = BAGMAR[case + "/args"].tolist()
    got = rates("coslrwarmup", lr=0.1, base_lr=0.05, epochs=len(BAGMAR[case + "/lr_per_epoch"]), warmup_epochs=warmup)
    np.testing.assert_allclose(got, BAGMAR[case + "/lr_per_epoch"][:, 0], rtol=1e-12, atol=1e-17)
    assert epochs == len(got)
    assert got[-1] == 0.0


@pytest.mark.parametrize("case", ["inet_decoupled", "inet_stage1", "inat_decoupled", "places_crt"])
def test_cosine_stepped_first_of_bagmar(case: str) -> None:
    want = BAGMAR[case + "/lr_per_epoch"]
    for group, lr in enumerate(BAGMAR[case + "/initial_lr"]):
        np.testing.assert_allclose(rates("coslr", lr=lr, epochs=len(want)), want[:, group], rtol=1e-12, atol=1e-17)


def test_steps_of_bagmar() -> None:
    want = BAGMAR["step/lr_per_epoch"][:, 0]
    got = rates("step", lr=0.2, epochs=len(want), step_size=3, gamma=0.1, stepped_first=True)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("case", BTM.files)
def test_mislas(case: str) -> None:
    want = BTM[case]
    name = "step_mislas" if "_step_" in case else "cosine_mislas"
    factor = float(case.split("_f")[1].split("_")[0]) if "_f" in case else 1.0
    got = rates(name, lr=0.1, epochs=len(want))
    np.testing.assert_allclose(got, want[:, 1], rtol=1e-15, atol=0)
    np.testing.assert_allclose(got * factor, want[:, 0], rtol=1e-15, atol=0)


def ride_arguments(key: str) -> tuple[str, float, dict[str, object]]:
    """Base rate and options of a configuration, from its name (method card 3.1 and 3.2)."""
    _, _, entry, config = key.split("/")
    if config.endswith("_ea"):
        return "cosine", 0.01, {}
    lr = 0.2 if "iNaturalist" in config else 0.1
    if config.endswith("_cos") or config.endswith("ride_dist1"):
        return "coslr_official", lr, {"entry": entry}
    cifar = "cifar100" in config
    warmup = 20 if cifar and "distill" in config else 5
    steps = {"step1": 160, "step2": 180, "gamma": 0.01} if cifar else {"step1": 60, "step2": 80, "gamma": 0.1}
    return "ride", lr, {**steps, "warmup_epochs": warmup}


@pytest.mark.parametrize("key", [k for k in RIDE.files if k.startswith("lr/")])
def test_every_ride_configuration(key: str) -> None:
    name, lr, options = ride_arguments(key)
    np.testing.assert_allclose(rates(name, lr=lr, epochs=len(RIDE[key]), **options), RIDE[key], rtol=1e-12)


@pytest.mark.parametrize("case", sorted({k.split("/")[0] for k in LIVT.files}))
def test_livt(case: str) -> None:
    lr, floor, warmup, epochs, loader, accumulate = LIVT[case + "/cfg"].tolist()
    got = [warmup_cosine_at(t, lr=lr, epochs=epochs, warmup_epochs=warmup, min_lr=floor) for t in LIVT[case + "/epoch"]]
    np.testing.assert_allclose(got, LIVT[case + "/lr"], rtol=1e-12)
    rate = schedule(
        "mae",
        lr=lr,
        epochs=int(epochs),
        steps_per_epoch=int(loader // accumulate),
        warmup_epochs=warmup,
        min_lr=floor,
        accumulate=int(accumulate),
        micro_batches=int(loader),
    )
    for epoch, mean in LIVT[case + "/epoch_mean"]:  # the rate in force, over the micro-steps of an epoch
        in_force = [rate(int(epoch), micro // int(accumulate)) for micro in range(int(loader))]
        assert np.mean(in_force) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("case", [k.removesuffix("_cfg") for k in IPDPP.files if k.endswith("_cfg")])
def test_ipdpp(case: str) -> None:
    lr, floor, warmup, epochs, iterations = IPDPP[case + "_cfg"].tolist()
    rate = schedule(
        "mae", lr=lr, epochs=int(epochs), steps_per_epoch=int(iterations), warmup_epochs=warmup, min_lr=floor
    )
    places = [(int(t), round((t - int(t)) * iterations)) for t in IPDPP[case + "_epoch"]]
    got = np.array([rate(epoch, step) for epoch, step in places])
    np.testing.assert_allclose(got, IPDPP[case + "_lr"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got * 0.25, IPDPP[case + "_lr_scaled025"], rtol=0, atol=1e-15)


def test_lars() -> None:
    lr, decay, momentum, trust = LARS["cfg"].tolist()
    names = ["w", "c", "b", "z"]
    parameters = [torch.nn.Parameter(torch.tensor(LARS["p0_" + n])) for n in names]
    optimiser = Lars(parameters, lr=lr, weight_decay=decay, momentum=momentum, trust=trust)
    for step in range(4):
        for name, p in zip(names, parameters, strict=True):
            p.grad = torch.tensor(LARS[f"g{step}_{name}"])
        optimiser.step()
        for name, p in zip(names, parameters, strict=True):
            np.testing.assert_allclose(p.detach(), LARS[f"p{step + 1}_{name}"], rtol=1e-12, atol=1e-15)


def test_decay_groups_of_ipdpp_keep_the_published_order() -> None:
    published = json.loads((HERE / "ipdpp" / "param_groups.json").read_text())
    for stage, groups in published.items():
        if not isinstance(groups, dict) or "no_decay" not in groups:
            continue
        model = torch.nn.Module()
        for name in [*groups["no_decay"], *groups["decay"]]:
            *path, last = name.split(".")
            place = model
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, torch.nn.Module())
                place = getattr(place, part)
            shape = (2,) if name in groups["no_decay"] else (2, 2)
            place.register_parameter(last, torch.nn.Parameter(torch.zeros(shape)))
        got = param_groups(model, weight_decay=0.05, rule="no_decay_1d")
        assert [g["weight_decay"] for g in got] == [0.0, 0.05], stage
        assert set(got[0]["names"]) == set(groups["no_decay"])
        assert set(got[1]["names"]) == set(groups["decay"])
