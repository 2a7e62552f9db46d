import argparse
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lt import models
from lt.errors import UserError
from lt.models import convert, importing


def split(model, prefix="module."):
    state = {prefix + k: v for k, v in model.state_dict().items()}
    head = {k: v for k, v in state.items() if k.startswith(f"{prefix}fc.")}
    return OrderedDict((k, v) for k, v in state.items() if k not in head), OrderedDict(head)


def mislas(model, **more):
    backbone, head = split(model)
    meta = {"epoch": 200, "best_acc1": torch.tensor([41.5]), "its_ece": np.float64(8.82)}
    return {**meta, "state_dict_model": backbone, "state_dict_classifier": head, **more}


def same(a, b, skip=()):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items() if not k.startswith(skip))


@pytest.fixture
def source():
    return models.build("resnet8", 5, seed=1)


@pytest.fixture
def target():
    return models.build("resnet8", 5, seed=2)


@pytest.mark.parametrize("zipped", [True, False])
def test_mislas(tmp_path, source, target, zipped):
    path = tmp_path / "current.pth.tar"
    torch.save(mislas(source), path, _use_new_zipfile_serialization=zipped)
    report = convert.import_state(path, target)
    assert same(source, target)
    assert (report.layout, report.class_map) == ("mislas", "legacy")
    assert report.meta == {"epoch": 200, "best_acc1": 41.5, "its_ece": 8.82}
    assert report.sha256 == importing.file_digest(path) and len(report.loaded) == len(source.state_dict())


def test_numpy_1_names(tmp_path, source, target):
    path = tmp_path / "old.pth.tar"
    torch.save(mislas(source), path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    assert b"numpy._core.multiarray" in raw
    path.write_bytes(raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert convert.import_state(path, target).meta["its_ece"] == 8.82


def test_scales_of_stage_two(tmp_path, source, target):
    path = tmp_path / "current.pth.tar"
    scales = torch.rand(1, 5) + 0.5
    torch.save(mislas(source, state_dict_lws_model={"module.learned_norm": scales}), path)
    models.set_head(target, "lws")
    convert.import_state(path, target)
    assert torch.equal(target.fc.scales, scales[0])
    with pytest.raises(UserError, match=r"1 unexpected: fc\.scales"):
        convert.import_state(path, models.build("resnet8", 5))
    torch.save(mislas(source), path)  # a stage-1 file starts the scales at 1
    models.set_head(target, "lws", inherit=False)
    assert convert.import_state(path, target).kept == ("fc.scales",)
    assert torch.equal(target.fc.scales, torch.ones(5))


def test_places_block_is_merged_in(tmp_path):
    source, target = (models.build("resnet152_places", 4, layers=(1, 1, 1, 2), seed=s) for s in (1, 2))
    backbone, head = split(source)
    block = {k: backbone.pop(k) for k in list(backbone) if ".layer4.1." in k}
    block = {k.replace("layer4.1.", ""): v for k, v in block.items()}
    path = tmp_path / "p.pth.tar"
    torch.save({"state_dict_model": backbone, "state_dict_classifier": head, "state_dict_block": block}, path)
    convert.import_state(path, target)
    assert same(source, target)
    torch.save({"state_dict_model": backbone, "state_dict_classifier": head}, path)
    with pytest.raises(UserError, match=r"15 missing: layer4\.1\.conv1\.weight"):
        convert.import_state(path, target)


@pytest.mark.parametrize("key", ["state_dict_best", "state_dict"])
def test_decoupling(tmp_path, source, target, key):
    backbone, head = split(source)
    path = tmp_path / "final_model_checkpoint.pth"
    torch.save({"epoch": 3, "centroids": None, key: {"feat_model": backbone, "classifier": head}}, path)
    assert convert.import_state(path, target).layout == "decoupling" and same(source, target)
    head["module.scales"] = torch.full((5,), 2.0)
    torch.save({key: {"feat_model": backbone, "classifier": head}}, path)
    models.set_head(target, "lws", train_linear=False)
    convert.import_state(path, target)
    assert torch.equal(target.fc.scales, torch.full((5,), 2.0))


def test_ipdpp_both_kinds(tmp_path):
    theirs = models.build("resnet18_cifar", 128, head="projector", seed=1)
    rename = {"downsample": "shortcut"}
    state = {}
    for name, value in theirs.state_dict().items():
        new = name.replace("downsample", rename["downsample"])
        state["projector" + new[2:] if new.startswith("fc.") else "enc." + new] = value
    path = tmp_path / "pretrain.pth"
    torch.save({"model": state, "optimizer": {}, "epoch": 1, "scaler": {}, "args": argparse.Namespace(a=1)}, path)
    ours = models.build("resnet18_cifar", 128, head="projector", seed=2)
    assert convert.import_state(path, ours).layout == "ipdpp" and same(theirs, ours)
    classifier = models.build("resnet18_cifar", 10, seed=3)
    with pytest.raises(UserError, match=r"4 unexpected: fc\.0\.weight"):
        convert.import_state(path, classifier)
    fresh = classifier.fc.weight.clone()
    report = convert.import_state(path, classifier, drop=("fc.",))
    assert torch.equal(fresh, classifier.fc.weight)
    assert torch.equal(classifier.conv1.weight, theirs.conv1.weight)
    assert len(report.dropped) == 4 and set(report.kept) == {"fc.weight", "fc.bias"}


def test_wrapped_and_flat(tmp_path, source, target):
    path = tmp_path / "mae.pth"
    torch.save({"model": source.state_dict(), "args": argparse.Namespace(lr=1.0)}, path)
    assert convert.import_state(path, target).layout == "wrapped" and same(source, target)
    torch.save(source.state_dict(), path)
    other = models.build("resnet8", 5, seed=9)
    assert convert.import_state(path, other).layout == "flat" and same(source, other)
    from safetensors.torch import save_file

    save_file(source.state_dict(), tmp_path / "model.safetensors")
    again = models.build("resnet8", 5, seed=8)
    convert.import_state(tmp_path / "model.safetensors", again)
    assert same(source, again)


def test_strict(tmp_path, source, target):
    path = tmp_path / "f.pth"

    def attempt(**changes):
        state = {**source.state_dict(), **changes}
        torch.save({k: v for k, v in state.items() if v is not None}, path)
        return convert.import_state(path, target)

    before = {k: v.clone() for k, v in target.state_dict().items()}
    for changes, words in (
        ({"bn1.weight": None, "bn1.bias": None}, "2 missing: bn1.weight, bn1.bias"),
        ({"bn9.weight": torch.ones(1)}, "1 unexpected: bn9.weight"),
        (
            {"fc.weight": torch.ones(6, 64)},
            r"entry 'fc.weight' has shape \(6, 64\), the network expects \(5, 64\)",
        ),
        ({"bn1.bias": torch.full((16,), float("nan"))}, "entry 'bn1.bias' holds values that are not finite"),
        ({"module.bn1.bias": torch.ones(16)}, "twice"),
    ):
        with pytest.raises(UserError, match=words) as error:
            attempt(**changes)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())  # nothing half loaded
    counters = {k: None for k in source.state_dict() if k.endswith("num_batches_tracked")}
    assert set(attempt(**counters).kept) == set(counters)  # old files have none
    attempt(**{"bn1.num_batches_tracked": torch.tensor(2.9999998)})
    assert int(target.bn1.num_batches_tracked) == 3  # a mean of ten threes


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickle(tmp_path, target, zipped):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    hidden = np.float64(1).__reduce__()[0]
    for evil in (
        Evil(os.system, f"touch {canary}"),
        Evil(eval, f"open({str(canary)!r}, 'w')"),
        Evil(open, str(canary), "w"),
        Evil(getattr, "x", "upper"),
        Evil(hidden, np.dtype("O"), b"x" * 8),
        Evil(hidden, np.dtype("f8"), b"short"),
        nn.Linear(1, 1),
    ):
        torch.save({"state_dict_model": {}, "x": evil}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError) as error:
            convert.import_state(path, target)
        assert str(path) in str(error.value) and "\n" not in str(error.value) and not canary.exists()
    torch.save({"x": Evil(eval, "1")}, path)
    with pytest.raises(UserError, match="names 'eval', which is not on the list"):
        importing.load_official(path)


def test_damaged_files(tmp_path, source, target):
    path = tmp_path / "f.pth"
    torch.save(mislas(source), path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[:100], whole[: len(whole) // 2], whole[:-1], pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            convert.import_state(path, target)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "no checkpoint")
    with pytest.raises(UserError):
        importing.load_official(path)
    with pytest.raises(UserError, match="no such checkpoint file"):
        importing.load_official(tmp_path / "absent.pth")
    path = tmp_path / "f.safetensors"
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(UserError):
        importing.load_official(path)


def test_odd_containers(tmp_path, target):
    path = tmp_path / "f.pth"
    loop = {}
    loop["model"] = loop
    hiding = Evil(OrderedDict)
    hiding.call = (OrderedDict, (), {"items": "hidden"}, None, iter([("a", torch.ones(1))]))
    for content in (
        [1, 2],
        {},
        {"a": 1},
        {"state_dict_model": 3},
        {"state_dict_model": {"a": "text"}},
        {"state_dict_best": {"feat_model": {}, "other": {}}},
        {"model": {}},
        loop,
        hiding,
    ):
        torch.save(content, path)
        with pytest.raises(UserError) as error:
            convert.import_state(path, target)
        assert "\n" not in str(error.value)
    torch.save({"a": 1}, path)
    with pytest.raises(UserError, match="did you mean 'mislas'"):
        convert.import_state(path, target, layout="misslas")
    with pytest.raises(UserError, match="not in the layout 'mislas': 'state_dict_model'"):
        convert.import_state(path, target, layout="mislas")


def test_torchvision_weights(tmp_path, monkeypatch):
    known = importing.torchvision_source("resnet152")
    assert known["file"] == "resnet152-394f9c45.pth" and known["sha256"] == "394f9c45"
    model = models.build("resnet152_places", 4, layers=(1, 1, 1, 2), seed=1)
    with pytest.raises(UserError, match=r"IMAGENET1K_V1, 230\.4 MiB, sha256 394f9c45.* are absent; get http"):
        convert.import_torchvision(tmp_path / "absent.pth", model)
    pretrained = models.build("resnet152_places", 1000, layers=(1, 1, 1, 2), seed=2)
    path = tmp_path / "weights.pth"
    torch.save(pretrained.state_dict(), path)
    with pytest.raises(UserError, match=r"wrong file of [\d.]+ MiB, not torchvision.s resnet152 .*230\.4 MiB, sha"):
        convert.import_torchvision(path, model)
    digest, mib = importing.file_digest(path), path.stat().st_size / 2**20
    monkeypatch.setattr(importing, "torchvision_source", lambda arch: {**known, "mib": mib})
    with pytest.raises(UserError, match=rf"wrong file of sha256 {digest[:8]}, not torchvision's resnet152"):
        convert.import_torchvision(path, model)
    monkeypatch.setattr(importing, "torchvision_source", lambda arch: {**known, "mib": mib, "sha256": digest[:8]})
    block = model.block.conv1.weight.clone()
    report = convert.import_torchvision(path, model)
    assert torch.equal(model.layer4[0].conv1.weight, pretrained.layer4[0].conv1.weight)
    assert torch.equal(model.block.conv1.weight, block)  # the block starts at random, not pretrained
    assert report.sha256 == digest and report.meta["source"] == known["source"]
    assert set(report.kept) == {k for k in model.state_dict() if k.startswith(("layer4.1.", "fc."))}


def test_foreign_configuration_is_left_behind(tmp_path, source, target, monkeypatch):
    """RIDE files carry a pickled ConfigParser of a module called parse_config, with paths inside."""
    ran = []

    class ConfigParser:
        def __init__(self):
            self._config, self._save_dir = OrderedDict(name="x"), Path("/saved/models")

        def __setstate__(self, state):
            ran.append(state)

    ConfigParser.__module__, ConfigParser.__qualname__ = "parse_config", "ConfigParser"
    module = types.ModuleType("parse_config")
    module.ConfigParser = ConfigParser
    monkeypatch.setitem(sys.modules, "parse_config", module)
    path = tmp_path / "model_best.pth"
    for container in (mislas(source, config=ConfigParser()), mislas(source, config=np.random.rand(3))):
        torch.save(container, path)
        read, _ = importing.load_official(path)
        assert read["config"] is None and not ran
        convert.import_state(path, target)
        assert same(source, target)


def test_authors_layouts_are_known():
    names = list(convert.LAYOUTS)
    assert set(names) == set(convert.SIGNATURES) and {"ride", "livt_mgp", "livt_bft"} <= set(names)
    assert convert.detect({"state_dict": {"module.backbone.linears.0.weight": torch.ones(1)}}) == "ride"
    assert convert.detect({"model": {"patch_embed.proj.weight": 0, "mask_token": 0}}) == "livt_mgp"
    assert convert.detect({"conv1.weight": torch.ones(1)}) == "flat"


def test_a_text_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "README.pth").write_text("# lt\n\nLong-tailed recognition.\n")
    with pytest.raises(UserError, match=r"README\.pth: it is not a checkpoint \([\w ]+\)$"):
        importing.load_official(tmp_path / "README.pth")
