"""Index streams of the published samplers, draw by draw."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lt.sampling.samplers import build

HERE = Path(__file__).parent
BAGMAR = np.load(HERE / "bagmar" / "samplers.npz")
BALMS = np.load(HERE / "bagmar" / "balms_meta.npz")
BTM = np.load(HERE / "btm" / "samplers.npz")
RIDE = np.load(HERE / "ride" / "misc.npz")
LABELS = BAGMAR["labels"]
PRIORITY = {
    "progressive": {"share": None, "epochs": 9},
    "balanced": {},
    "sqrt": {"root": 2},
    # the published "priorities on" adds the class sizes to the manual weights
    "score": {"weights": BAGMAR["class_priority_score/tree0"]},
}


@pytest.mark.parametrize("k", [1, 4])
def test_class_aware_of_bagmar(k: int) -> None:
    sampler = build("class_aware", labels=LABELS, num_classes=5, source=random.Random(5), k=k)
    np.testing.assert_array_equal(sampler.epoch(0, 60), BAGMAR[f"class_aware_k{k}"])
    assert sampler.nominal_length == int(BAGMAR[f"class_aware_k{k}_len"])


def test_class_aware_over_many_rounds() -> None:
    sampler = build("class_aware", labels=LABELS, num_classes=5, source=random.Random(6), k=1)
    np.testing.assert_array_equal(sampler.epoch(0, 250), BAGMAR["class_aware_infinite"])


@pytest.mark.parametrize("case", "ab")
@pytest.mark.parametrize("k", [2, 4])
def test_class_aware_of_mislas_over_two_epochs(case: str, k: int) -> None:
    labels = BTM[f"ca_{case}__targets"]
    source = random.Random(int(BTM[f"ca_{case}__random_seed"]))
    sampler = build("class_aware", labels=labels, num_classes=labels.max() + 1, source=source, k=k)
    length = int(BTM[f"ca_{case}_k{k}__len"])
    assert sampler.nominal_length == length
    np.testing.assert_array_equal(sampler.epoch(0, length), BTM[f"ca_{case}_k{k}__epoch1"])
    saved = json.loads(json.dumps(sampler.state_dict()))
    np.testing.assert_array_equal(sampler.epoch(1, length), BTM[f"ca_{case}_k{k}__epoch2"])
    fresh = build("class_aware", labels=labels, num_classes=labels.max() + 1, source=random.Random(99), k=k)
    fresh.load_state_dict(saved)
    np.testing.assert_array_equal(fresh.epoch(1, length), BTM[f"ca_{case}_k{k}__epoch2"])


@pytest.mark.parametrize("case", "ab")
@pytest.mark.parametrize(("golden", "name"), [("bal", "inverse_frequency"), ("effn", "effective_number")])
def test_weighted_samplers(case: str, golden: str, name: str) -> None:
    labels = BTM[f"ca_{case}__targets"]
    source = torch.Generator().manual_seed(int(BTM[f"{golden}_{case}__torch_seed"]))
    sampler = build(name, labels=labels, num_classes=labels.max() + 1, source=source)
    np.testing.assert_allclose(sampler.weights, BTM[f"{golden}_{case}__weights"], rtol=1e-12)
    np.testing.assert_array_equal(sampler.epoch(0, len(labels)), BTM[f"{golden}_{case}__idx"])


@pytest.mark.parametrize("case", PRIORITY)
def test_class_priority(case: str) -> None:
    sampler = build("class_priority", labels=LABELS, num_classes=5, source=random.Random(7), **PRIORITY[case])
    prefix = f"class_priority_{case}/"
    epochs = [0] + [int(k.split("tree_e")[1]) for k in BAGMAR.files if k.startswith(prefix + "tree_e")]
    for epoch in epochs:
        suffix = f"_e{epoch}" if epoch else "0"
        np.testing.assert_allclose(sampler.weights(epoch), BAGMAR[prefix + "tree" + suffix], rtol=1e-12)
        np.testing.assert_array_equal(sampler.epoch(epoch, 30), BAGMAR[prefix + "idx" + suffix])


def test_progressive_is_class_priority_with_a_moving_share() -> None:
    sampler = build("progressive", labels=LABELS, num_classes=5, source=random.Random(7), epochs=9)
    np.testing.assert_array_equal(sampler.epoch(0, 30), BAGMAR["class_priority_progressive/idx0"])
    np.testing.assert_array_equal(sampler.epoch(1, 30), BAGMAR["class_priority_progressive/idx_e1"])


@pytest.mark.parametrize(("case", "root"), [("sqrt", 2), ("balanced", None)])
def test_mixed_priority(case: str, root: float | None) -> None:
    sampler = build("mixed_priority", labels=LABELS, num_classes=5, source=random.Random(8), root=root)
    np.testing.assert_allclose(sampler.weights, BAGMAR[f"mixed_priority_{case}/weights"], rtol=1e-12)
    np.testing.assert_array_equal(sampler.epoch(0, 30), BAGMAR[f"mixed_priority_{case}/idx0"])


@pytest.mark.parametrize("retain", [1, 0])
def test_balanced_sampler_of_ride(retain: int) -> None:
    counts = RIDE["sampler/cls_num"]
    labels = np.repeat(np.arange(len(counts)), counts)
    sampler = build("ride_balanced", labels=labels, num_classes=len(counts), source=random.Random(0))
    length = len(labels) if retain else sampler.nominal_length
    assert length == int(RIDE[f"sampler/retain{retain}/len"])
    for epoch in (1, 2):
        np.testing.assert_array_equal(sampler.epoch(epoch, length), RIDE[f"sampler/retain{retain}/epoch{epoch}"])


@pytest.mark.parametrize("power", ["0", "0.3", "1"])
def test_meta_sampler_draws(power: str) -> None:
    source = torch.Generator().manual_seed(3)
    sampler = build("meta", labels=LABELS, num_classes=5, source=source, init_pow=float(power))
    np.testing.assert_allclose(sampler.weight.detach(), BAGMAR[f"meta_pow{power}/w"][0], rtol=1e-5, atol=1e-6)
    batches = BAGMAR[f"meta_pow{power}/batches"]
    np.testing.assert_array_equal(sampler.draw(5), batches[0])
    # the golden gradient belongs to the first batch
    losses = torch.tensor(BAGMAR[f"meta_pow{power}/per_sample_loss"])
    value = (losses * sampler.sample_weights()).mean()
    value.backward()
    assert value.item() == pytest.approx(float(BAGMAR[f"meta_pow{power}/meta_loss"]), rel=1e-5)
    np.testing.assert_allclose(sampler.weight.grad, BAGMAR[f"meta_pow{power}/w_grad"][0], rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(np.stack([sampler.draw(5) for _ in range(3)]), batches[1:])


def test_meta_sampler_learns_as_balms_does() -> None:
    feats, labels = torch.tensor(BALMS["feats"]), torch.tensor(BALMS["labels"])
    source = torch.Generator().manual_seed(int(BALMS["seed"]))
    sampler = build(
        "meta",
        labels=BALMS["labels"],
        num_classes=4,
        source=source,
        init_pow=float(BALMS["init_pow"]),
        lr=float(BALMS["meta_lr"]),
    )
    np.testing.assert_allclose(sampler.weight.detach(), BALMS["meta_w0"][0], rtol=1e-4)
    layer = torch.nn.Linear(5, 4)
    layer.load_state_dict({"weight": torch.tensor(BALMS["W0"]), "bias": torch.tensor(BALMS["b0"])})
    lr, momentum, decay = (float(BALMS[k]) for k in ("lr", "momentum", "weight_decay"))
    optimiser = torch.optim.SGD(layer.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    shift = torch.log(torch.tensor(BALMS["counts"], dtype=torch.float32))
    for t in range(len(BALMS["batch_idx"])):
        index = sampler.draw(8)
        np.testing.assert_array_equal(index, BALMS["batch_idx"][t])
        batch = feats[index], labels[index]
        balanced = torch.tensor(BALMS["val_x"][t]), torch.tensor(BALMS["val_y"][t])
        sampler.learn(layer, batch, balanced, lr=lr, weight_decay=decay, momentum=momentum, optimizer=optimiser)
        np.testing.assert_allclose(sampler.weight.grad, BALMS["meta_w_grad"][t][0], rtol=5e-6, atol=1e-9)
        np.testing.assert_allclose(sampler.weight.detach(), BALMS["meta_w"][t][0], rtol=1e-4)
        loss = torch.nn.functional.cross_entropy(layer(batch[0]) + shift, batch[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert loss.item() == pytest.approx(float(BALMS["loss"][t]), rel=1e-4)
        np.testing.assert_allclose(layer.weight.detach(), BALMS["W"][t], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(layer.bias.detach(), BALMS["b"][t], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("images", "batch", "left_out"), [(12406, 1024, 118), (10847, 512, 95)])
def test_order_of_the_released_pretraining(images: int, batch: int, left_out: int) -> None:
    labels = np.zeros(images, dtype=np.int64)
    sampler = build("official_order", labels=labels, num_classes=1, source=random.Random(0))
    expected = np.load(HERE / "ipdpp" / "splits.npz")[f"order_n{images}"]
    for epoch in (0, 1, 7):
        np.testing.assert_array_equal(sampler.epoch(epoch, images), expected)
    whole = images // batch * batch
    np.testing.assert_array_equal(sampler.epoch(8, whole), expected[:whole])
    assert images - whole == left_out
