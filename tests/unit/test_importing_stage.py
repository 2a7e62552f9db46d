"""An imported classifier's rows come in the file's class order and leave in the data set's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lt.data.class_map import class_map
from lt.errors import UserError
from lt.stages.importing import reorder

COUNTS = np.array([3, 9, 3, 7, 3, 9, 1] * 6)


def case(order: str, source: str = "list") -> tuple:
    mapping = class_map(COUNTS, order)
    split = SimpleNamespace(class_map=mapping, class_counts=COUNTS[np.argsort(mapping)])
    return split, SimpleNamespace(data={"source": source}), mapping


def classifier(rows: np.ndarray) -> nn.Module:
    model = nn.Module()
    model.head = nn.Linear(3, len(rows))
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor(rows)[:, None].expand(-1, 3).float())
        model.head.bias.copy_(torch.tensor(rows).float())
    return model


@pytest.mark.parametrize("ours", ["label", "stable", "legacy"])
@pytest.mark.parametrize("theirs", ["legacy", "identity"])
def test_row_i_is_class_i_of_the_data_set(ours: str, theirs: str) -> None:
    split, recipe, mapping = case(ours)
    original = np.argsort(class_map(COUNTS, "legacy")) if theirs == "legacy" else np.arange(len(COUNTS))
    model = classifier(original)  # every row carries the original label of its class
    reorder(model, theirs, split, recipe)
    assert model.head.bias.tolist() == np.argsort(mapping).tolist()
    assert model.head.weight[:, 0].tolist() == np.argsort(mapping).tolist()


def test_only_list_sets_are_renumbered() -> None:
    split, recipe, _ = case("label", source="cifar100")
    model = classifier(np.arange(len(COUNTS)))
    assert reorder(model, "legacy", split, recipe) == "as in the file"
    assert model.head.bias.tolist() == list(range(len(COUNTS)))


def test_a_square_classifier_says_so() -> None:
    split, recipe, _ = case("stable")
    model = nn.Module()
    model.head = nn.Linear(len(COUNTS), len(COUNTS))
    with pytest.raises(UserError, match="_legacy"):
        reorder(model, "identity", split, recipe)
