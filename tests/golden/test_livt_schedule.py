"""Learning rates: the official function, and the lr columns of the six published logs."""

import numpy as np
import pytest
from livt_nets import DATA

from lt import optim

GOLDEN = np.load(DATA / "schedule.npz")
LOGS = np.load(DATA / "published_logs.npz")
NAMES = sorted({key.split("/")[0] for key in GOLDEN.files})

# what the published runs used: lr, warm-up, epochs, least lr, micro-batches an epoch, accumulation
PUBLISHED = {
    "pretrain/ImageNet-LT/224": (6e-4, 40, 800, 0.0, 226, 2),
    "pretrain/iNat18/128": (1.8e-3, 40, 800, 0.0, 569, 4),
    "finetune/ImageNet-LT/224": (1e-3, 5, 100, 1e-6, 905, 4),
    "finetune/ImageNet-LT/384": (2e-3, 5, 100, 1e-6, 905, 8),
    "finetune/iNat18/224": (8e-3, 5, 100, 1e-6, 1709, 8),
    "finetune/iNat18/384": (4e-3, 5, 100, 1e-6, 3418, 8),
}


def epoch_mean(epoch: int, lr: float, warmup: float, epochs: int, min_lr: float, micro: int, accum: int) -> float:
    """Mean over the micro-steps of the rate in force; the dropped last group has a rate of its own, too."""
    rate = optim.schedule(
        "mae",
        lr=lr,
        epochs=epochs,
        steps_per_epoch=micro // accum,
        warmup_epochs=warmup,
        min_lr=min_lr,
        accumulate=accum,
        micro_batches=micro,
    )
    updates = [rate(epoch, step) for step in range(-(-micro // accum))]
    return float(np.repeat(updates, accum)[:micro].mean())


@pytest.mark.parametrize("name", NAMES)
def test_official_function(name: str) -> None:
    lr, min_lr, warmup, epochs, micro, accum = (float(v) for v in GOLDEN[f"{name}/cfg"])
    ours = np.array(
        [
            optim.warmup_cosine_at(float(t), lr=lr, epochs=epochs, warmup_epochs=warmup, min_lr=min_lr)
            for t in GOLDEN[f"{name}/epoch"]
        ]
    )
    np.testing.assert_allclose(ours, GOLDEN[f"{name}/lr"], rtol=1e-12)
    np.testing.assert_allclose(np.outer(ours, [0.75, 1.0, 1.0]), GOLDEN[f"{name}/group_lr"], rtol=1e-12)
    for epoch, mean in GOLDEN[f"{name}/epoch_mean"]:
        found = epoch_mean(int(epoch), lr, warmup, int(epochs), min_lr, int(micro), int(accum))
        assert found == pytest.approx(mean, rel=1e-12, abs=0)


@pytest.mark.parametrize("run", PUBLISHED)
def test_published_logs(run: str) -> None:
    column = LOGS[f"{run}/train_lr"]
    epochs = PUBLISHED[run][2]
    assert len(column) == epochs
    ours = [epoch_mean(epoch, *PUBLISHED[run]) for epoch in range(epochs)]
    np.testing.assert_allclose(ours, column, rtol=1e-13, atol=0)
