from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt.data import lists
from lt.data.export import class_folders, export_imagefolder
from lt.data.rehearse import PATHS, images_for_list, rehearse, tree
from lt.data.sources import Source, load
from lt.data.splits import Split, make_split
from lt.errors import UserError

DIGITS = {"source": "digits", "family": "digits", "num_classes": 10, "holdout": {"test": 2, "val": 1}}
DIGITS["imbalance"] = {"rule": "exponential", "n_max": 10, "imb_factor": 5}


@pytest.mark.parametrize("family", ["imagenet_lt", "places_lt", "inat18"])
def test_lists_have_the_official_counts(tmp_path: Path, family: str) -> None:
    root = rehearse(family, tmp_path / "r", pixels="none")
    assert {path.name for path in root.iterdir()} == set(lists.OFFICIAL[family].values())
    for part, name in lists.OFFICIAL[family].items():
        assert lists.verify(root / name, family=family, part=part).kind == "same counts"


@pytest.mark.parametrize("family", sorted(PATHS))
def test_every_listed_image_is_there_and_readable(tmp_path: Path, family: str) -> None:
    root = rehearse(family, tmp_path / "r", counts=[4, 2, 1], test_per_class=1, size=12)
    for file in root.glob("*.txt"):
        content = lists.read_list(file)
        assert lists.missing_files(root, content.paths) == []
        with Image.open(root / content.paths[0]) as image:
            assert image.size == (12, 12) and image.mode == "RGB"
    written = [path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    assert len(written) == 7 + 3 + (3 if family in ("imagenet_lt", "places_lt") else 0)


def test_layouts_look_like_the_real_ones(tmp_path: Path) -> None:
    shapes = {
        ("imagenet_lt", "train"): r"train/n\d{8}/n\d{8}_\d+\.JPEG",
        ("imagenet_lt", "test"): r"val/n\d{8}/ILSVRC2012_val_\d{8}\.JPEG",
        ("places_lt", "train"): r"data_256/[a-z]/\w+/\d{8}\.jpg",
        ("places_lt", "test"): r"val_256/Places365_val_\d{8}\.jpg",
        ("inat18", "train"): r"train_val2018/[A-Z][a-z]+/\d+/[0-9a-f]{32}\.jpg",
    }
    import re

    for (family, part), shape in shapes.items():
        root = tmp_path / f"{family}-{part}"
        rehearse(family, root, cap=1, pixels="none")
        content = lists.read_list(root / lists.OFFICIAL[family][part])
        assert all(re.fullmatch(shape, path) for path in content.paths)
        assert len(set(content.paths)) == len(content.paths)
        assert len(content.labels) == len(lists.known_counts()[family])


def test_train_and_val_do_not_overlap(tmp_path: Path) -> None:
    for family in ("imagenet_lt", "places_lt"):
        root = rehearse(family, tmp_path / family, pixels="none")
        train, val = (lists.read_list(root / lists.OFFICIAL[family][part]).paths for part in ("train", "val"))
        assert not set(train) & set(val)


def test_images_for_a_given_list(tmp_path: Path) -> None:
    lists.write_list(tmp_path / "own.txt", ["a/1.png", "a/2.jpg", "b/1.png"], np.array([0, 0, 1]))
    images_for_list(tmp_path / "r", tmp_path / "own.txt", size=9)
    with Image.open(tmp_path / "r" / "b" / "1.png") as image:
        assert image.format == "PNG" and image.size == (9, 9)


def test_same_call_same_bytes(tmp_path: Path) -> None:
    contents = []
    for turn in range(2):
        root = rehearse("inat18", tmp_path / str(turn), counts=[2, 3], test_per_class=1, size=8)
        contents.append({p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) == 2 + 5 + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "imagnet_lt"}, "unknown layout 'imagnet_lt'; did you mean 'imagenet_lt'"),
        ({"family": "inat18", "pixels": "nil"}, "unknown pixels"),
        ({"family": "inat18", "counts": [1, -1]}, "none negative"),
        ({"family": "inat18", "counts": []}, "counts"),
        ({"family": "cifar10_lt", "counts": [1, 1]}, "10 counts"),
        ({"family": "fashion_mnist_lt", "pixels": "none"}, "pixels 'images' expected"),
    ],
)
def test_refusals(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rehearse(root=tmp_path / "r", **arguments)


def test_does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="not empty"):
        rehearse("inat18", tmp_path, counts=[1])
    with pytest.raises(UserError, match="not empty"):
        export_imagefolder({}, make_split(np.array([0]), spec={"num_classes": 1}, seed=0), tmp_path)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_export_from_memory(tmp_path: Path) -> None:
    source = load(DIGITS, "train")
    split = make_split(source.labels, spec=DIGITS, seed=0)
    numbers = export_imagefolder({"train": source}, split, tmp_path / "out")
    assert numbers == {"train": len(split.train), "val": 10, "test": 20}
    own = {"source": "imagefolder", "family": "own", "num_classes": 10}
    back = load(own, "train", {"own": tmp_path / "out"})
    assert np.bincount(back.labels).tolist() == split.class_counts.tolist()
    index = int(Path(back.paths[0]).stem)
    with Image.open(back.file(0)) as image:
        assert (np.asarray(image) == source.images[index, 0]).all()
    rows = list(csv.DictReader((tmp_path / "out" / "classes.csv").read_text().splitlines()))
    assert [int(row["train_images"]) for row in rows] == split.class_counts.tolist()


@pytest.mark.parametrize("mode", ["symlink", "hardlink", "copy"])
def test_export_of_files(tmp_path: Path, mode: str) -> None:
    root = rehearse("inat18", tmp_path / "r", counts=[1] * 9 + [3, 2, 4], test_per_class=1, size=8)
    spec = {"source": "list", "family": "inat18", "num_classes": 12, "class_map": "stable"}
    parts = {part: load(spec, part, {"inat18": root}) for part in ("train", "test")}
    split = make_split(parts["train"].labels, spec=spec, seed=0)
    numbers = export_imagefolder(parts, split, tmp_path / "out", mode=mode)
    assert numbers == {"train": 18, "test": 12}
    back = load({"source": "imagefolder", "family": "own", "num_classes": 12}, "train", {"own": tmp_path / "out"})
    assert np.bincount(back.labels).tolist() == split.class_counts.tolist() == [4, 3, 2] + [1] * 9
    assert back.file(0).is_symlink() == (mode == "symlink")
    original = {path.rsplit("/", 1)[1]: path for path in parts["train"].paths}
    for i in range(len(back)):
        assert back.file(i).read_bytes() == (root / original[back.file(i).name]).read_bytes()
        label = parts["train"].labels[parts["train"].paths.index(original[back.file(i).name])]
        assert split.class_map[label] == back.labels[i]


def test_export_keeps_names_that_sort_and_pads_those_that_do_not(tmp_path: Path) -> None:
    root = rehearse("imagenet_lt", tmp_path / "r", counts=[2, 1], test_per_class=1, pixels="empty")
    spec = {"source": "list", "family": "imagenet_lt", "num_classes": 2}
    assert class_folders(load(spec, "train", {"imagenet_lt": root}))[0].startswith("n0144")
    labels = np.arange(11)
    numbered = Source("x", labels, 11, paths=[f"{n}/a.jpg" for n in range(11)], root=tmp_path)
    assert class_folders(numbered)[:2] == ["00", "01"]
    unsafe = Source("x", np.arange(2), 2, paths=["a.jpg", "b.jpg"], root=tmp_path, class_names=["..", "x/y"])
    assert class_folders(unsafe) == ["0", "1"]


def test_export_of_equal_names(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        list(tree(tmp_path / "t" / folder, {"x": 1}, size=8))
    lists.write_list(tmp_path / "t" / "l.txt", ["a/x/x_00000.jpg", "b/x/x_00000.jpg"], np.array([0, 0]))
    spec = {"source": "list", "family": "own", "num_classes": 1, "lists": {"train": "l.txt"}}
    source = load(spec, "train", {"own": tmp_path / "t"})
    split = Split(np.arange(2), None, None, np.array([2]), np.array([0]), {"train": "train", "val": None})
    export_imagefolder({"train": source}, split, tmp_path / "out")
    assert files(tmp_path / "out" / "train") == ["x/0000000_x_00000.jpg", "x/0000001_x_00000.jpg"]


def test_export_names_what_it_lacks(tmp_path: Path) -> None:
    spec = {"source": "cifar10", "num_classes": 2}
    split = make_split(np.array([0, 1]), spec=spec, seed=0)
    source = Source("x", np.array([0, 1]), 2, images=np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(UserError, match="'test' part"):
        export_imagefolder({"train": source}, split, tmp_path / "out")
    with pytest.raises(UserError, match="unknown export mode 'move'"):
        export_imagefolder({"train": source}, split, tmp_path / "out", mode="move")
