"""What samplers promise beyond the golden streams: rates, lengths, messages, BALMS's learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lt import rng
from lt.errors import UserError
from lt.sampling.meta import initial_weights
from lt.sampling.samplers import SAMPLERS, build, class_weights, heap_order

COUNTS = np.array([500, 120, 40, 10])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))


def make(name: str, seed: int = 0, **options: object):
    return build(name, labels=LABELS, num_classes=4, source=rng.stream(seed, "sampler"), **options)


def shares(name: str, length: int = 20_000, **options: object) -> np.ndarray:
    return np.bincount(LABELS[make(name, **options).epoch(0, length)], minlength=4) / length


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("inverse_frequency", {}, np.full(4, 0.25)),
        ("square_root", {}, COUNTS**0.5 / (COUNTS**0.5).sum()),
        ("effective_number", {"beta": 0.99}, (w := COUNTS * 0.01 / (1 - 0.99**COUNTS)) / w.sum()),
        ("class_priority", {"root": 2}, COUNTS**0.5 / (COUNTS**0.5).sum()),
        ("mixed_priority", {"share": 0.5}, (0.25 + COUNTS / COUNTS.sum()) / 2),
        ("ride_balanced", {}, np.full(4, 0.25)),
        ("instance", {}, COUNTS / COUNTS.sum()),
    ],
)
def test_class_rates(name: str, options: dict, expected: np.ndarray) -> None:
    bound = 5 * np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(shares(name, **options) - expected) < bound + 1e-3).all()


def test_class_aware_visits_every_class_equally_and_every_image_in_turn() -> None:
    indices = make("class_aware", k=4).epoch(0, 4 * 4 * 30)
    labels = LABELS[indices].reshape(-1, 4)
    assert (labels == labels[:, :1]).all()  # the k images of a visit are of one class
    assert (np.bincount(labels[:, 0], minlength=4) == 30).all()
    rare = indices[LABELS[indices] == 3]
    assert all(len(set(rare[i : i + 10])) == 10 for i in range(0, len(rare) - 9, 10))


def test_instance_epoch_is_a_permutation_and_a_function_of_its_number() -> None:
    sampler = build("instance", labels=LABELS, num_classes=4, source=lambda e: rng.stream(1, "order", e))
    first = sampler.epoch(3, len(LABELS))
    np.testing.assert_array_equal(np.sort(first), np.arange(len(LABELS)))
    np.testing.assert_array_equal(sampler.epoch(3, len(LABELS)), first)
    assert not np.array_equal(sampler.epoch(4, len(LABELS)), first)
    assert sampler.state_dict() == {}
    longer = sampler.epoch(3, len(LABELS) + 5)
    np.testing.assert_array_equal(longer[: len(LABELS)], first)


def test_cycles_need_one_source_for_all_epochs() -> None:
    with pytest.raises(UserError, match="persist over epochs"):
        build("class_aware", labels=LABELS, num_classes=4, source=lambda e: rng.stream(1, "order", e))


def test_progressive_moves_from_instance_to_class_balance() -> None:
    sampler = make("progressive", epochs=5)
    np.testing.assert_allclose(sampler.weights(0), COUNTS)
    np.testing.assert_allclose(sampler.weights(4), np.full(4, COUNTS.sum() / 4))
    np.testing.assert_allclose(sampler.weights(99), sampler.weights(4))


def test_weights_skip_empty_classes() -> None:
    np.testing.assert_allclose(class_weights(np.array([6, 0, 3]), share=1.0), [4.5, 0, 4.5])


@pytest.mark.parametrize(("number", "order"), [(1, [0]), (2, [0, 1]), (3, [1, 2, 0]), (5, [3, 4, 0, 1, 2])])
def test_heap_order(number: int, order: list[int]) -> None:
    assert heap_order(number).tolist() == order


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("class_awre", {}, "did you mean 'class_aware'"),
        ("class_aware", {"kk": 2}, "no option 'kk'"),
        ("class_aware", {"k": 0}, "k must be 1 or more"),
        ("class_priority", {"share": 2.0}, "share must lie in"),
        ("class_priority", {"share": None}, "needs epochs"),
        ("effective_number", {"beta": 1.0}, "beta must lie in"),
        ("meta", {"lr": 0.0}, "lr positive"),
    ],
)
def test_messages(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(name, **options)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_list_is_refused() -> None:
    saved = make("class_aware").state_dict()
    other = build("class_aware", labels=LABELS[:-1], num_classes=4, source=rng.stream(0, "sampler"))
    with pytest.raises(UserError, match="another training list"):
        other.load_state_dict(saved)
    with pytest.raises(UserError, match="another kind of source"):
        build("class_aware", labels=LABELS, num_classes=4, source=np.random.RandomState(0)).load_state_dict(saved)


def test_meta_sampler_learns_to_prefer_what_serves_the_balanced_batch() -> None:
    """Rare classes lie where frequent ones do not: their images are worth more to a balanced batch."""
    labels = np.repeat(np.arange(3), [150, 30, 6])
    noise = np.random.default_rng(0).standard_normal((len(labels), 3)).astype(np.float32)
    features = torch.tensor(np.eye(3, dtype=np.float32)[labels] * 2 + 0.3 * noise)
    sampler = build("meta", labels=labels, num_classes=3, source=rng.stream(0, "meta"), lr=0.05)
    start = sampler.weight.detach().clone()
    head = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    before = {k: v.clone() for k, v in head.state_dict().items()}
    balanced = torch.tensor([0, 1, 2] * 8)
    for _ in range(30):
        index = sampler.draw(32)
        batch = features[index], torch.tensor(labels[index])
        sampler.learn(head, batch, (2 * torch.eye(3)[balanced], balanced), lr=0.5)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())
    moved = sampler.weight.detach() - start
    assert moved.abs().max() > 0.1
    assert moved[2] > moved[0]


def test_meta_sampler_without_learning_draws_uniformly() -> None:
    assert (np.abs(shares("meta", 2_000) - COUNTS / COUNTS.sum()) < 0.05).all()
    assert initial_weights(COUNTS, power=0.0).abs().max() == 0
    with pytest.raises(UserError, match="draw a batch"):
        make("meta").sample_weights()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("labels", [[0, 1, 4], [0, -1], [], [[0, 1]]])
def test_labels_outside_the_classes_are_refused(name: str, labels: list) -> None:
    options = {"epochs": 3} if name == "progressive" else {}
    with pytest.raises(UserError, match="labels must"):
        build(name, labels=labels, num_classes=4, source=rng.stream(0, "sampler"), **options)
