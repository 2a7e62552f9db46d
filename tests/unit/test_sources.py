from __future__ import annotations

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lt.data import sources
from lt.data.lists import write_list
from lt.data.rehearse import rehearse, tree, write_idx
from lt.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project: no data folder, no LT_DATA_ROOT, no paths.local.yaml."""
    folder = tmp_path_factory.mktemp("project")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LT_DATA_ROOT", raising=False)
    monkeypatch.setattr(sources, "DEBIAN_FASHION", folder / "not-installed")
    return folder


def spec(source: str, num_classes: int, **more: object) -> dict:
    return {"source": source, "family": more.pop("family", source), "num_classes": num_classes, **more}


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    digits = sources.load(spec("digits", 10), "train")
    assert digits.images.shape == (1797, 1, 8, 8) and digits.images.dtype == np.uint8
    assert (digits.images.reshape(1797, -1) == np.rint(pixels * 255 / 16)).all()
    assert digits.labels.tolist() == labels.tolist() and digits.labels.dtype == np.int64
    assert digits.images.max() == 255 and len(digits) == 1797


def test_digits_do_not_import_sklearn() -> None:
    code = "import sys; from lt.data.sources import load; load({'source': 'digits'}, 'train'); "
    code += "print([m for m in ('torch', 'sklearn', 'scipy', 'PIL', 'yaml') if m in sys.modules])"
    root = Path(sources.__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("where", [".", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion(tmp_path: Path, where: str, packed: bool) -> None:
    made = rehearse("fashion_mnist_lt", tmp_path / "made", counts=[4] * 10, test_per_class=2)
    (tmp_path / "f" / where).mkdir(parents=True)
    for file in made.iterdir():
        target = tmp_path / "f" / where / (file.name if packed else file.stem)
        target.write_bytes(file.read_bytes() if packed else gzip.decompress(file.read_bytes()))
    roots = {"fashion_mnist": tmp_path / "f"}
    train = sources.load(spec("fashion_mnist", 10, family="fashion_mnist_lt"), "train", roots)
    test = sources.load(spec("fashion_mnist", 10, family="fashion_mnist_lt"), "test", roots)
    assert train.images.shape == (40, 1, 28, 28) and test.images.shape == (20, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [4] * 10
    assert len(train.class_names) == 10 and train.digest != test.digest


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an IDX file"),
        (b"\0\0\x08\x03\0\0", "not an IDX file"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "3 bytes of data"),
        (b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xffabc", "3 bytes of data"),
    ],
)
def test_damaged_idx(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(UserError, match=message):
        sources.read_idx(tmp_path / "x")


def test_truncated_gzip(tmp_path: Path) -> None:
    write_idx(tmp_path / "x.gz", np.arange(200).reshape(2, 100))
    assert sources.read_idx(tmp_path / "x.gz").tolist() == np.arange(200).reshape(2, 100).tolist()
    (tmp_path / "x.gz").write_bytes((tmp_path / "x.gz").read_bytes()[:40])
    with pytest.raises(UserError, match="cannot read"):
        sources.read_idx(tmp_path / "x.gz")


@pytest.mark.parametrize(("kind", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(tmp_path: Path, kind: str, classes: int) -> None:
    root = rehearse(f"{kind}_lt", tmp_path / "c", counts=[7] * classes, test_per_class=2)
    train = sources.load(spec(kind, classes, family=f"{kind}_lt"), "train", {f"{kind}_lt": root})
    test = sources.load(spec(kind, classes), "test", {kind: root})
    assert train.images.shape == (7 * classes, 3, 32, 32) and len(test) == 2 * classes
    assert np.bincount(train.labels).tolist() == [7] * classes
    assert train.class_names[1] == "class_01"
    inner = next(path for path in root.iterdir() if path.is_dir())
    assert sources.load(spec(kind, classes), "test", {kind: inner}).digest == test.digest


def test_cifar_written_by_python_3(tmp_path: Path) -> None:
    root = rehearse("cifar10_lt", tmp_path / "c", counts=[1] * 10, test_per_class=1)
    before = sources.load(spec("cifar10", 10), "test", {"cifar10": root})
    batch = {b"data": before.images.reshape(-1, 3072), "labels": before.labels.tolist()}
    for protocol in (2, 4):
        file = root / "cifar-10-batches-py" / "test_batch"
        file.write_bytes(pickle.dumps(batch, protocol=protocol))
        assert sources.load(spec("cifar10", 10), "test", {"cifar10": root}).digest == before.digest


def test_cifar_as_torchvision_reads_it(tmp_path: Path) -> None:
    import lt.compat  # noqa: F401, I001
    from torchvision.datasets import CIFAR10

    class Unchecked(CIFAR10):
        def _check_integrity(self) -> bool:
            return True

    Unchecked.meta = {**CIFAR10.meta, "md5": None}
    root = rehearse("cifar10_lt", tmp_path / "c", counts=[3] * 10, test_per_class=1)
    theirs = Unchecked(str(root), train=True)
    ours = sources.load(spec("cifar10", 10), "train", {"cifar10": root})
    assert (theirs.data.transpose(0, 3, 1, 2) == ours.images).all()
    assert theirs.targets == ours.labels.tolist()


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch owned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"data": Evil()}, protocol=2), "system"),
        (b"c_codecs\nencode\n(V78\nVzlib\ntR.", "codec zlib"),
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"", "EOFError"),
        (b"\x80\x02]q\x00.", "expected a dictionary"),
        (pickle.dumps({b"data": b"x", b"labels": [1]}, protocol=2), "'data' is not a table"),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, protocol=2),
            "list of 2 labels",
        ),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}, protocol=2), "'data' is not a table"),
    ],
)
def test_hostile_cifar(tmp_path: Path, content: bytes, message: str, elsewhere: Path) -> None:
    root = rehearse("cifar10_lt", tmp_path / "c", counts=[1] * 10, test_per_class=1)
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=message):
        sources.load(spec("cifar10", 10), "test", {"cifar10": root})
    assert not (elsewhere / "owned").exists()


def test_truncated_cifar(tmp_path: Path) -> None:
    root = rehearse("cifar10_lt", tmp_path / "c", counts=[1] * 10, test_per_class=1)
    file = root / "cifar-10-batches-py" / "test_batch"
    whole = file.read_bytes()
    for cut in (1, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="test_batch: not one of CIFAR's"):
            sources.load(spec("cifar10", 10), "test", {"cifar10": root})


def test_wrong_labels_are_named(tmp_path: Path) -> None:
    root = rehearse("cifar10_lt", tmp_path / "c", counts=[1] * 10, test_per_class=1)
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(UserError, match=r"expected 0\.\.9, found 10"):
        sources.load(spec("cifar10", 10), "test", {"cifar10": root})


def test_lists(tmp_path: Path) -> None:
    root = rehearse("places_lt", tmp_path / "p", counts=[5, 3, 1], test_per_class=2)
    places = spec("list", 3, family="places_lt")
    train = sources.load(places, "train", {"places_lt": root})
    assert train.labels.tolist() == [0] * 5 + [1] * 3 + [2] and train.images is None
    assert all(train.file(i).is_file() for i in range(len(train)))
    assert len(sources.load(places, "test", {"places_lt": root})) == 6
    moved = {**places, "prefix": {"data_256": "else"}}
    assert sources.load(moved, "train", {"places_lt": root}).paths[0].startswith("else/")
    with pytest.raises(UserError, match=r"Places_LT_train\.txt:9: label 2, expected 0\.\.1"):
        sources.load({**places, "num_classes": 2}, "train", {"places_lt": root})
    with pytest.raises(UserError, match="list not found"):
        sources.load({**places, "lists": {"train": "none.txt"}}, "train", {"places_lt": root})
    with pytest.raises(UserError, match="no val list; known parts: train"):
        own = spec("list", 3, family="birds", lists={"train": "Places_LT_train.txt"})
        sources.load(own, "val", {"birds": root})


def test_relabelled(tmp_path: Path) -> None:
    list(tree(tmp_path / "t", {"ant": 1, "bee": 3, "cat": 2}, size=8))
    own = sources.load(spec("imagefolder", 3, family="own"), "train", {"own": tmp_path / "t"})
    mapped = own.relabelled(np.array([2, 0, 1]))
    assert mapped.class_names == ["bee", "cat", "ant"] and mapped.labels.tolist() == [2, 0, 0, 0, 1, 1]


def test_one_tree(tmp_path: Path) -> None:
    files = list(tree(tmp_path / "t", {"10": 2, "2": 3, "ant": 1}, size=8))
    (tmp_path / "t" / "ant" / "notes.txt").touch()
    (tmp_path / "t" / ".hidden").mkdir()
    own = sources.load(spec("imagefolder", 3, family="own"), "train", {"own": tmp_path / "t"})
    assert own.class_names == ["10", "2", "ant"] and own.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert [own.file(i) for i in range(6)] == files
    again = sources.load(spec("imagefolder", 3, family="own"), "train", {"own": tmp_path / "t"})
    assert again.digest == own.digest


def test_no_part_is_another_ones_images(tmp_path: Path) -> None:
    list(tree(tmp_path, {"ant": 2, "bee": 1}, size=8))
    with pytest.raises(UserError, match=r"one tree.*no test part of its own; holdout\.test"):
        sources.load(spec("imagefolder", 2, family="own"), "test", {"own": tmp_path})
    for source in ("digits", "fashion_mnist", "cifar10"):
        with pytest.raises(UserError, match=rf"{source}: no val part of its own; holdout\.val"):
            sources.load(spec(source, 10), "val")


@pytest.mark.parametrize("held", ["val", "test"])
def test_train_and_test_trees(tmp_path: Path, held: str) -> None:
    list(tree(tmp_path / "train", {"ant": 2, "bee": 1}, size=8))
    list(tree(tmp_path / held, {"bee": 2}, size=8))
    own = spec("imagefolder", 2, family="own")
    test = sources.load(own, "test", {"own": tmp_path})
    assert test.labels.tolist() == [1, 1] and test.paths[0].startswith(f"{held}/bee/")
    assert sources.load(own, "train", {"own": tmp_path}).paths[0].startswith("train/ant/")
    list(tree(tmp_path / held, {"beee": 1}, size=8))
    with pytest.raises(UserError, match=r"class 'beee' is not in .*did you mean 'bee'"):
        sources.load(own, "test", {"own": tmp_path})


def test_trees_that_are_not_one(tmp_path: Path) -> None:
    own = spec("imagefolder", 2, family="own")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="no class folders"):
        sources.load(own, "train", {"own": tmp_path})
    list(tree(tmp_path / "train", {"ant": 2, "bee": 0}, size=8))
    with pytest.raises(UserError, match="bee: a class without images"):
        sources.load(own, "train", {"own": tmp_path})
    with pytest.raises(UserError, match=r"no folder test or val/"):
        sources.load(own, "test", {"own": tmp_path})


def test_imagenet_bal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BAL_PER_CLASS", 12)
    root = rehearse("imagenet_bal", tmp_path / "i", counts=[14, 12], test_per_class=3, pixels="empty")
    bal = spec("imagenet_bal", 2)
    train = sources.load(bal, "train", {"imagenet": root})
    assert np.bincount(train.labels).tolist() == [12, 12]
    first = sorted(path.name for path in (root / "train").iterdir())[0]
    wanted = sorted(path.name for path in (root / "train" / first).iterdir())[:12]
    assert [Path(path).name for path in train.paths[:12]] == wanted
    assert len(sources.load(bal, "test", {"imagenet": root})) == 6
    with pytest.raises(UserError, match="no validation part"):
        sources.load(bal, "val", {"imagenet": root})
    monkeypatch.setattr(sources, "BAL_PER_CLASS", 13)
    with pytest.raises(UserError, match="12 images, imagenet_bal needs 13"):
        sources.load(bal, "train", {"imagenet": root})


def test_find_root_order(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cifar10: no data; put it in data/cifar10, .*download\('cifar10'"):
        sources.find_root("cifar10_lt")
    (elsewhere / "data" / "cifar10").mkdir(parents=True)
    assert sources.find_root("cifar10_lt") == Path("data/cifar10")
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("LT_DATA_ROOT", str(tmp_path))
    assert sources.find_root("cifar10_lt") == tmp_path / "cifar10"
    (elsewhere / "mine").mkdir()
    (elsewhere / "paths.local.yaml").write_text("cifar10: mine\n")
    assert sources.find_root("cifar10_lt") == Path("mine")
    (elsewhere / "paths.local.yaml").write_text("cifar10_lt: nowhere\n")
    with pytest.raises(UserError, match=r"paths\.local\.yaml: cifar10_lt: no folder nowhere"):
        sources.find_root("cifar10_lt")


@pytest.mark.parametrize("text", ["- a\n", "cifar10: [\n", "cifar10: 3\n"])
def test_bad_local_paths(elsewhere: Path, text: str) -> None:
    (elsewhere / "paths.local.yaml").write_text(text)
    with pytest.raises(UserError, match=r"paths\.local\.yaml") as caught:
        sources.find_root("cifar10_lt")
    assert "\n" not in str(caught.value)


def test_debian_folder_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEBIAN_FASHION", tmp_path)
    assert sources.find_root("fashion_mnist_lt") == tmp_path


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="unknown data source 'cifar1O'; did you mean 'cifar1"):
        sources.load(spec("cifar1O", 10), "train")
    with pytest.raises(UserError, match="unknown part 'tset'; did you mean 'test'"):
        sources.load(spec("digits", 10), "tset")
    with pytest.raises(UserError, match="num_classes is 9, the data has 10"):
        sources.load(spec("digits", 9), "train")


def test_list_labels_out_of_range(tmp_path: Path) -> None:
    write_list(tmp_path / "t.txt", ["a.jpg", "b.jpg"], np.array([0, 5]))
    own = spec("list", 3, family="own", lists={"train": "t.txt"})
    with pytest.raises(UserError, match=r"t\.txt:2: label 5, expected 0\.\.2"):
        sources.load(own, "train", {"own": tmp_path})


def test_download_asks_torchvision_for_both_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lt.compat  # noqa: F401, I001
    from torchvision import datasets

    calls = []
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, **options: calls.append((root, options)))
    sources.download("cifar10", tmp_path)
    assert calls == [(str(tmp_path), {"train": half, "download": True}) for half in (True, False)]
    with pytest.raises(UserError, match="unknown download 'imagenet'"):
        sources.download("imagenet", tmp_path)


DEBIAN = sources.DEBIAN_FASHION


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_debian_fashion() -> None:
    fashion = spec("fashion_mnist", 10, family="fashion_mnist_lt")
    for part, each in (("train", 6000), ("test", 1000)):
        found = sources.load(fashion, part, {"fashion_mnist": DEBIAN})
        assert np.bincount(found.labels).tolist() == [each] * 10
        assert found.images.shape == (10 * each, 1, 28, 28)


def test_local_paths_in_another_encoding(elsewhere: Path) -> None:
    (elsewhere / "paths.local.yaml").write_bytes(b"inat18: /data/\xe9t\xe9\n")
    with pytest.raises(UserError, match=r"^paths\.local\.yaml: not UTF-8 text; save it as UTF-8$"):
        sources.find_root("inat18")
