"""A few optimiser steps of whole stages (teacher, BatchFormer, router) against the released code's main loop."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ride_nets import build, fill, images, official_name, rule, state_by_official_name
from torch import Tensor, nn

from lt.losses.balanced import balanced_softmax
from lt.losses.base import class_vector
from lt.losses.experts import Ride, balanced_softmax_two_streams, over_streams, router_loss, router_targets
from lt.losses.margin import Ldam
from lt.models.batchformer import BatchFormer, encoder_layers, stream_weights, two_stream_features

HERE = Path(__file__).parent / "ride"
DATA, INFO = np.load(HERE / "train_steps.npz"), json.loads((HERE / "train_steps.json").read_text())
ORDERS = INFO["_orders"]
RUNS = {k: v for k, v in INFO.items() if not k.startswith("_") and k != "bf_add22"}
OURS = {"additional_diversity_factor": "diversity_factor"}


class Stage:
    """What a step of this run minimises, from the pieces of `lt`."""

    def __init__(self, name: str) -> None:
        self.info = info = RUNS[name]
        self.counts = DATA[f"{name}/cls_num"]
        self.router = "EA" in info["model"]
        self.dtype = getattr(torch, info["dtype"].removeprefix("torch."))
        self.net = fill(build(info["model"], info["kwargs"])).to(self.dtype)
        self.teacher: nn.Module | None = None
        if info["distill"]:
            teacher = build(info["distill"]["model"], info["distill"]["kwargs"])
            self.teacher = fill(teacher, factor=1.1, dtype=self.dtype).train()  # never put in eval mode there
        self.weights = stream_weights(info["add_bt"], cifar=True)
        self.loss = self.make_loss()

    def make_loss(self) -> nn.Module | None:
        options = {OURS.get(k, k): v for k, v in self.info["loss"].get("args", {}).items()}
        kind = self.info["loss"]["type"]
        if kind == "LDAMLoss":
            return Ldam(class_counts=self.counts, scaled_logits=True, **options)
        if kind.startswith("RIDELoss"):
            multiplier = self.info["repo"] == "ride"
            return Ride(class_counts=self.counts, distill_expert_multiplier=multiplier, **options)
        return None

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        if self.router:
            sums, gates = self.net(x, streams=True)
            return router_loss(gates, router_targets(sums, target), pos_weight=self.info["kwargs"]["pos_weight"])
        streams = self.net(x, streams=True)
        if self.net.num_experts == 1 or not self.info["add_extra_info"]:
            return self.loss(streams[0].mean(1), target)
        extra = []
        if self.teacher is not None:
            with torch.no_grad():
                extra = [self.teacher(x)]
        return over_streams(self.loss, streams, target, *extra, weights=self.weights)


LONG = ("bf_distill", "bf_coslr", "bf_base_ce_mean")  # three experts, a teacher or many steps, all in float64


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in RUNS])
def test_stage(name: str) -> None:
    stage, info = Stage(name), RUNS[name]
    x = images(info["input_seed"], [info["n"], 3, 32, 32]).to(stage.dtype)
    target = torch.from_numpy(DATA[f"{name}/targets"])
    learns = [p for p in stage.net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learns, **info["optimizer"]["args"])
    per_epoch = info["n"] // info["batch"]
    rel = 1e-7 if stage.dtype == torch.float64 else 1e-4
    losses = []
    for step, lr in enumerate(DATA[f"{name}/lr_per_step"]):
        epoch, at = divmod(step, per_epoch)
        stage.net.train()
        if stage.loss is not None:
            stage.loss.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        rows = slice(at * info["batch"], (at + 1) * info["batch"])
        optimizer.zero_grad()
        loss = stage(x[rows], target[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, DATA[f"{name}/loss_per_step"], rtol=rel, atol=0)
    check_final(stage.net, name, ORDERS[info["final_order"]], rel=1e-6 if rel < 1e-6 else 1e-4)
    if stage.teacher is not None:
        check_teacher(stage.teacher, name)


def check_final(net: nn.Module, name: str, order: list[str], *, rel: float) -> None:
    state = {k: v.double() for k, v in state_by_official_name(net).items()}
    sums = np.array([float(state[n].sum()) for n in order])
    squares = np.array([float((state[n] ** 2).sum()) for n in order])
    np.testing.assert_allclose(squares, DATA[f"{name}/final_sumsq"], rtol=rel, atol=0)
    # a sum may cancel: compare it on the scale of the tensor's norm
    scale = np.sqrt(DATA[f"{name}/final_sumsq"])
    assert np.all(np.abs(sums - DATA[f"{name}/final_sum"]) <= rel * np.maximum(scale, 1e-12) + rel * np.abs(sums))


def check_teacher(teacher: nn.Module, name: str) -> None:
    """Weights stay, running statistics drift: the teacher ran in training mode."""
    state = {k: v.double() for k, v in state_by_official_name(teacher).items() if "num_batches" not in k}
    official = [k for k in teacher_order(state) if "num_batches" not in k]
    sums = np.array([float(state[n].sum()) for n in official])
    np.testing.assert_allclose(sums, DATA[f"{name}/teacher_final_sum"], rtol=1e-6, atol=1e-6)


def teacher_order(state: dict[str, Tensor]) -> list[str]:
    """The released order: trunk, then layer2s of every expert, layer3s of every expert, classifiers."""
    ranks = ("conv1", "bn1", "layer1", "layer2s", "layer3s", "linears")
    return sorted(state, key=lambda n: ranks.index(n.split(".")[1]))


def test_doubled_features_are_refused() -> None:
    from lt.errors import UserError

    with pytest.raises(UserError, match="add_bt 22"):
        encoder_layers(INFO["bf_add22"]["add_bt"])


def test_balanced_softmax_with_batchformer() -> None:
    data = np.load(HERE / "balanced_softmax_bf.npz")
    features = torch.from_numpy(data["features"]).requires_grad_()
    target, dim, classes = torch.from_numpy(data["target"]), features.shape[1], len(data["freq"])
    encoder, fc = BatchFormer(dim, heads=4, dropout=0.0).train(), nn.Linear(dim, classes)
    for module, prefix in ((encoder.encoder, "encoder_layers."), (fc, "fc.")):
        fill_plain(module, prefix)
    logits = fc(two_stream_features(features, encoder))
    np.testing.assert_allclose(logits.detach().numpy(), data["logits_cat"], rtol=1e-5, atol=1e-5)
    log_prior = class_vector(np.log(data["freq"].astype(np.float64)))
    loss = balanced_softmax_two_streams(logits, target, log_prior=log_prior)
    loss.backward()
    assert loss.item() == pytest.approx(float(data["loss"]), rel=1e-5)
    for half, key in zip(logits.chunk(2), ("loss_bt_half", "loss_plain_half"), strict=True):
        value = balanced_softmax(half, target, log_prior=log_prior)
        assert value.item() == pytest.approx(float(data[key]), rel=1e-5)
    np.testing.assert_allclose(features.grad.numpy(), data["grad_features"], rtol=1e-4, atol=1e-6)


def fill_plain(module: nn.Module, prefix: str) -> None:
    norms = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.LayerNorm)}
    state = module.state_dict()
    module.load_state_dict({k: rule(prefix + k, v.shape, norm_weight=k in norms) for k, v in state.items()})


def test_names_of_the_encoder_in_whole_networks() -> None:
    assert official_name("batchformer.encoder.norm1.weight", 3) == "backbone.encoder_layers.norm1.weight"
