"""`recipe`: params.yaml -> the small file that one stage depends on: its numbers and the digest of its code."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lt import artefact, code, registry
from lt.config import Config, Run, load
from lt.errors import UserError

DATA_OF = {  # what a verb needs to know of its data set; nothing else may make it run again
    "split": None,
    "pack": ("source", "family", "num_classes", "lists", "prefix", "pack"),
    "train": ("source", "family", "num_classes", "image", "lists", "prefix", "pack"),
    "subset": ("source", "family", "num_classes", "image", "lists", "prefix"),
    "merge": ("source", "family", "num_classes", "image", "lists", "prefix", "pack"),
    "choose": ("source", "family", "num_classes", "image", "lists", "prefix", "pack"),
    "predict": ("source", "family", "num_classes", "image", "lists", "prefix", "pack"),
    "evaluate": ("family", "num_classes", "shots", "pack"),
}
LISTS = Path("data") / "lists"
NOT_FOR_SPLIT = ("image", "shots", "comparable", "why_not", "pack")


def _data(config: Config, dataset: str, verb: str) -> dict[str, Any]:
    known = _dataset_dict(config, dataset)
    keys = DATA_OF[verb] or tuple(k for k in known if k not in NOT_FOR_SPLIT)
    return {k: known[k] for k in keys if k != "pack" or known[k]}


@functools.lru_cache(maxsize=4096)
def _dataset_dict(config: Config, dataset: str) -> dict[str, Any]:
    return config.dataset(dataset).model_dump()


def of_split(config: Config, dataset: str, number: int) -> dict[str, Any]:
    """The recipe of `results/<dataset>/split<k>`."""
    digest = code.digest("scripts/split.py")
    return {"stage": "split", "verb": "split", "dataset": dataset, "seed": number, "code": digest,
            "data": _data(config, dataset, "split"), "lists": list_digests(config, dataset, "train"),
            "params": {}}  # fmt: skip


def of_pack(config: Config, dataset: str, part: str) -> dict[str, Any]:
    """The recipe of `results/<dataset>/pack/<part>`."""
    return {"stage": "pack", "verb": "pack", "dataset": dataset, "part": part, "code": code.digest("scripts/pack.py"),
            "data": _data(config, dataset, "pack"), "lists": list_digests(config, dataset, part),
            "params": {}}  # fmt: skip


def packs_of(config: Config, dataset: str, *parts: str) -> list[str]:
    """The packs that hold these parts of a data set: images set out of the training list lie with it."""
    data = config.dataset(dataset)
    held = {"train": 0, "val": data.holdout.val, "test": data.holdout.test}
    homes = dict.fromkeys("train" if held[part] else part for part in parts)
    return [f"results/{dataset}/pack/{home}/manifest.json" for home in homes] if data.pack else []


@functools.lru_cache(maxsize=4096)
def list_digests(config: Config, dataset: str, *parts: str) -> dict[str, str]:
    """Digests of the list files in data/lists. Lists beside the images are not looked at before the split is made."""
    data = config.dataset(dataset)
    if data.source not in ("list", "imagenet_bal"):
        return {}
    from lt.data.lists import OFFICIAL, file_digest

    if data.source == "imagenet_bal":  # only its test part is a list
        parts, official = tuple(p for p in parts if p != "train"), OFFICIAL["imagenet_lt"]
    else:
        official = OFFICIAL.get(data.family, {})
    names = {**official, **data.lists}
    files = {part: LISTS / names[part] for part in parts if part in names}
    return {part: file_digest(file) for part, file in files.items() if file.is_file()}


@functools.lru_cache(maxsize=65536)
def _params(config: Config, run: Run, stage: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    resolved = config.stage(run, stage)
    verb, params = resolved.verb, resolved.params.model_dump()
    if verb == "merge":
        verb, params = _merged(config, run, params)
    return verb, params, members(params, run.arch)


def _merged(config: Config, run: Run, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A merge from a file is a network as its branches are; one that looks at images sees them as predictions do."""
    if params["imported"]:
        branch = config.stage(*config.home(run, "branch")).params.model_dump()
        return "train", {**branch, "imported": params["imported"]}
    greedy = params["rule"]["name"] == "greedy_soup"
    if greedy and not _has_validation(config, run.dataset):
        raise UserError(f"{run}: greedy_soup scores on validation images; {run.dataset} has none: take another rule")
    if greedy or params["reestimate_bn"]:
        params["predict"] = {**config.stage(run, "predict").params.model_dump(), "outputs": []}
    return "merge", params


def _has_validation(config: Config, dataset: str) -> bool:
    """Images set out of the training list, or a list of their own."""
    from lt.data.lists import OFFICIAL

    data = config.dataset(dataset)
    official = OFFICIAL.get(data.family, {}) if data.source == "list" else {}
    return bool(data.holdout.val) or "val" in {**official, **data.lists}


def members(params: dict[str, Any], arch: str) -> tuple[str, ...]:
    """The modules of `lt` that these parameters reach through registries."""
    found = {*registry.modules(params), *registry.modules(params.get("predict") or {})}
    if params["verb"] in ("train", "predict", "subset", "merge", "choose"):
        found.add(registry.arch_module(params.get("net") or arch))
    if params.get("batchformer") is not None:
        found.add("lt.models.batchformer")
    if (params.get("rule") or {}).get("name") == "tau_norm":
        found.add("lt.models.experts")
    if params.get("bn_group"):
        found.add("lt.models.batch_groups")
    if params.get("sync_bn"):
        found.add("lt.models.sync")
    if params.get("redraw"):
        found.add("lt.stages.redraw")
    if params.get("imported") or params.get("pretrained"):
        found.add("lt.stages.importing")
    return tuple(sorted(found))


def of_stage(config: Config, run: Run, stage: str) -> dict[str, Any]:
    """The recipe of one stage of one run."""
    verb, params, modules = _params(config, run, stage)
    if config.dataset(run.dataset).pack and verb in ("train", "predict", "merge"):
        modules += ("lt.data.pack",)
    lists = {"lists": list_digests(config, run.dataset, "val", "test")} if verb == "predict" else {}
    return {
        **lists,
        "stage": stage,
        "verb": verb,
        "dataset": run.dataset,
        "method": run.method,
        "arch": run.arch,
        "seed": run.seed,
        "data": _data(config, run.dataset, verb),
        "params": params,
        "code": code.digest(f"scripts/{verb}.py", modules),
    }


LABELLED = ("classify", "experts", "two_streams")
PRINTED = {"imagenet_lt": "ImageNet-LT", "imagenet_bal": "ImageNet-BAL"}  # as lt/published.yaml names them


def _epochs(config: Config, run: Run) -> int | None:
    """Epochs of the first stage that trains the backbone on labels."""
    for name in config.stages_of(run):
        home, stage = config.home(run, name)
        verb, params, _ = _params(config, home, stage)
        if verb == "train" and params["task"] in LABELLED:
            return params["epochs"]
    return None


def _resolution(config: Config, run: Run) -> int | None:
    """The image size of the last training stage, where it is not the data set's."""
    found = None
    for name in config.stages_of(run):
        verb, params, _ = _params(config, *config.home(run, name))
        if verb == "train":
            found = (params.get("image") or {}).get("size")
    return found


def _external(config: Config, run: Run) -> str | None:
    """What else the networks behind a run were trained on: ImageNet's weights, or another set's stage."""
    found: dict[str, None] = {}
    family = config.dataset(run.dataset).family
    for name in config.stages_of(run):
        home, stage = config.home(run, name)
        if _params(config, home, stage)[1].get("pretrained"):
            found["ImageNet"] = None
        if config.dataset(home.dataset).family != family:
            other, _ = config.split_overlay(home.dataset)
            found[PRINTED.get(other, other)] = None
    return ", ".join(found) or None


def _number(value: Any) -> float | None:
    """A tau that is still to be tuned is none."""
    return value if isinstance(value, int | float) else None


def _published_as(config: Config, method: str, node: str, final: bool) -> str | None:
    """`published`: the name that the ledger has for a recipe's last node, or a name for each of several nodes."""
    said = config.meta(method, "published")
    return said.get(node) if isinstance(said, dict) else said if final else None


def of_row(config: Config, run: Run, node: str, final: bool) -> dict[str, Any]:
    """What a table says of a run before it reads its metrics."""
    data, posthoc = config.dataset(run.dataset), config.stage(run, "evaluate").params.posthoc
    _, overlay = config.split_overlay(run.dataset)
    why = data.why_not or (f"overlay {overlay}" if overlay else "")
    if data.pack and data.pack != "exact":
        why = "; ".join(filter(None, [why, f"other pixels: {data.pack}"]))
    return {
        "manifest": f"results/metrics/{run}/{node}/manifest.json",
        "dataset": run.dataset,
        "imb_factor": data.imbalance.imb_factor if data.imbalance else None,
        "method": run.method if final else f"{run.method}/{node}",
        "arch": run.arch,
        "resolution": _resolution(config, run) or data.image.size,
        "epochs": _epochs(config, run),
        "seed": run.seed,
        "tau": _number(posthoc.options().get("tau")) if posthoc else None,
        "holdout": run.dataset.endswith("_holdout"),
        "not_comparable": why or config.meta(run.method, "why_not") or None,
        "undertrained": any(layer.get("undertrained") for _, layer in config.layers(run)),
        "paper": config.meta(run.method, "paper"),
        "title": config.meta(run.method, "title", run.method) + ("" if final else f": {node}"),
        "published_as": _published_as(config, run.method, node, final),
        "external_data": _external(config, run),
    }


@functools.cache  # a rule asks for the rows and for the recipe
def of_table(config: Config, table: str) -> dict[str, Any]:
    """The rows of a table, and where the metrics of each one lie."""
    rows = [of_row(config, run, node, node == config.final_stage(run.method)) for run, node in config.rows(table)]
    return {
        "stage": "tabulate",
        "verb": "tabulate",
        "table": table,
        "caption": config.table(table).caption,
        "comparisons": config.table(table).comparisons,
        "figures": config.table(table).figures,
        "rows": rows,
        "senseless": senseless(config, table),
        "code": code.digest("scripts/tabulate.py"),
        "published": published_digest(),
    }


def senseless(config: Config, table: str) -> list[dict[str, str]]:
    """The cells of a crossing that are no runs, and why."""
    named = [m for m in config.methods(table) if m in config.cells.senseless]
    return [
        {
            "dataset": dataset,
            "method": method,
            "arch": arch,
            "senseless": config.cells.senseless[method],
            "paper": config.meta(method, "paper"),
            "title": config.meta(method, "title", method),
        }
        for dataset in config.table(table).datasets
        for method in named
        for arch in config.archs(method, dataset)
    ]


@functools.lru_cache(maxsize=1)
def published_digest() -> str:
    return artefact.sha256(code.ROOT / "lt" / "published.yaml")[:16]


def write(out: str | Path, content: dict[str, Any]) -> None:
    """Write a recipe only if it says something new: its time is what the drivers look at."""
    text, path = artefact.dump(content), Path(out)
    if not path.exists() or path.read_text() != text:
        artefact.write_text(path, text)


def recipe(
    run: str | None = None,
    *,
    stage: str | None = None,
    split: int = 0,
    pack: str | None = None,
    table: str | None = None,
) -> None:
    """Write the recipe of a table, of a data set's split or pack, or of one stage (all of its own stages) of a run."""
    config = load()
    if table:
        return write(f"results/recipes/{table}.json", of_table(config, table))
    if run is None:
        raise UserError("recipe: expected --run <dataset>[/<method>/<arch>/seed<k>] or --table <table>")
    if pack:
        return write(f"results/{run}/recipe/pack_{pack}.json", of_pack(config, run, pack))
    if "/" not in run:
        return write(f"results/{run}/recipe/split{split}.json", of_split(config, run, split))
    parsed = Run.parse(run)
    files = [f"{r}/{name}" for r, name, _ in config.imports() if r == parsed and config.stem(name) != name]
    if files and not stage:
        raise UserError(f"{files[0]}: under dvc all branches have one recipe; import the merge, or take snakemake")
    for name in [stage] if stage else config.own_stages(parsed):
        write(f"results/{parsed}/recipe/{name}.json", of_stage(config, parsed, name))
