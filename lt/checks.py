"""What is wrong with a params.yaml, one line a problem: key path, what was expected, nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from lt import crossing, dataset_checks, grid_checks, names, registry, shapes
from lt.errors import UserError, nearest
from lt.names import unusable
from lt.schema import STAGES, Run, Strict

if TYPE_CHECKING:
    from lt.config import Config

RECIPE_KEYS = (
    "paper",
    "title",
    "extends",
    "source",
    "verified",
    "note",
    "report",
    "why_not",
    "published",
    "only",
    "stages",
    "sets",
    "runs",
)
SET_KEYS = ("arch", "source", "verified", "note", "undertrained", "stages", "archs")
DATASET_META = ("extends", "note", "source_of_numbers")
STAGE_META = ("use",)
IMPLICIT = ("predict", "evaluate")


def problems(config: Config, written: list[str]) -> Iterator[str]:
    """What the models cannot see: names that refer to each other, layers, registries."""
    yield from names.problems(config, written)
    yield from dataset_checks.problems(config)
    yield from _overlays(config)
    yield from crossing.problems(config.params.crossings)
    yield from _papers(config)
    yield from _recipes(config)
    yield from _tables(config)
    yield from _comparisons(config)
    yield from grid_checks.problems(config)


def problems_of(error: ValidationError, prefix: str, model: type[Strict] | None = None) -> Iterator[str]:
    """One line a problem: key path, what was expected, nearest valid name."""
    for item in error.errors():
        place = ".".join([prefix, *(str(p) for p in item["loc"])]).strip(".")
        if item["type"] == "extra_forbidden":
            known = _keys_at(model, item["loc"][:-1]) if model else []
            yield f"{place}: unknown key{nearest(str(item['loc'][-1]), known)}"
        elif item["type"] in ("float_type", "int_type") and isinstance(item["input"], str):
            yield f"{place}: expected a number, found the text '{item['input']}'{shapes.hint(item['input'])}"
        else:
            found = "" if item["type"] == "missing" else f", found {item['input']!r}"
            yield f"{place}: {item['msg'][0].lower()}{item['msg'][1:]}{found}"


def _keys_at(model: Any, path: tuple) -> list[str]:
    for part in path:
        fields = getattr(model, "model_fields", None)
        if fields is None:  # dict[str, Model]: the key is a name of the user's
            inner = get_args(model)
            model = inner[-1] if inner else None
        else:
            model = fields[part].annotation if part in fields else None
    return list(getattr(model, "model_fields", {}))


def _overlays(config: Config) -> Iterator[str]:
    for name, overlay in config.params.overlays.items():
        for verb, values in overlay.items():
            if verb not in STAGES:
                yield f"overlays.{name}.{verb}: no such verb{nearest(verb, STAGES)}"
            elif "use" in (values or {}):
                yield f"overlays.{name}.{verb}.use: an overlay changes numbers only; it cannot share stages"
            else:
                yield from _numbers(values or {}, verb, f"overlays.{name}.{verb}")


def _papers(config: Config) -> Iterator[str]:
    known = names.papers(config.file)
    for method, body in (config.params.recipes | config.cells.layers).items():
        paper = body.get("paper")
        if paper and known and paper not in known:
            yield f"{config.place(method)}.paper: no rules file draws '{paper}'{nearest(paper, known)}"


def _recipes(config: Config) -> Iterator[str]:
    for method, body in config.cells.layers.items():
        if method not in config.cells.senseless:
            yield from _unknown(body, RECIPE_KEYS, method)
            if "extends" in body:
                yield f"{method}.extends: a layer of a crossing extends nothing; write its stages out"
            yield from _sets(config, method, body)
    for method, body in config.params.recipes.items():
        place = f"recipes.{method}"
        if method in config.cells.recipes:  # made of the layers above
            continue
        if line := unusable(method):
            yield f"{place}: {line}"
            continue
        yield from _unknown(body, RECIPE_KEYS, place)
        parent = body.get("extends")
        if parent is not None and parent not in config.params.recipes:
            yield f"{place}.extends: no such recipe{nearest(parent, config.params.recipes)}"
            continue
        if not body.get("paper") and parent is None:
            yield f"{place}.paper: missing; the rules file that holds its graph"
        if not [name for name in config.stage_names(method) if name not in IMPLICIT]:
            yield f"{place}.stages: missing; name the stages, as train: {{...}}"
            continue
        if isinstance(nodes := body.get("published"), dict):
            yield from _unknown(nodes, config.stage_names(method), f"{place}.published")
        yield from _sets(config, method, body)


def _meta(config: Config, method: str, body: dict) -> Iterator[str]:
    """Names of stages, and which of them the tables report."""
    place = config.place(method)
    stages = [s for s in config.stage_names(method) if s not in IMPLICIT]
    if body.get("report") and config.stem(body["report"]) not in stages and "." not in method:
        yield f"{place}.report: no such stage '{body['report']}'{nearest(body['report'], stages)}"
    for stage in body.get("stages") or {}:
        if line := unusable(stage, ()):
            yield f"{place}.stages.{stage}: {line}"


def _networks(found: Any, place: str) -> Iterator[str]:
    for arch in [found] if isinstance(found, str) else found or []:
        if arch not in registry.archs():
            yield f"{place}: no such network '{arch}'{nearest(arch, registry.archs())}"


def _sets(config: Config, method: str, body: dict) -> Iterator[str]:
    yield from _meta(config, method, body)
    known = config.dataset_names()
    stages = config.stage_names(method)
    only = body.get("only") or []
    if not isinstance(only, list) or not all(isinstance(key, str) for key in only):
        yield f"{config.place(method)}.only: expected a list of data sets and families, found {shapes.shown(only)}"
        return
    for key in only:
        if key not in known:
            yield f"{config.place(method)}.only: {key}: no such data set or family{nearest(key, known)}"
    for key, entry in (body.get("sets") or {}).items():
        place = f"{config.place(method)}.sets.{key}"
        if key not in known:
            yield f"{place}: no such data set or family{nearest(key, known)}"
            continue
        yield from _unknown(entry or {}, SET_KEYS, place)
        yield from _networks((entry or {}).get("arch"), f"{place}.arch")
        yield from _networks(list((entry or {}).get("archs") or {}), f"{place}.archs")
        for arch, inner in ((entry or {}).get("archs") or {}).items():
            yield from _unknown(inner or {}, SET_KEYS[1:6], f"{place}.archs.{arch}")
    for origin, layer in config.own_layers(method):
        for stage, values in (layer.get("stages") or {}).items():
            if config.stem(stage) not in stages:
                yield f"{origin}.stages.{stage}: no such stage{nearest(stage, stages)}"
                continue
            yield from _one_of_many(config, stage, values or {}, f"{origin}.stages.{stage}")
            yield from _stage(config, method, stage, values or {}, f"{origin}.stages.{stage}")
    for text in body.get("runs") or {}:
        try:
            run = Run.parse(text)
        except UserError as error:
            yield f"recipes.{method}.runs: {error}"
            continue
        if run.method != method:
            yield f"recipes.{method}.runs.{text}: belongs to method '{run.method}'"
        if not config.has_dataset(run.dataset):
            yield f"recipes.{method}.runs.{text}: no such data set{nearest(run.dataset, config.params.datasets)}"
        yield from _networks(run.arch, f"recipes.{method}.runs.{text}")


def _one_of_many(config: Config, stage: str, values: dict, place: str) -> Iterator[str]:
    """`branch` says how all of them are trained; a file stands in for one, `branch3`, which says nothing else."""
    if stage != config.stem(stage):
        yield from (f"{place}.{key}: numbers stand under '{config.stem(stage)}'" for key in values if key != "imported")
    elif stage == "branch" and "imported" in values:
        yield f"{place}.imported: a file stands in for one of the branches; name it: branch0"


def _stage(config: Config, method: str, stage: str, values: dict, place: str) -> Iterator[str]:
    if "use" in values:
        yield from _use(config, method, stage, values, place)
        return
    verb = config.verb(method, config.stem(stage))
    if verb not in STAGES:
        yield f"{place}.verb: no such verb '{verb}'{nearest(verb, STAGES)}"
        return
    yield from _numbers(values, verb, place)


def _numbers(values: dict, verb: str, place: str) -> Iterator[str]:
    """Keys, values and registry entries of a layer."""
    try:  # a layer is partial: what is missing may stand in another one
        STAGES[verb].model_validate({k: v for k, v in values.items() if k not in STAGE_META})
    except ValidationError as error:
        found = list(problems_of(error, place, STAGES[verb]))
        partial = [e for e in found if "field required" not in e or ".name: field required" in e]
        yield from partial
        if partial:
            return
    yield from registry.check(values, place, verb)
    yield from _networks(values.get("net"), f"{place}.net")


def shared(use: str) -> tuple[str, str, str]:
    """(data set, recipe, stage) of `use: imagenet_lt:mae/pretrain`; what is not said is empty."""
    dataset, _, rest = use.rpartition(":")
    method, _, stage = rest.partition("/")
    return dataset, method, stage


def _use(config: Config, method: str, stage: str, values: dict, place: str) -> Iterator[str]:
    """A stage is another recipe's as it is: numbers beside `use` would be dropped."""
    dataset, target, other = shared(values["use"] or "")
    if target not in config.params.recipes:
        yield f"{place}.use: no such recipe{nearest(target, config.params.recipes)}"
        return
    if dataset and dataset not in config.params.datasets:
        yield f"{place}.use: {dataset}: no such data set{nearest(dataset, config.params.datasets)}"
    if config.stem(other or stage) not in (known := config.stage_names(target)):
        yield f"{place}.use: {target} has no stage '{other or stage}'{nearest(other or stage, known)}"
    if (target, other or stage, dataset) == (method, stage, ""):
        yield f"{place}.use: points at itself"
    for key in values:
        if key not in ("use", "verb"):
            yield f"{place}.{key}: stands beside `use`, which takes {target}'s numbers as they are; drop one of them"


def _tables(config: Config) -> Iterator[str]:
    for name, table in config.params.tables.items():
        place = f"tables.{name}"
        for dataset in (d for d in table.datasets if not config.has_dataset(d)):
            yield f"{place}.datasets: {dataset}: no such data set{nearest(dataset, config.params.datasets)}"
        lists = {"datasets": table.datasets, "methods": table.methods, "seeds": table.seeds}
        for key, values in lists.items():
            if values == []:
                yield f"{place}.{key}: expected one or more, found none"
            for value in [v for i, v in enumerate(values or []) if v in values[:i]]:
                yield f"{place}.{key}: {value} is listed twice"
        yield from _entries(config, name)
        for dataset, archs in table.archs.items():
            if dataset not in table.datasets:
                yield f"{place}.archs: {dataset}: not a data set of this table{nearest(dataset, table.datasets)}"
            for arch in archs:
                if arch not in registry.archs():
                    yield f"{place}.archs.{dataset}: no such network '{arch}'{nearest(arch, registry.archs())}"


def _entries(config: Config, table: str) -> Iterator[str]:
    """What a table names has a recipe, and the stage behind the slash."""
    for entry in config.methods(table):
        method, _, node = entry.partition("/")
        if method in config.cells.senseless:
            continue
        if method not in config.params.recipes:
            yield f"tables.{table}.methods: {method}: no such recipe{nearest(method, config.params.recipes)}"
            continue
        made = [s for s in config.stage_names(method) if config.verb(method, s) in ("train", "merge", "choose")]
        if node and (config.stem(node) not in made or node == "branch"):
            known = ["branch0" if s == "branch" else s for s in made]
            yield f"tables.{table}.methods: {entry}: no such stage with a row of its own{nearest(node, known)}"


def without_rows(config: Config) -> Iterator[str]:
    """Methods that no data set of their table has a network for; asked once all else is right."""
    for name, table in config.params.tables.items():
        for method in dict.fromkeys(entry.split("/")[0] for entry in config.methods(name)):
            sets = [d for d in table.datasets if config.made_for(method, d)]  # those it has numbers for, if it says so
            if sets and method not in config.cells.senseless and not any(config.archs(method, d) for d in sets):
                yield f"tables.{name}.methods: {method}: recipes.{method}.sets names no network for {', '.join(sets)}"


def _comparisons(config: Config) -> Iterator[str]:
    """Planned comparisons and figures speak of methods of their table."""
    for name, table in config.params.tables.items():
        methods = config.methods(name)
        for pair in table.comparisons:
            for method in (m for m in pair if m not in methods):
                yield f"tables.{name}.comparisons: {method}: not a method of this table{nearest(method, methods)}"
            if pair[0] == pair[1] or table.comparisons.count(pair) > 1:
                yield f"tables.{name}.comparisons: {pair[0]}, {pair[1]}: expected two methods, each pair once"
        known = registry.members("figure")
        for figure, shown in table.figures.items():
            if figure not in known:
                yield f"tables.{name}.figures: no such figure '{figure}'{nearest(figure, known)}"
            for method in (m for m in shown if m not in methods):
                yield f"tables.{name}.figures.{figure}: {method}: not a method of this table{nearest(method, methods)}"


def _unknown(body: dict, known: tuple[str, ...], place: str) -> Iterator[str]:
    for key in body:
        if key not in known:
            yield f"{place}.{key}: unknown key{nearest(key, known)}"
