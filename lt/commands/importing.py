"""`lt import FILE --as STAGE`: try the file, keep it in data/weights/, name it in params.yaml, make the stage."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from lt.config import Config, Run, load
from lt.errors import UserError, nearest


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a checkpoint in one of the official layouts, or .safetensors")
    parser.add_argument("--as", dest="stage", required=True, metavar="STAGE",
                        help="results/<dataset>/<method>/<arch>/seed<k>/<stage>")  # fmt: skip
    parser.add_argument("--layout", default="auto", help="whose file it is; known from its contents if not given")
    parser.add_argument("--drop", action="append", default=[], metavar="PREFIX",
                        help="entries to leave out, and as drawn in the network")  # fmt: skip
    parser.add_argument("--plan", action="store_true", help="name it in params.yaml only; make nothing yet")


def main(given: argparse.Namespace) -> None:
    config = load()
    run, stage = place(config, given.stage)
    report = trial(config, run, stage, given)
    entry = {"file": keep(given.file, report["sha256"]), "sha256": report["sha256"], "layout": report["layout"]}
    if given.drop:
        entry["drop"] = given.drop
    register(Path(config.file), run, stage, entry)
    manifest = f"results/{config.folder(run, stage)}/manifest.json"
    print(f"{given.file}: layout {report['layout']}, class order {report['class_map']}, {report['loaded']} entries"
          f" taken, {len(report['dropped'])} left out, {len(report.get('kept', ()))} as drawn")  # fmt: skip
    print(f"{config.file}: recipes.{run.method}.runs.{run}.stages.{stage}.imported")
    if given.plan:
        print(f"next: snakemake --cores all {manifest}" + ("   (or dvc repro)" if config.stem(stage) == stage else ""))
        return
    done = subprocess.run([sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all", "--", manifest])
    if done.returncode:
        raise UserError(f"{manifest}: not made yet; go on with: snakemake --cores all {manifest}")
    print(manifest)


def place(config: Config, text: str) -> tuple[Run, str]:
    """The run and the stage that a path names, if a network comes out of it and it lives there."""
    path = text.removesuffix("manifest.json").strip("/").removeprefix("results/")
    head, _, stage = path.rpartition("/")
    try:
        run = Run.parse(head.removesuffix("/branches"))
    except UserError:
        raise UserError(f"--as {text}: expected results/<dataset>/<method>/<arch>/seed<k>/<stage>") from None
    config.dataset(run.dataset)
    names = [s for s in config.stage_names(run.method) if s not in ("predict", "evaluate")]
    stem = config.stem(stage)
    if stem not in names:
        raise UserError(f"--as {text}: {run.method} has no stage '{stage}'{nearest(stage, names)}")
    if stage == "branch":
        raise UserError(f"--as {text}: a file stands in for one branch; name it: results/{run}/branches/branch0")
    home, inner = config.home(run, stem)
    if (home, inner) != (run, stem):
        shared = config.folder(home, inner + stage.removeprefix(stem))
        raise UserError(f"--as {text}: this stage is shared; it lives in results/{shared}")
    verb = config.stage(run, stage).verb
    if verb != "train" and not (verb == "merge" and "branch" in names):
        raise UserError(f"--as {text}: '{stage}' is not trained; weights stand in for training stages and merges only")
    count = config.stage(run, "merge").params.count if stem != stage and "merge" in config.stages_of(run) else 1
    if stem != stage and int(stage.removeprefix(stem)) >= count:
        raise UserError(f"--as {text}: {run.method} has the branches branch0 to branch{count - 1}")
    if any(each == (run, stage) for each in ((r, s) for r, s, _ in config.imports())):
        raise UserError(f"{config.file}: recipes.{run.method}.runs.{run}.stages.{stage}: names a file already")
    return run, stage


def trial(config: Config, run: Run, stage: str, given: argparse.Namespace) -> dict[str, Any]:
    """Load the file into the stage's network before anything is written."""
    if not given.file.is_file():
        raise UserError(f"{given.file}: no such file")
    from lt.stages import importing
    from lt.stages.common import Recipe
    from lt.stages.recipe import of_stage

    merged = config.stage(run, stage).verb == "merge"  # a network as its branches are
    model = importing.network(Recipe(of_stage(config, *(config.home(run, "branch") if merged else (run, stage)))))
    return importing.read_into(model, given.file, layout=given.layout, drop=given.drop)


def keep(file: Path, sha256: str) -> str:
    """Copy the file to data/weights/; another file of that name keeps its own."""
    from lt.artefact import sha256 as digest
    from lt.commands.inputs import WEIGHTS

    WEIGHTS.mkdir(parents=True, exist_ok=True)
    target = WEIGHTS / file.name
    if target.exists() and digest(target) != sha256:
        target = WEIGHTS / f"{sha256[:8]}-{file.name}"
    if not target.exists():
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(file, temporary)
        temporary.replace(target)
    return target.name


def register(params: Path, run: Run, stage: str, entry: dict[str, Any]) -> None:
    """Write the entry into params.yaml as text, so that comments and layout stay; checked by reading it again."""
    from lt.artefact import write_text

    text = params.read_text()
    wanted = yaml.safe_load(text)
    runs = wanted["recipes"][run.method].setdefault("runs", {}) or {}
    wanted["recipes"][run.method]["runs"] = runs
    layer = runs.setdefault(str(run), {})
    layer.setdefault("stages", {}).setdefault(stage, {})["imported"] = entry
    new = inserted(text, run, stage, json.dumps(entry))
    if new is None or yaml.safe_load(new) != wanted:
        line = f"runs: {{{run}: {{stages: {{{stage}: {{imported: {json.dumps(entry)}}}}}}}}}"
        raise UserError(f"{params}: recipes.{run.method} shares its text with others (&, *); write by hand: {line}")
    Config(yaml.safe_load(new), file=str(params))
    write_text(params, new)


def inserted(text: str, run: Run, stage: str, entry: str) -> str | None:
    """The text with the entry added to the deepest mapping of its place that is there, in that mapping's own form."""
    place = ["recipes", run.method, "runs", str(run), "stages", stage]
    node, missing = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), list(place)
    while missing and isinstance(node, yaml.MappingNode):
        child = next((value for key, value in node.value if key.value == missing[0]), None)
        if child is None:
            break
        node, missing = child, missing[1:]
    if not isinstance(node, yaml.MappingNode) or len(missing) > len(place) - 2:
        return None
    return (_in_braces if node.flow_style else _as_lines)(text, node, missing, entry)


def _in_braces(text: str, node: yaml.MappingNode, missing: list[str], entry: str) -> str:
    new = f"imported: {entry}"
    for name in reversed(missing):
        new = f"{name}: {{{new}}}"
    end = node.end_mark.index - 1  # the closing brace
    if node.value:
        after = re.sub(r"#.*", "", text[node.value[-1][1].end_mark.index : end])
        new = new if after.strip().startswith(",") else f", {new}"
    return text[:end] + new + text[end:]


def _as_lines(text: str, node: yaml.MappingNode, missing: list[str], entry: str) -> str:
    lines, end, column = text.splitlines(), node.end_mark.line, node.value[0][0].start_mark.column
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1  # before the blank lines and comments that belong to what comes next
    new = [f"{' ' * (column + 2 * i)}{name}:" for i, name in enumerate(missing)]
    new.append(f"{' ' * (column + 2 * len(missing))}imported: {entry}")
    return "\n".join([*lines[:end], *new, *lines[end:]]) + "\n"
