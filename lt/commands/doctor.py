"""`lt doctor`: what is here, what is missing, where to put it and what to type."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lt import artefact
from lt.commands.inputs import inputs_of, pretrained, weights_of
from lt.config import Config, load
from lt.errors import UserError
from lt.schema import Dataset

Line = tuple[str, str]  # (ok | missing | wrong | note, what)
MARKS = {"ok": "ok     ", "missing": "missing", "wrong": "WRONG  ", "note": "note   "}
SAMPLE = 200  # listed images that are looked for, spread over the list; --images looks for all


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", nargs="*", help="data sets to check (all of params.yaml); missing ones then fail")
    parser.add_argument("--images", action="store_true", help="look for every listed image, not for a sample")
    parser.add_argument("--decode", action="store_true", help="decode every listed image, which takes minutes")


def main(given: argparse.Namespace) -> None:
    counted: dict[str, int] = dict.fromkeys(MARKS, 0)
    lacking = 0  # of what was asked about: weights of other recipes are not
    for title, check in sections(given):
        print(f"\n{title}")
        for kind, line in guarded(check):
            counted[kind] += 1
            lacking += kind == "missing" and title.startswith("Data")
            print(f"  {MARKS[kind]}  {line}", flush=True)
    print(f"\n{counted['ok']} fine, {counted['missing']} missing, {counted['wrong']} wrong")
    if counted["wrong"] or (given.datasets and lacking):
        raise UserError("see the lines marked above")


def sections(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Iterator[Line]]]]:
    config = load()
    for name in given.datasets:
        config.dataset(name)
    yield "Project", lambda: project(config)
    for family, data in families(config, given.datasets).items():
        yield f"Data: {family}", lambda data=data: dataset(data, every=given.images, decode=given.decode)
    yield "Weights", lambda: weights(config)
    yield "Devices", devices
    yield "Cluster", slurm
    yield "DVC", dvc
    yield "Disk", disk


def guarded(check: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """A check that cannot be made is a line, too."""
    try:
        yield from check()
    except UserError as error:
        yield "wrong", str(error)
    except Exception as error:  # a doctor does not fall ill
        yield "wrong", f"cannot be checked: {type(error).__name__}: {error}"


def project(config: Config) -> Iterator[Line]:
    recipes, sets = len(config.params.recipes), len(config.params.datasets)
    yield "ok", f"{config.file}: {recipes} recipes, {sets} data sets, {len(config.params.tables)} tables"
    version = ".".join(map(str, sys.version_info[:3]))
    kind = "ok" if sys.version_info[:2] == (3, 11) else "wrong"
    hint = "" if kind == "ok" else "; the pins are for 3.11, `make test` sets up .venv with it"
    yield kind, f"python {version}{hint}"
    yield from _pins()
    git = artefact.git_revision()
    yield ("ok", f"git {git[:12]}") if git else ("note", "no git repository: everything works but `dvc exp`")


def _pins() -> Iterator[Line]:
    """Installed versions against requirements.lock."""
    from importlib import metadata

    lock = Path("requirements.lock")
    if not lock.is_file():
        yield "missing", f"{lock}: no such file; run from the project's root"
        return
    pins = (line.split("#")[0].split(";")[0].strip() for line in lock.read_text().splitlines())
    other, absent, count = [], [], 0
    for name, _, version in (p.partition("==") for p in pins if "==" in p):
        count += 1
        try:
            found = metadata.version(name.split("[")[0])
        except metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if found.split("+")[0] != version.split("+")[0]:
            other.append(f"{name} {found}, pinned {version}")
    if absent:
        yield "missing", f"packages: {', '.join(absent)}; type: pip install -r {lock}"
    for line in other:
        yield "note", f"package {line}"
    if not absent and not other:
        yield "ok", f"{count} packages as pinned in {lock}"


def families(config: Config, wanted: list[str]) -> dict[str, Dataset]:
    """One data set a family stands for all that read the same files."""
    found: dict[str, Dataset] = {}
    for name in wanted or config.params.datasets:
        data = config.dataset(name)
        found.setdefault(data.family, data)
    return found


def dataset(data: Dataset, *, every: bool, decode: bool = False) -> Iterator[Line]:
    """Its folder, its lists against the published ones, and whether the listed images are there."""
    if data.source == "digits":
        yield "ok", "comes with scikit-learn"
        return
    root: Path | None = None
    for each in inputs_of(data):
        if each.path is None:
            yield "missing", each.line
        elif each.kind == "root":
            root = each.path
            yield "ok", f"folder {root}"
        elif each.kind == "list":
            yield from _list(data, each.path, root, every=every or decode)
            if decode and root:
                yield from _decoded(each.path, root, data.prefix)
    if root and data.source in ("fashion_mnist", "cifar10", "cifar100"):
        yield from _counts(data)
    if root and data.source == "imagefolder":
        from lt.data.sources import folder_classes

        base = root / "train" if (root / "train").is_dir() else root
        count = len(folder_classes(base))
        kind = "ok" if count == data.num_classes else "wrong"
        yield kind, f"{base}: {count} class folders, num_classes is {data.num_classes}"
        if decode:
            yield from _folders_decoded(data)


def _list(data: Dataset, path: Path, root: Path | None, *, every: bool) -> Iterator[Line]:
    from lt.data.lists import OFFICIAL, missing_files, read_list, verify

    official = {name: part for part, name in OFFICIAL.get(data.family, OFFICIAL["imagenet_lt"]).items()}
    part = official.get(path.name)
    if part:
        family = data.family if data.family in OFFICIAL else "imagenet_lt"
        verdict = verify(path, family=family, part=part)
        kind = {"official": "ok", "same counts": "ok", "unknown": "note", "wrong": "wrong"}[verdict.kind]
        yield kind, verdict.message
        if verdict.kind == "wrong":
            return
    if root is None:
        return
    paths = read_list(path, prefix=data.prefix).paths
    chosen = paths if every else paths[:: max(len(paths) // SAMPLE, 1)]
    lost = missing_files(root, chosen)
    tried = "all" if every else f"{len(chosen)} tried of"
    if lost:
        top = lost[0].split("/")[0]
        hint = f"; is the folder {root / top} there? prefix: maps folder names" if not (root / top).exists() else ""
        yield "missing", f"{path.name}: {len(lost)} images ({tried} {len(paths)}), first {root / lost[0]}{hint}"
    else:
        yield "ok", f"{path.name}: images are there ({tried} {len(paths)})"


def _decoded(path: Path, root: Path, prefix: dict[str, str]) -> Iterator[Line]:
    from lt.data.lists import read_list

    files = [root / name for name in read_list(path, prefix=prefix).paths]
    yield from _readable(files, path.name, lambda place: f"{path.name}:{place + 1}")


def _folders_decoded(data: Dataset) -> Iterator[Line]:
    from lt.data import sources

    for part in ["train"] if data.holdout.test else ["train", "test"]:
        found = sources.load(data.model_dump(), part)
        yield from _readable([found.root / name for name in found.paths], part, lambda _, part=part: part)


def _readable(files: list[Path], name: str, place_of: Callable[[int], str]) -> Iterator[Line]:
    from lt.data.pack import unreadable

    problems = unreadable(files, processes=len(os.sched_getaffinity(0)))
    for place, reason in problems:
        yield "wrong", f"{place_of(place)}: cannot read image {files[place]}: {reason}"
    if not problems:
        yield "ok", f"{name}: all {len(files)} images can be read"


FULL = {"fashion_mnist": (6000, 1000), "cifar10": (5000, 1000), "cifar100": (500, 100)}


def _counts(data: Dataset) -> Iterator[Line]:
    """Small sets are read whole: the published number of images in every class."""
    from lt.data import sources
    from lt.data.class_map import counts_of

    for part, want in zip(("train", "test"), FULL[data.source], strict=True):
        counts = counts_of(sources.load(data.model_dump(), part).labels, data.num_classes)
        if (counts == want).all():
            yield "ok", f"{part}: {counts.sum()} images, {want} a class"
        else:
            c = int((counts != want).argmax())
            yield "wrong", f"{part}: class {c} has {counts[c]} images, the published set has {want}"


def weights(config: Config) -> Iterator[Line]:
    found = False
    for stage, each in weights_of(config):
        found = True
        yield ("ok", f"{stage}: {each.path}") if each.path else ("missing", each.line)
    for arch, recipes in sorted(_pretrained(config).items()):
        found = True
        each = pretrained(arch)
        kind = "ok" if each.path else "wrong" if "wrong" in each.line else "missing"
        yield kind, f"{arch}, for {', '.join(recipes)}: {each.path or each.line}"
    if not found:
        yield "ok", "none asked for; lt import FILE --as STAGE brings a checkpoint in"


def _pretrained(config: Config) -> dict[str, list[str]]:
    """Networks that some layer of a recipe starts from torchvision's weights."""
    found: dict[str, list[str]] = {}
    for method in config.params.recipes:
        for _, layer in config.own_layers(method):
            for values in (layer.get("stages") or {}).values():
                arch = (values or {}).get("pretrained")
                if arch and method not in found.setdefault(arch, []):
                    found[arch].append(method)
    return found


def devices() -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0))
    yield "ok", f"{cores} CPU cores"
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield "ok", f"GPU {index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    elif shutil.which("nvidia-smi"):
        yield "missing", f"a GPU is there, but torch {torch.__version__} cannot use it; install torch for CUDA"
    else:
        yield "note", "no GPU: the demo and the small sets run on CPU; the large recipes ask for one"


def _answer(*command: str) -> str | None:
    """First line that a tool prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def slurm() -> Iterator[Line]:
    if not shutil.which("sbatch"):
        yield "note", "no SLURM here; on a cluster: snakemake --profile profiles/slurm TABLE"
        return
    from importlib.util import find_spec

    state = _answer("sinfo", "--noheader", "--format=%P %D nodes %a")
    yield ("ok", f"SLURM: {state}") if state else ("wrong", "sbatch is there, sinfo does not answer: is slurmctld up?")
    if find_spec("snakemake_executor_plugin_slurm") is None:
        yield "missing", "snakemake's SLURM plugin; type: pip install -e '.[slurm]'"


def dvc() -> Iterator[Line]:
    version = _answer(sys.executable, "-m", "dvc", "--version")
    if version is None:
        yield "missing", "DVC; type: pip install -r requirements.lock"
        return
    yield "ok", f"DVC {version}"
    if not Path(".dvc").is_dir():
        yield "missing", "no .dvc folder; type: dvc init (without git: dvc init --no-scm)"
        return
    remote = _answer(sys.executable, "-m", "dvc", "remote", "list")
    yield ("ok", f"remote {remote}") if remote else ("note", "no remote; to share: dvc remote add -d NAME FOLDER")


def disk() -> Iterator[Line]:
    for name in ("results", "scratch", "data"):
        path = Path(name)
        here = path if path.exists() else Path(".")
        usage = shutil.disk_usage(here)
        free = usage.free / 2**30
        if not os.access(here, os.W_OK):
            yield ("note" if name == "data" else "wrong"), f"{name}: {here.resolve()} cannot be written to"
        else:
            yield ("ok" if free > 5 else "note"), f"{name}: {free:.0f} GiB free of {usage.total / 2**30:.0f}"
