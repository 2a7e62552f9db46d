"""What a data set needs on this machine, and what of it is missing: one line each, nothing is read whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lt import registry
from lt.checks import IMPLICIT
from lt.config import Config
from lt.data import cifar_files, sources
from lt.data.lists import OFFICIAL, find_list, known_files
from lt.errors import UserError, nearest
from lt.schema import RUN, Dataset, Run

WEIGHTS = Path("data") / "weights"
RESULT = re.compile(r"[\w./-]+", re.ASCII)
FIGURE = re.compile(r"results/figures/(\w+)/(\w+)\.svg", re.ASCII)


@dataclass(frozen=True)
class Input:
    """`kind`: root, list, file or weights. Where `path` is None the input is missing and `line` says what to do."""

    kind: str
    name: str
    path: Path | None
    line: str = ""


def inputs_of(data: Dataset) -> Iterator[Input]:
    """Everything that this data set reads."""
    if data.source == "digits":
        return
    family = data.family if data.family in sources.FOLDERS or data.source not in sources.FOLDERS else data.source
    root = _root(family)
    yield root
    if data.source == "fashion_mnist" and root.path:
        stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        for name in stems:
            yield _try("file", f"{name}-ubyte", lambda n=name: sources._idx_file(root.path, f"{n}-ubyte"))
    elif data.source in cifar_files.LAYOUT and root.path:
        yield _try("file", data.source, lambda: cifar_files.folder(root.path, data.source))
    elif data.source in ("list", "imagenet_bal"):
        yield from _lists(data, root)


def _root(family: str) -> Input:
    return _try("root", family, lambda: sources.find_root(family))


def _try(kind: str, name: str, find) -> Input:
    try:
        return Input(kind, name, find())
    except UserError as error:
        return Input(kind, name, None, str(error))


def _lists(data: Dataset, root: Input) -> Iterator[Input]:
    """The official lists, or those that the data set names; they may lie beside the images or in data/lists."""
    names = {**OFFICIAL.get(data.family, {}), **data.lists}
    if data.source == "imagenet_bal":  # its training list is made from the images
        names = {"test": OFFICIAL["imagenet_lt"]["test"]}
    for name in names.values():
        folders = sources.list_folders(root.path) if root.path else [sources.LISTS]
        found = _try("list", name, lambda folders=folders, name=name: find_list(folders, name))
        if found.path is None:
            lines = {k["lines"] for k in known_files() if k["name"] == name}
            size = f" ({max(lines)} lines)" if lines else ""
            where = f"{root.path} or " if root.path else "the image folder or "
            found = Input("list", name, None, f"{data.family}: no list {name}{size}; put it in {where}{sources.LISTS}")
        yield found


def weights_of(config: Config) -> Iterator[tuple[str, Input]]:
    """The files behind imported stages, with the stage that each stands in for."""
    for run, stage, imported in config.imports():
        file, place = WEIGHTS / imported["file"], config.folder(run, stage)
        line = f"{place}: no file {file}; lt import FILE --as results/{place}"
        yield place, Input("weights", imported["file"], file if file.is_file() else None, line)


def missing_inputs(config: Config, datasets: Iterable[str], stages: Iterable[str] = ()) -> list[str]:
    """One line for each input of these data sets, and of those of these stages that are imported, that is not there."""
    lines: dict[str, None] = {}
    for name in sorted(set(datasets)):
        try:
            found = list(inputs_of(config.dataset(name)))
        except UserError as error:  # paths.local.yaml itself is wrong
            lines[str(error)] = None
            continue
        lines.update(dict.fromkeys(each.line for each in found if each.path is None))
    wanted = set(stages)
    lines.update(dict.fromkeys(i.line for stage, i in weights_of(config) if stage in wanted and i.path is None))
    lines.update(dict.fromkeys(_stages(config, wanted)))
    return list(lines)


def _stages(config: Config, stages: Iterable[str]) -> Iterator[str]:
    """What is wrong with the values of these stages, or with torchvision's weights that one of them starts from."""
    archs = set()
    for path in stages:
        run, _, stage = path.replace("/branches/", "/").rpartition("/")
        if not RUN.fullmatch(run) or config.stem(stage) not in config.stage_names(run.split("/")[1]):
            continue
        try:
            params = config.stage(Run.parse(run), stage).params
        except UserError as error:
            yield str(error)
            continue
        archs.add(None if getattr(params, "imported", None) else getattr(params, "pretrained", None))
    for arch in sorted(archs - {None}):
        if line := pretrained(arch).line:
            yield line


def pretrained(arch: str) -> Input:
    """torchvision's ImageNet weights of a network; a file of another size or digest is named as wrong."""
    from lt.models.importing import torchvision_problem, torchvision_source

    file = WEIGHTS / torchvision_source(arch)["file"]
    problem = torchvision_problem(file, arch)
    return Input("weights", arch, None if problem else file, problem or "")


def missing_for(config: Config, outputs: Iterable[str]) -> list[str]:
    """The same, for the artefacts that are about to be made."""
    parts = [path.split("/")[1:-1] for path in outputs]
    return missing_inputs(config, {p[0] for p in parts if p}, {"/".join(p) for p in parts})


FOLDERS = {"branch": "branches", "subset": "subsets"}  # where several of a kind lie


def _check_stage(config: Config, target: str, method: str, stage: str) -> None:
    own = [s for s in config.stage_names(method) if s not in IMPLICIT]
    known = own if "metrics" in target.split("/") else [*(FOLDERS.get(s, s) for s in own), "recipe", "predictions"]
    if (config.stem(stage) if known is own else stage) not in known:
        raise UserError(f"{target}: no such stage '{stage}'{nearest(stage, known)}")


def check_targets(config: Config, targets: Iterable[str]) -> None:
    """A path that no rule would match, and Snakemake say only that: no such data set, recipe, stage, figure."""
    for target in targets:
        if target in config.params.tables or target.removeprefix("results/tables/") in config.params.tables:
            raise UserError(f"{target}: no such target; the table is results/tables/{target.rpartition('/')[2]}.csv")
        if target.startswith("results/") and (".." in target.split("/") or not RESULT.fullmatch(target)):
            raise UserError(f"{target}: names of results have letters, digits, '_', '-', '.' and no '..'")
        if figure := FIGURE.fullmatch(target):
            config.table(figure[1])
            if figure[2] not in (known := registry.members("figure")):
                raise UserError(f"{target}: no such figure '{figure[2]}'{nearest(figure[2], known)}")
        parts = [p for p in target.split("/") if p != "metrics"]
        if len(parts) < 5 or parts[0] != "results" or not parts[4].startswith("seed"):
            continue
        config.dataset(parts[1])
        config.recipe(parts[2])
        if len(parts) > 6:
            _check_stage(config, target, parts[2], parts[5])
