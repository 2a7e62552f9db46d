"""An imported classifier's rows come in the file's class order and leave in the data set's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lt import models
from lt.data.class_map import class_map
from lt.errors import UserError
from lt.stages.importing import read_into, reorder

COUNTS = np.array([3, 9, 3, 7, 3, 9, 1] * 6)


def case(order: str, source: str = "list", family: str = "imagenet_lt") -> tuple:
    mapping = class_map(COUNTS, order)
    split = SimpleNamespace(class_map=mapping, class_counts=COUNTS[np.argsort(mapping)])
    return split, SimpleNamespace(data={"source": source, "family": family}), mapping


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


@pytest.mark.parametrize("ours", ["label", "stable", "legacy"])
def test_folders_that_are_numbers_sort_as_text(ours: str) -> None:
    """LiVT's iNaturalist classifiers: row 0 is class 0, row 1 class 1, row 2 class 10, row 3 class 11, ..."""
    split, recipe, mapping = case(ours, family="inat18")
    in_file = np.array(sorted(range(len(COUNTS)), key=str))
    assert in_file[:5].tolist() == [0, 1, 10, 11, 12]
    model = classifier(in_file)
    assert "folders" in reorder(model, "folders", split, recipe)
    assert model.head.bias.tolist() == np.argsort(mapping).tolist()


def test_folders_that_are_names_sort_as_the_labels() -> None:
    split, recipe, mapping = case("stable")
    model = classifier(np.arange(len(COUNTS)))
    reorder(model, "folders", split, recipe)
    assert model.head.bias.tolist() == np.argsort(mapping).tolist()


def vit(seed: int) -> nn.Module:
    return models.build("vit_digits", 10, seed=seed, in_channels=1)


@pytest.mark.parametrize(("container", "order"), [(True, "folders"), (False, "identity")], ids=["trained", "flat"])
def test_a_file_of_a_training_run_has_the_order_of_its_folders(tmp_path: Path, container: bool, order: str) -> None:
    file, state = tmp_path / "x.pth", vit(1).state_dict()
    torch.save({"model": state, "epoch": 99} if container else state, file)
    report = read_into(vit(2), file)
    assert report["layout"] == "livt_bft" and report["class_map"] == order


def test_what_is_dropped_changes_neither_the_order_nor_the_resize(tmp_path: Path) -> None:
    """A classifier of another resolution with entries that this network has not, by LiVT's training."""
    file, larger = tmp_path / "x.pth", models.build("vit_digits", 10, seed=1, in_channels=1, img_size=16)
    state = larger.state_dict()
    torch.save({"model": state | {"head_dist.weight": torch.ones(10, 64)}}, file)
    ours = vit(2)
    with pytest.raises(UserError, match=r"'head_dist.weight' is not in this network"):
        read_into(ours, file)
    drawn = ours.fc_norm.weight.detach().fill_(7.0).clone()
    report = read_into(ours, file, drop=["head_dist", "fc_norm.weight"])
    assert report["class_map"] == "folders" and report["resized"] == [8, 4]
    assert report["dropped"] == ["fc_norm.weight", "head_dist.weight"] and report["kept"] == ["fc_norm.weight"]
    assert report["loaded"] == len(state) - 1
    assert torch.equal(ours.head.weight, larger.head.weight) and torch.equal(ours.fc_norm.weight, drawn)


def mae(seed: int, img_size: int = 8) -> nn.Module:
    return models.build("mae_digits", 10, seed=seed, in_channels=1, img_size=img_size)


def test_pretraining_at_another_resolution_gets_the_tables_of_this_one(tmp_path: Path) -> None:
    """MAE's 224 file before iNaturalist's pre-training at 128: both tables are functions of the grid."""
    file, larger, ours = tmp_path / "x.pth", mae(1, 16), mae(2)
    own = {k: v.clone() for k, v in ours.state_dict().items()}
    torch.save({"model": larger.half().state_dict()}, file)
    report = read_into(ours, file)
    assert report["resized"] == [8, 4] and report["loaded"] == len(own) and not report["kept"]
    for name, value in ours.state_dict().items():
        assert torch.equal(value, own[name] if "pos_embed" in name else larger.state_dict()[name].float()), name
    for name in ("pos_embed", "decoder_pos_embed"):
        for wrong in (larger.state_dict()[name] + 2e-3, torch.zeros(1, 12, own[name].shape[2])):
            torch.save({"model": larger.state_dict() | {name: wrong}}, file)
            with pytest.raises(UserError, match=rf"'{name}' has \d+ rows, .* 17; only the fixed sin-cos"):
                read_into(mae(2), file)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    file, state = tmp_path / "x.pth", vit(1).state_dict()
    state["blocks.0.attn.qkv.bias"][3] = float("nan")
    torch.save({"model": state}, file)
    with pytest.raises(UserError, match=r"'blocks.0.attn.qkv.bias' holds values that are not finite"):
        read_into(vit(2), file)


def test_an_encoder_alone_says_how_and_is_taken_that_way(tmp_path: Path) -> None:
    file, full = tmp_path / "x.pth", mae(1)
    encoder = {k: v for k, v in full.state_dict().items() if not k.startswith(("decoder_", "mask_token"))}
    torch.save({"model": encoder}, file)
    ours = mae(2)
    with pytest.raises(UserError, match=r"no decoder .*--drop decoder_ --drop mask_token"):
        read_into(ours, file)
    fresh = {k: v.clone() for k, v in ours.state_dict().items()}
    report = read_into(ours, file, drop=["decoder_", "mask_token"])
    assert report["loaded"] == len(encoder)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, encoder[name] if name in encoder else fresh[name]), name


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
