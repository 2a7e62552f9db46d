"""`lt doctor` and the check before the first job: what is missing, what is wrong, what to type."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lt.commands import doctor
from lt.commands.inputs import check_targets, missing_for, missing_inputs
from lt.config import Config, load
from lt.data import lists, sources
from lt.data.rehearse import rehearse
from lt.errors import UserError
from lt.models import importing
from lt.schema import Dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LT_DATA_ROOT", raising=False)
    monkeypatch.setattr(sources, "DEBIAN_FASHION", tmp_path / "not-installed")


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "params.yaml")


def test_digits_need_nothing(config: Config) -> None:
    assert missing_inputs(config, ["digits", "digits_smoke"]) == []


def test_one_line_an_input_even_if_several_sets_read_it(config: Config) -> None:
    found = missing_inputs(config, ["cifar10_lt_if10", "cifar10_lt_if100", "cifar10_lt_if100_holdout"])
    assert len(found) == 1 and "data/cifar10" in found[0] and "to download: python -c" in found[0]


@pytest.mark.parametrize("family", ["imagenet_lt", "places_lt", "inat18"])
def test_lists_one_by_one(config: Config, family: str, tmp_path: Path) -> None:
    names = lists.OFFICIAL[family]
    assert len(missing_inputs(config, [family])) == 1 + len(names)
    rehearse(family, tmp_path / "data" / family, cap=1, test_per_class=1, pixels="none")
    assert missing_inputs(config, [family]) == []
    (tmp_path / "data" / family / names["test"]).unlink()
    found = missing_inputs(config, [family])
    assert len(found) == 1 and names["test"] in found[0]


def test_decoding_names_the_line(config: Config, tmp_path: Path) -> None:
    root = rehearse("places_lt", tmp_path / "data" / "places_lt", cap=1, test_per_class=1, size=8)
    paths = lists.read_list(root / "Places_LT_val.txt").paths
    found = [line for _, line in doctor.dataset(config.dataset("places_lt"), every=False, decode=True)]
    assert sum("images can be read" in line for line in found) == 3
    (root / paths[4]).write_bytes((root / paths[4]).read_bytes()[:60])
    wrong = [line for kind, line in doctor.dataset(config.dataset("places_lt"), every=False, decode=True)
             if kind == "wrong" and "cannot read" in line]  # fmt: skip
    assert len(wrong) == 1 and wrong[0].startswith("Places_LT_val.txt:5: cannot read image ") and paths[4] in wrong[0]


def test_decoding_reads_a_folder_of_folders_as_well(tmp_path: Path) -> None:
    mine = Dataset.model_validate({"source": "imagefolder", "family": "mine", "num_classes": 1,
                                   "image": {"size": 8, "mean": [0.5], "std": [0.5]}})  # fmt: skip
    for part, name in (("train", "1.png"), ("test", "2.png")):
        folder = tmp_path / "data" / "mine" / part / "rose"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    lines = [line for _, line in doctor.dataset(mine, every=False, decode=True)]
    assert lines[-2:] == ["train: all 1 images can be read", "test: all 1 images can be read"]
    (tmp_path / "data" / "mine" / "test" / "rose" / "2.png").write_text("junk")
    wrong = [line for kind, line in doctor.dataset(mine, every=False, decode=True) if kind == "wrong"]
    assert len(wrong) == 1 and wrong[0].startswith("test: cannot read image ") and "2.png" in wrong[0]


def test_what_other_sets_need_fails_no_set_that_was_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    for name in ("project", "slurm", "weights", "dvc"):
        monkeypatch.setattr(doctor, name, lambda *_: iter([("missing", "something else")]))
    doctor.main(argparse.Namespace(datasets=["digits"], images=False, decode=False))


def test_weights_that_a_stage_starts_from(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file itself is looked at: a V2 file, one that was cut short and one with other bytes are no V1 weights."""
    rehearse("places_lt", tmp_path / "data" / "places_lt", cap=1, test_per_class=1, pixels="none")
    starts = [f"results/places_lt/{stage}/manifest.json" for stage in (
        "mislas/resnet152_places/seed0/stage1", "btm_scratch/resnet152_places/seed0/branches/branch3")]  # fmt: skip
    assert missing_for(config, ["results/places_lt/btm/resnet152_places/seed0/branches/branch3/manifest.json"]) == []
    known, weights = importing.torchvision_source("resnet152"), tmp_path / "data" / "weights"
    right, other = weights / known["file"], weights / "resnet152-f82ba261.pth"

    def said(words: str) -> None:
        for start in starts:
            (line,) = missing_for(config, [start])
            assert words in line and "230.4 MiB, sha256 394f9c45...)" in line and known["source"] in line, line
        ((kind, line),) = [each for each in doctor.weights(config) if "resnet152" in each[1]]
        assert kind == ("wrong" if "wrong" in words else "missing") and words in line

    said("are absent; get")
    weights.mkdir()
    other.write_bytes(b"V2")
    said("resnet152-f82ba261.pth, which is there, is another file: wrong weights")
    right.write_bytes(b"short")
    said(f"{known['file']}: wrong file of 0.0 MiB")
    with open(right, "r+b") as file:  # a hole of the right size
        file.truncate(round(known["mib"] * 2**20))
    said(f"{known['file']}: wrong file of sha256 ")
    monkeypatch.setattr(importing, "file_digest", lambda path: known["sha256"] + "0" * 56)
    assert [missing_for(config, [start]) for start in starts] == [[], []]
    assert [kind for kind, line in doctor.weights(config) if "resnet152" in line] == ["ok"]
    assert missing_for(config, ["results/places_lt/split0/manifest.json"]) == []


def verdicts(family: str, config: Config, every: bool = True) -> list[tuple[str, str]]:
    return list(doctor.guarded(lambda: doctor.dataset(config.dataset(family), every=every)))


def test_same_counts_and_images(config: Config, tmp_path: Path) -> None:
    rehearse("places_lt", tmp_path / "data" / "places_lt", pixels="none")
    found = verdicts("places_lt", config, every=False)
    text = "\n".join(line for _, line in found)
    assert text.count("same counts as the official list") == 3
    assert [kind for kind, _ in found].count("missing") == 3 and "is the folder" in text


def test_a_wrong_list_names_the_class(config: Config, tmp_path: Path) -> None:
    root = rehearse("places_lt", tmp_path / "data" / "places_lt", pixels="none")
    file = root / "Places_LT_train.txt"
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")
    assert any(kind == "wrong" and "class 0 has" in line for kind, line in verdicts("places_lt", config))


def test_a_checked_set_that_is_missing_fails(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path("params.yaml")).write_text((ROOT / "params.yaml").read_text())
    monkeypatch.setattr(doctor, "devices", lambda: iter([]))
    with pytest.raises(UserError):
        doctor.main(argparse.Namespace(datasets=["inat18"], images=False, decode=False))
    out = capsys.readouterr().out
    assert "iNaturalist18_train.txt (437513 lines)" in out and "Traceback" not in out
    with pytest.raises(UserError, match="no such data set 'inat19'; did you mean 'inat18'"):
        doctor.main(argparse.Namespace(datasets=["inat19"], images=False, decode=False))


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("digits", "digits: no such target; the table is results/tables/digits.csv"),
        ("results/tables/digits", "no such target; the table is results/tables/digits.csv"),
        ("results/figures/digits/per_clas.svg", "no such figure 'per_clas'; did you mean 'per_class'?"),
        ("results/digits/ce/resnet8/seed0/trian/manifest.json", "no such stage 'trian'; did you mean 'train'?"),
        ("results/digits/btm/resnet8/seed0/branch0/manifest.json", "no such stage 'branch0'; did you mean 'branches'?"),
        ("results/metrics/digits/btm/resnet8/seed0/brunch0/manifest.json", "no such stage 'brunch0'"),
        ("results/tables/digits.csv", None),
        ("results/figures/digits/per_class.svg", None),
        ("results/digits/btm/resnet8/seed0/branches/branch0/manifest.json", None),
        ("results/digits/btm/resnet8/seed0/subsets/subset0/manifest.json", None),
        ("results/digits/ce/resnet8/seed0/predictions/test/train/manifest.json", None),
        ("results/digits/ce/resnet8/seed0/recipe/train.json", None),
        ("results/metrics/digits/btm/resnet8/seed0/branch0/manifest.json", None),
    ],
)
def test_a_target_that_no_rule_makes(config: Config, target: str, wanted: str | None) -> None:
    if wanted is None:
        return check_targets(config, [target])
    with pytest.raises(UserError, match=re.escape(wanted)):
        check_targets(config, [target])


def test_a_check_that_breaks_is_a_line() -> None:
    def broken():
        yield "ok", "first"
        raise PermissionError(13, "denied")

    found = list(doctor.guarded(broken))
    assert found[0] == ("ok", "first") and found[1][0] == "wrong" and "PermissionError" in found[1][1]


def test_a_bad_paths_file_is_a_line_not_a_traceback(config: Config) -> None:
    Path("paths.local.yaml").write_text("imagenet_lt: [1]\n")
    assert verdicts("imagenet_lt", config)[0][0] in ("wrong", "missing")
    assert any("paths.local.yaml" in line for line in missing_inputs(config, ["imagenet_lt"]))


def test_another_python_is_told_what_really_sets_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, 12, 1)))
    (line,) = (text for kind, text in doctor.project(config) if kind == "wrong")
    command = re.search("`make (.+?)`", line)[1]
    rules = re.findall(rf"^{command}: (.*?)\s*##", (ROOT / "Makefile").read_text(), flags=re.M)
    assert line.startswith("python 3.12.1; ") and rules == ["$(STAMP)"]
