"""Learning rate of every epoch of every released RIDE and BatchFormer configuration."""

from pathlib import Path

import numpy as np
import pytest

from lt.optim import schedule

MISC = np.load(Path(__file__).parent / "ride" / "misc.npz")
STEPS = np.load(Path(__file__).parent / "ride" / "train_steps.npz")
CONFIGS = [key for key in MISC.files if key.startswith("lr/")]


def settings(key: str) -> tuple[str, float, dict]:
    """Schedule, base rate and options of a configuration, from its family."""
    _, _, entry, name = key.split("/")
    lr = 0.2 if "iNaturalist" in name else 0.1
    if name.endswith("_ea"):
        return "cosine", 0.01, {}
    if name.endswith(("_cos", "_dist1")):
        return "coslr_official", lr, {"warmup_epochs": 5, "entry": entry}
    if "cifar100" in name:
        warmup = 20 if "distill" in name else 5
        return "ride", lr, {"step1": 160, "step2": 180, "gamma": 0.01, "warmup_epochs": warmup}
    return "ride", lr, {"step1": 60, "step2": 80, "gamma": 0.1, "warmup_epochs": 5}


@pytest.mark.parametrize("key", CONFIGS)
def test_every_configuration(key: str) -> None:
    name, lr, options = settings(key)
    rate = schedule(name, lr=lr, epochs=len(MISC[key]), steps_per_epoch=10, **options)
    ours = [rate(epoch, 3) for epoch in range(len(MISC[key]))]
    np.testing.assert_allclose(ours, MISC[key], rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize(
    ("run", "name", "options"),
    [
        ("stage1_ride", "ride", {"step1": 2, "step2": 3, "gamma": 0.1, "warmup_epochs": 2}),
        ("ea_fresh", "cosine", {}),
        ("bf_ea_resumed", "coslr", {}),  # the BatchFormer code runs its second stage one epoch ahead
        ("bf_coslr", "coslr_official", {"warmup_epochs": 1}),
    ],
)
def test_in_force_during_the_steps(run: str, name: str, options: dict) -> None:
    theirs = STEPS[f"{run}/lr_per_step"]
    epochs = len(theirs) // 2
    rate = schedule(name, lr=0.01, epochs=epochs, steps_per_epoch=2, **options)
    ours = [rate(step // 2, step) for step in range(len(theirs))]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-17)
