"""The published training loop in float64: BaGMar+PN on a ResNet-32, and the classifier re-trained with it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from weight_rule import fill

from lt import models, optim, posthoc
from lt.losses import build
from lt.sampling.samplers import build as build_sampler

RUN = np.load(Path(__file__).parent / "bagmar" / "train_e2e.npz")
BATCH, CLASSES = 8, 4
TRAIN, TARGET = torch.from_numpy(RUN["train_x"].astype(np.float64)), torch.from_numpy(RUN["train_y"]).long()
VAL, VAL_TARGET = torch.from_numpy(RUN["val_x"].astype(np.float64)), RUN["val_y"]


def close(actual: object, expected: np.ndarray) -> None:
    actual = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual, dtype=np.float64)
    worst = np.max(np.abs(actual - expected) / (1 + np.abs(expected)))
    assert worst <= 1e-6, f"off by {worst:.1e}"


def network() -> torch.nn.Module:
    return fill(models.build("resnet32", CLASSES, init="bagmar")).double()


def train(case: str, model: torch.nn.Module, *, loss, rate, epochs: int, order) -> list[np.ndarray]:
    """Follow the run step by step; returns the logits of the validation images after every epoch."""
    groups = optim.param_groups(model, weight_decay=5e-4)
    optimiser = optim.optimizer("sgd", groups, momentum=0.9)
    steps, logits, done = len(TARGET) // BATCH, [], 0
    for epoch in range(epochs):
        model.train()
        loss.set_epoch(epoch)
        indices = order(epoch, steps * BATCH)
        for step in range(steps):
            pick = indices[step * BATCH : (step + 1) * BATCH]
            np.testing.assert_array_equal(TARGET[pick], RUN[case + "/step_labels"][done])
            for group in optimiser.param_groups:
                group["lr"] = rate(epoch, step) * group["lr_scale"]
            close(optimiser.param_groups[0]["lr"], RUN[case + "/step_lr"][done])
            value = loss(model(TRAIN[pick]), TARGET[pick])
            close(value, RUN[case + "/step_loss"][done])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            done += 1
        model.eval()
        with torch.no_grad():
            logits.append(model(VAL).numpy())
    assert done == len(RUN[case + "/step_loss"])
    return logits


def check(case: str, model: torch.nn.Module, loss: torch.nn.Module, logits: list[np.ndarray]) -> None:
    for epoch, found in enumerate(logits):
        close(found, RUN[case + "/val_logits"][epoch])
        normalised, micro = RUN[case + "/evals"][epoch][:2]
        assert normalised == 1
        scores = posthoc.prediction_normalisation(found, 1.0)
        assert (scores.argmax(1) == VAL_TARGET).mean() == pytest.approx(micro, abs=1e-12)
    body = [v for n, v in model.state_dict().items() if not n.startswith("fc.")]
    close([float(v.double().sum()) for v in body], RUN[case + "/last_feat_sum"])
    close(model.fc.weight, RUN[case + "/last_fc_w"])
    close(model.fc.bias, RUN[case + "/last_fc_b"])
    close(model.bn1.running_mean, RUN[case + "/last_bn1_mean"])
    close(model.bn1.running_var, RUN[case + "/last_bn1_var"])
    assert int(model.bn1.num_batches_tracked) == int(RUN[case + "/last_nbt"])
    close(loss.theta, RUN[case + "/cls_pos"])
    close(loss.totals[2], RUN[case + "/cls_neg"])
    close(loss.phi, RUN[case + "/sample_neg"])
    close(loss.sums[0], np.diag(RUN[case + "/fine"]))


def test_bagmar_with_prediction_normalisation() -> None:
    loss = build("bagmar", class_counts=torch.bincount(TARGET), lambda1=1.2, lambda2=0.9)
    model = network()
    rate = optim.schedule("coslrwarmup", lr=0.1, epochs=3, steps_per_epoch=3, warmup_epochs=2, base_lr=0.05)
    logits = train("gala_pn", model, loss=loss, rate=rate, epochs=3, order=lambda epoch, length: np.arange(length))
    check("gala_pn", model, loss, logits)


def test_classifier_retrained_on_a_frozen_backbone_that_stays_in_train_mode() -> None:
    loss = build("bagmar", class_counts=torch.bincount(TARGET))
    model = network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))
    sampler = build_sampler("class_aware", labels=TARGET, num_classes=CLASSES, source=random.Random(3), k=2)
    rate = optim.schedule("coslr", lr=0.12, epochs=2, steps_per_epoch=3)

    def order(epoch: int, length: int) -> np.ndarray:  # the published loop fetches one batch more and drops it
        return sampler.epoch(epoch, length + BATCH)[:length]

    logits = train("crt_gala", model, loss=loss, rate=rate, epochs=2, order=order)
    check("crt_gala", model, loss, logits)
