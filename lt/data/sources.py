"""Where images come from: one `Source` for sets in memory and for sets of files."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lt.data import cifar_files
from lt.data.class_map import counts_of
from lt.data.lists import OFFICIAL, find_list, read_list
from lt.errors import UserError, nearest, pick

PARTS = ("train", "val", "test")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
LOCAL_FILE = "paths.local.yaml"
LISTS = Path("data") / "lists"
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist


@dataclass(frozen=True)
class Source:
    """One part of a data set. Either `images` (uint8 [N, C, H, W]) or `paths`, relative to `root`.

    `pack` holds the images of `paths` where they were packed; `listed_in` is the list that they stand in, line by line.
    """

    name: str
    labels: np.ndarray
    num_classes: int
    images: np.ndarray | None = None
    paths: list[str] | None = None
    root: Path | None = None
    class_names: list[str] | None = None
    digest: str = ""
    listed_in: Path | None = None
    pack: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def file(self, index: int) -> Path:
        assert self.paths is not None and self.root is not None
        return self.root / self.paths[index]

    def relabelled(self, class_map: np.ndarray) -> Source:
        """The same images with labels renumbered; `class_map[old] = new`."""
        names = self.class_names
        if names is not None:
            names = [names[old] for old in np.argsort(class_map)]
        return replace(self, labels=np.asarray(class_map)[self.labels], class_names=names)


# Folder names tried under a root, by family or source; the first is the one that messages name.
FOLDERS: dict[str, tuple[str, ...]] = {
    "fashion_mnist_lt": ("fashion_mnist", "fashion_mnist_lt"),
    "fashion_mnist": ("fashion_mnist", "fashion_mnist_lt"),
    "cifar10": ("cifar10", "cifar10_lt"),
    "cifar100": ("cifar100", "cifar100_lt"),
    "cifar10_lt": ("cifar10", "cifar10_lt"),
    "cifar100_lt": ("cifar100", "cifar100_lt"),
    "imagenet_lt": ("imagenet_lt", "imagenet"),
    "imagenet_bal": ("imagenet_bal", "imagenet_lt", "imagenet"),
    "places_lt": ("places_lt", "places"),
    "inat18": ("inat18",),
}
DOWNLOADS = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def local_roots(project_root: Path | str = ".") -> dict[str, Path]:
    """`paths.local.yaml`: one `family: folder` a line; {} where there is none."""
    file = Path(project_root) / LOCAL_FILE
    if not file.is_file():
        return {}
    import yaml

    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"{file}: cannot read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise UserError(f"{file}: expected lines like 'imagenet_lt: /folder/of/images'")
    return {str(k): Path(project_root, os.path.expanduser(v)) for k, v in entries.items()}


def find_root(family: str, project_root: Path | str = ".") -> Path:
    """Folder of a data set: paths.local.yaml, then $LT_DATA_ROOT/<name>, then data/<name>."""
    names = FOLDERS.get(family, (family,))
    local = local_roots(project_root)
    for name in dict.fromkeys((family, *names)):
        if name in local:
            if not local[name].is_dir():
                raise UserError(f"{LOCAL_FILE}: {name}: no folder {local[name]}")
            return local[name]
    bases = [Path(os.environ["LT_DATA_ROOT"])] if os.environ.get("LT_DATA_ROOT") else []
    bases.append(Path(project_root) / "data")
    for base in bases:
        for name in names:
            if (base / name).is_dir():
                return base / name
    if names[0] == "fashion_mnist" and DEBIAN_FASHION.is_dir():
        return DEBIAN_FASHION
    raise UserError(_how_to_get(names[0], bases[0] / names[0]))


def _how_to_get(name: str, folder: Path) -> str:
    line = f"{name}: no data; put it in {folder}, set LT_DATA_ROOT, or write '{name}: FOLDER' in {LOCAL_FILE}"
    if name in DOWNLOADS:
        line += f"; to download: python -c \"from lt.data.sources import download; download('{name}', '{folder}')\""
    return line


def download(name: str, folder: Path | str) -> None:
    """Fetch a small set with torchvision, which checks the files' digests."""
    import lt.compat  # noqa: F401, I001
    from torchvision import datasets

    kind = getattr(datasets, pick("download", name, DOWNLOADS))
    for train in (True, False):
        kind(str(folder), train=train, download=True)


def load(spec: Mapping[str, Any], part: str, roots: Mapping[str, Path | str] | None = None) -> Source:
    """One part of the data set that `spec` describes.

    `spec`: source, family, num_classes and, for files, lists and prefix. `roots` (family -> folder) comes first;
    what it does not name is looked for by `find_root`.
    """
    if part not in PARTS:
        raise UserError(f"unknown part '{part}'{nearest(part, PARTS)}")
    reader = pick("data source", str(spec.get("source")), SOURCES)
    source = reader(spec, part, roots or {})
    classes = spec.get("num_classes")
    if classes is not None and source.num_classes != classes:
        raise UserError(f"{source.name}: num_classes is {classes}, the data has {source.num_classes}")
    counts_of(source.labels, source.num_classes)
    return source


def _root(spec: Mapping[str, Any], roots: Mapping[str, Path | str]) -> Path:
    family = str(spec.get("family") or spec["source"])
    for name in dict.fromkeys((family, str(spec["source"]), *FOLDERS.get(family, ()))):
        if name in roots:
            return Path(roots[name])
    return find_root(family if family in FOLDERS or spec["source"] not in FOLDERS else str(spec["source"]))


def _in_memory(name: str, images: np.ndarray, labels: np.ndarray, class_names: list[str]) -> Source:
    images, labels = np.ascontiguousarray(images), np.asarray(labels, dtype=np.int64)
    digest = hashlib.sha256(f"{images.shape}".encode())
    digest.update(images)
    digest.update(labels.astype("<i8"))
    return Source(name, labels, len(class_names), images=images, class_names=class_names, digest=digest.hexdigest())


def _refuse_part(name: str, part: str, own: tuple[str, ...] = ("train",)) -> None:
    """Images that a split sets out of `train` count there; asking for them elsewhere would mix the parts."""
    if part not in own:
        raise UserError(f"{name}: no {part} part of its own; holdout.{part} sets images out of train")


def _digits(spec: Mapping[str, Any], part: str, roots: Mapping[str, Path | str]) -> Source:
    """scikit-learn's 1,797 digits, 8 x 8, grey 0..16 stretched to 0..255, one pool called train."""
    _refuse_part("digits", part)
    # the table is read directly: importing sklearn costs a second in every job
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("digits: scikit-learn is not installed; pip install scikit-learn")
    table = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():
        rows = np.loadtxt(table, delimiter=",", dtype=np.int64)
        pixels, labels = rows[:, :-1], rows[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels.astype(np.float64) * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return _in_memory("digits", images, labels, [str(d) for d in range(10)])


FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def _fashion_mnist(spec: Mapping[str, Any], part: str, roots: Mapping[str, Path | str]) -> Source:
    _refuse_part("fashion_mnist", part, ("train", "test"))
    root, stem = _root(spec, roots), {"train": "train", "test": "t10k"}[part]
    images = read_idx(_idx_file(root, f"{stem}-images-idx3-ubyte"))
    labels = read_idx(_idx_file(root, f"{stem}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(f"{root}: {stem} images {images.shape} do not fit labels {labels.shape}")
    return _in_memory("fashion_mnist", images[:, None], labels, FASHION)


def _idx_file(root: Path, name: str) -> Path:
    for folder in (root, root / "raw", root / "FashionMNIST" / "raw"):
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    raise UserError(f"{root}: {name}[.gz] not found here, in raw/ or in FashionMNIST/raw/")


def read_idx(file: Path) -> np.ndarray:
    """IDX of unsigned bytes: 0, 0, 8, number of dimensions, big-endian sizes, data."""
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            raw = stream.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{file}: cannot read ({error})") from None
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{file}: not an IDX file of bytes")
    start = 4 + 4 * raw[3]
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], ">u4"))
    if int(np.prod(shape, dtype=np.int64)) != len(raw) - start:
        raise UserError(f"{file}: {len(raw) - start} bytes of data, its header says {shape}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _cifar(kind: str) -> Callable[[Mapping[str, Any], str, Mapping[str, Path | str]], Source]:
    def reader(spec: Mapping[str, Any], part: str, roots: Mapping[str, Path | str]) -> Source:
        _refuse_part(kind, part, ("train", "test"))
        return _in_memory(kind, *cifar_files.read(_root(spec, roots), kind, part))

    return reader


def list_folders(root: Path) -> list[Path]:
    """Where list files may lie, in the order in which they are looked for."""
    return [root, root / "lists", root / "data_txt", LISTS]


def _list(spec: Mapping[str, Any], part: str, roots: Mapping[str, Path | str]) -> Source:
    """Official list files and the user's image root. The lists lie in the root, in `lists/`, or where they say."""
    root, family = _root(spec, roots), str(spec.get("family", "list"))
    names = {**OFFICIAL.get(family, {}), **(spec.get("lists") or {})}
    if part not in names:
        raise UserError(f"{family}: no {part} list; known parts: {', '.join(names) or 'none, set lists'}")
    listed = read_list(find_list(list_folders(root), names[part]), prefix=spec.get("prefix"))
    classes = int(spec.get("num_classes") or listed.labels.max() + 1)
    if listed.labels.max() >= classes:
        line = int((listed.labels >= classes).argmax())
        raise UserError(f"{listed.file}:{line + 1}: label {listed.labels[line]}, expected 0..{classes - 1}")
    return Source(
        family, listed.labels, classes, paths=listed.paths, root=root, digest=listed.digest, listed_in=listed.file
    )


def _of_files(name: str, root: Path, class_names: list[str], files: list[list[str]]) -> Source:
    paths = [path for group in files for path in group]
    labels = np.repeat(np.arange(len(files), dtype=np.int64), [len(group) for group in files])
    text = "".join(f"{path} {label}\n" for path, label in zip(paths, labels.tolist(), strict=True))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return Source(name, labels, len(class_names), paths=paths, root=root, class_names=class_names, digest=digest)


def folder_classes(folder: Path) -> list[str]:
    """Class folders in string order, as every folder-of-folders tool numbers them ("10" before "2")."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot list ({error.strerror})") from None
    if not names:
        raise UserError(f"{folder}: no class folders in it")
    return names


def folder_images(folder: Path) -> list[str]:
    """Image files below a class folder, sorted, relative to it."""
    found = []
    for base, folders, names in os.walk(folder):
        folders.sort()
        inner = os.path.relpath(base, folder)
        inner = "" if inner == "." else inner.replace(os.sep, "/") + "/"
        found += [inner + n for n in names if n.lower().endswith(IMAGE_ENDINGS) and not n.startswith(".")]
    return sorted(found)


def _imagefolder(spec: Mapping[str, Any], part: str, roots: Mapping[str, Path | str]) -> Source:
    """A folder of folders: `train/`, `val/`, `test/` (or as `lists` names them), or one tree for everything."""
    root, named = _root(spec, roots), dict(spec.get("lists") or {})
    train = root / named.get("train", "train")
    if train.is_dir():
        choices = [named[part]] if part in named else {"test": ["test", "val"]}.get(part, [part])
        folder = next((root / name for name in choices if (root / name).is_dir()), None)
        if folder is None:
            raise UserError(f"{root}: no folder {' or '.join(choices)}/; make one or set holdout.{part}")
    else:
        _refuse_part(f"{root} (one tree)", part)
        train = folder = root
    classes = folder_classes(train)
    unknown = sorted(set(folder_classes(folder)) - set(classes))
    if unknown:
        raise UserError(f"{folder}: class '{unknown[0]}' is not in {train}{nearest(unknown[0], classes)}")
    files = [folder_images(folder / name) for name in classes]
    for name, group in zip(classes, files, strict=True):
        if not group and folder == train:
            raise UserError(f"{folder / name}: a class without images; add some or remove the folder")
    inner = "" if folder == root else folder.relative_to(root).as_posix() + "/"
    files = [[f"{inner}{name}/{p}" for p in group] for name, group in zip(classes, files, strict=True)]
    return _of_files(str(spec.get("family", "imagefolder")), root, classes, files)


BAL_PER_CLASS = 160  # LiVT: ImageNet-BAL, 160,000 images of 1,000 classes


def _imagenet_bal(spec: Mapping[str, Any], part: str, roots: Mapping[str, Path | str]) -> Source:
    """The first 160 images of each ImageNet class by sorted name (the published set: by directory order)."""
    root = _root(spec, roots)
    if part == "val":
        raise UserError("imagenet_bal: no validation part; ImageNet-LT's own may share images with this one")
    if part == "test":
        source = _list({**spec, "family": "imagenet_lt"}, part, {"imagenet_lt": root})
        return replace(source, name="imagenet_bal")
    classes = folder_classes(root / "train")
    files = []
    for name in classes:
        images = folder_images(root / "train" / name)[:BAL_PER_CLASS]
        if len(images) < BAL_PER_CLASS:
            where = root / "train" / name
            raise UserError(f"{where}: {len(images)} images, imagenet_bal needs {BAL_PER_CLASS}")
        files.append([f"train/{name}/{image}" for image in images])
    return _of_files("imagenet_bal", root, classes, files)


SOURCES: dict[str, Callable[[Mapping[str, Any], str, Mapping[str, Path | str]], Source]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "list": _list,
    "imagefolder": _imagefolder,
    "imagenet_bal": _imagenet_bal,
}
