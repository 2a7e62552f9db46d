"""params.yaml: load, check, resolve. No torch on this path.

A resolved stage is `recipe defaults < recipe for this data set < for this (data set, arch) < run < overlay`;
`extends` puts the parent recipe's layers below one's own. Every number remembers the layer that it came from.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lt import checks, crossing, documents, shapes, stage_checks
from lt.checks import DATASET_META, IMPLICIT, STAGE_META, problems_of, shared
from lt.errors import UserError, nearest
from lt.schema import STAGES, Choose, Dataset, Evaluate, Params, Run, Strict, Subset, Table

BRANCH = re.compile(r"branch\d+")


@dataclass
class Stage:
    """One resolved stage: its checked parameters, and where each one came from."""

    name: str
    verb: str
    params: Strict
    origin: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    verified: bool = False


def load(path: str | Path = "params.yaml") -> Config:
    """Read and check params.yaml."""
    return Config(documents.read(path), file=str(path))


class Config:
    """Checked parameters, and the questions that scripts and rules ask of them."""

    def __init__(self, raw: dict[str, Any], *, file: str = "params.yaml") -> None:
        self.file = file
        if not isinstance(raw, dict):
            raise UserError(f"{file}: expected the sections {', '.join(Params.model_fields)}")
        try:
            self.params = Params.model_validate(raw)
        except ValidationError as error:
            raise UserError(self._lines(problems_of(error, "", Params))) from None
        if problems := list(shapes.problems(self.params)):
            raise UserError(self._lines(problems))
        self.cells = crossing.expand(self.params.crossings)
        written = list(self.params.recipes)
        self.params.recipes |= self.cells.recipes
        if problems := list(checks.problems(self, written)) or list(checks.without_rows(self)):
            raise UserError(self._lines(problems))

    def _lines(self, problems: Iterable[str]) -> str:
        return "\n".join(f"{self.file}: {line}" for line in problems)

    # data sets ------------------------------------------------------------------------------------------------

    def split_overlay(self, dataset: str) -> tuple[str, str | None]:
        """`digits_smoke` is the data set `digits` under the overlay `smoke`."""
        for overlay in self.params.overlays:
            base = dataset.removesuffix(f"_{overlay}")
            if base != dataset and base in self.params.datasets:
                return base, overlay
        return dataset, None

    def has_dataset(self, name: str) -> bool:
        return self.split_overlay(name)[0] in self.params.datasets

    def dataset_names(self) -> set[str]:
        """Names that a recipe may speak of: data sets and families."""
        return {*self.params.datasets, *(d["family"] for d in self.params.datasets.values() if "family" in d)}

    @functools.cache  # noqa: B019  (a Config lives as long as its process)
    def dataset(self, name: str) -> Dataset:
        base, _ = self.split_overlay(name)
        if base not in self.params.datasets:
            raise UserError(f"{self.file}: datasets: no such data set '{name}'{nearest(name, self.params.datasets)}")
        body = dict(self.params.datasets[base])
        parent = body.pop("extends", None)
        if parent:
            body = {**self.params.datasets[parent], **body}
        body = {k: v for k, v in body.items() if k not in DATASET_META}
        try:
            return Dataset.model_validate(body)
        except ValidationError as error:
            raise UserError(self._lines(problems_of(error, f"datasets.{base}", Dataset))) from None

    # recipes --------------------------------------------------------------------------------------------------

    def recipe(self, method: str) -> dict[str, Any]:
        """What a recipe itself says, or a layer of a crossing by its place."""
        body = self.params.recipes.get(method) or self.cells.layers.get(method)
        if body is None:
            raise UserError(f"{self.file}: recipes: no such recipe '{method}'{nearest(method, self.params.recipes)}")
        return body

    def ancestry(self, method: str) -> list[str]:
        """The recipe and what it extends, oldest first; a crossing's cell extends several layers, the last one wins."""
        chain = [method]
        while parent := self.recipe(chain[0]).get("extends"):
            if isinstance(parent, list):
                return [*parent, *chain]
            if parent in chain:
                raise UserError(f"{self.file}: recipes.{method}.extends: {parent} extends itself")
            chain.insert(0, parent)
        return chain

    def place(self, method: str) -> str:
        return method if method in self.cells.layers else f"recipes.{method}"

    def meta(self, method: str, key: str, default: Any = None) -> Any:
        """A recipe's paper, title, report..., inherited."""
        for name in reversed(self.ancestry(method)):
            if key in self.recipe(name):
                return self.recipe(name)[key]
        return default

    def own_layers(self, method: str) -> Iterator[tuple[str, dict]]:
        """What a recipe itself says, place by place; what it extends comes on top in `layers`."""
        body, place = self.recipe(method), self.place(method)
        yield place, body
        for key, entry in (body.get("sets") or {}).items():
            yield f"{place}.sets.{key}", entry or {}
            for arch, inner in ((entry or {}).get("archs") or {}).items():
                yield f"{place}.sets.{key}.archs.{arch}", inner or {}
        for text, inner in (body.get("runs") or {}).items():
            yield f"{place}.runs.{text}", inner or {}

    @functools.cache  # noqa: B019
    def _layers_by_place(self, method: str) -> dict[str, dict]:
        return dict(self.own_layers(method))

    def set_keys(self, dataset: str) -> list[str]:
        """Under which keys of `sets` a recipe speaks of a data set: family, the set without a holdout, the set."""
        base, _ = self.split_overlay(dataset)
        whole = base.removesuffix("_holdout")
        return list(dict.fromkeys((self.dataset(base).family, whole, base)))

    def layers(self, run: Run) -> Iterator[tuple[str, dict]]:
        """The layers that apply to this run, weakest first."""
        keys = self.set_keys(run.dataset)
        for method in self.ancestry(run.method):
            own, place = self._layers_by_place(method), self.place(method)
            order = [place]
            for key in keys:
                order += [f"{place}.sets.{key}", f"{place}.sets.{key}.archs.{run.arch}"]
            order.append(f"{place}.runs.{run}")
            yield from ((name, own[name]) for name in order if name in own)

    def stage_names(self, method: str) -> list[str]:
        """Stages in the order in which the recipe lists them; predict and evaluate always exist."""
        names: dict[str, None] = {}
        for name in self.ancestry(method):
            names.update(dict.fromkeys(self.recipe(name).get("stages") or {}))
        return [n for n in names if n not in IMPLICIT] + list(IMPLICIT)

    def own_stages(self, run: Run) -> list[str]:
        """The stages that live with this run, not shared from another."""
        return [s for s in self.stages_of(run) if self.home(run, s) == (run, s)]

    @functools.cache  # noqa: B019
    def stages_of(self, run: Run) -> list[str]:
        """The stages that this run has: one that is declared empty (`stage1: {}`) exists where a layer fills it.

        `branch: null` takes away what the layers below filled.
        """
        filled: dict[str, bool] = {}
        for _, layer in self.layers(run):
            for name, body in (layer.get("stages") or {}).items():
                filled[name] = bool(body) or (filled.get(name, False) and body is not None)
        filled = {name for name, there in filled.items() if there}
        return [s for s in self.stage_names(run.method) if s in filled or s in IMPLICIT]

    def verb(self, method: str, stage: str) -> str:
        if stage in IMPLICIT:
            return stage
        for name in reversed(self.ancestry(method)):
            body = (self.recipe(name).get("stages") or {}).get(stage) or {}
            if "verb" in body:
                return body["verb"]
        return "train"

    @staticmethod
    def stem(stage: str) -> str:
        """The stage whose numbers a name stands under: `branch3` is one of the many that `branch` describes."""
        return "branch" if BRANCH.fullmatch(stage) else stage

    def final_stage(self, method: str) -> str:
        """The node whose predictions the tables report."""
        own = [s for s in self.stage_names(method) if s not in IMPLICIT]
        if not own:
            raise UserError(f"{self.file}: {self.place(method)}.stages: missing; name the stages, as train: {{...}}")
        return self.meta(method, "report") or own[-1]

    def archs(self, method: str, dataset: str) -> list[str]:
        """The networks that this recipe names for this data set."""
        found: list[str] = []
        if not self.made_for(method, dataset):
            return found
        for name in self.ancestry(method):
            for key in self.set_keys(dataset):
                arch = ((self.recipe(name).get("sets") or {}).get(key) or {}).get("arch")
                if arch:
                    found = [arch] if isinstance(arch, str) else list(arch)
        return found

    def made_for(self, method: str, dataset: str) -> bool:
        """`only` names the data sets and families that a recipe has numbers for, where it has none for others."""
        only = self.meta(method, "only")
        return only is None or not {*self.set_keys(dataset)}.isdisjoint(only)

    @functools.cache  # noqa: B019
    def home(self, run: Run, stage: str) -> tuple[Run, str]:
        """Where a stage lives: here, or with the recipe that it is shared from (`use: mislas/stage1`)."""
        way = [(run, stage)]
        while target := self._used(*way[-1]):
            if target in way:
                place = f"{self.place(run.method)}.stages.{stage}.use"
                raise UserError(f"{self.file}: {place} (for {run}): leads back to {target[0].method}/{target[1]}")
            way.append(target)
        return way[-1]

    def _used(self, run: Run, stage: str) -> tuple[Run, str] | None:
        use = None
        for _, layer in self.layers(run):
            body = (layer.get("stages") or {}).get(stage) or {}
            use = body.get("use", None if body else use)
        if not use:
            return None
        dataset, method, other = shared(use)
        _, overlay = self.split_overlay(run.dataset)
        if dataset and overlay:
            dataset = f"{dataset}_{overlay}"
        return Run(dataset or run.dataset, method, run.arch, run.seed), other or stage

    @functools.cache  # noqa: B019
    def stage(self, run: Run, stage: str) -> Stage:
        """The checked parameters of one stage of one run, with their origins."""
        names = self.stage_names(run.method)
        if self.stem(stage) not in names:
            raise UserError(f"{self.file}: recipes.{run.method}: no such stage '{stage}'{nearest(stage, names)}")
        if not self.made_for(run.method, run.dataset):
            only = ", ".join(self.meta(run.method, "only"))
            raise UserError(f"{self.file}: recipes.{run.method}: for {only} only; not for {run.dataset}")
        verb, values, origin = self.verb(run.method, self.stem(stage)), {}, {}
        source, verified = None, False
        for place, layer in [*self.layers(run), *self._overlay_layer(run, verb, stage)]:
            stages = layer.get("stages") or {}
            body = {k: v for name in (self.stem(stage), stage) for k, v in (stages.get(name) or {}).items()}
            for key, value in body.items():
                if key in STAGE_META:
                    continue
                mergeable = key in ("options", "image", "redraw", "device") and isinstance(values.get(key), dict)
                values[key] = {**values[key], **value} if mergeable else value
                origin[key] = place
            source, verified = layer.get("source", source), layer.get("verified", verified)
        try:
            params = STAGES[verb].model_validate(values)
        except ValidationError as error:
            place = f"recipes.{run.method}.stages.{stage} (for {run})"
            raise UserError(self._lines(problems_of(error, place, STAGES[verb]))) from None
        if found := [*stage_checks.problems(params, run.arch), *self._beside(run, stage, params)]:
            place = f"recipes.{run.method}.stages.{stage}"
            raise UserError(self._lines(f"{place}.{key} (for {run}): {line}" for key, line in found))
        return Stage(stage, verb, params, origin, source, bool(verified))

    def _beside(self, run: Run, stage: str, params: Strict) -> Iterator[tuple[str, str]]:
        """What a stage needs of the others: snapshots to choose from, predictions to adjust or to draw from."""
        if isinstance(params, Choose):
            trained = [s for s in self.stages_of(run) if self.verb(run.method, s) == "train"]
            if not trained:
                yield "verb", "no snapshots to choose from; no stage of this recipe trains"
                return
            home, name = self.home(run, trained[-1])
            before = self.stage(home, name).params
            if not getattr(before, "snapshots_every", 0) and getattr(before, "epochs", 2) > 1:
                yield "verb", f"no snapshots to choose from; set snapshots_every in {home.method}'s {name}"
            yield from stage_checks.unstored(params.posthoc, params.outputs)
        elif isinstance(params, Evaluate) and params.posthoc:
            yield from stage_checks.unstored(params.posthoc, self.stage(run, "predict").params.outputs)
        elif isinstance(params, Subset) and params.of and params.of not in (known := self.stages_of(run)):
            yield "of", f"no such stage '{params.of}'{nearest(params.of, known)}"

    def _overlay_layer(self, run: Run, verb: str, stage: str) -> Iterator[tuple[str, dict]]:
        _, overlay = self.split_overlay(run.dataset)
        if overlay and verb in self.params.overlays[overlay]:
            yield f"overlays.{overlay}.{verb}", {"stages": {stage: self.params.overlays[overlay][verb]}}

    def imports(self) -> Iterator[tuple[Run, str, dict[str, Any]]]:
        """The stages that a file stands in for: `runs: {RUN: {stages: {STAGE: {imported: {file, sha256}}}}}`."""
        for body in self.params.recipes.values():
            for text, layer in (body.get("runs") or {}).items():
                for stage in (layer or {}).get("stages") or {}:
                    imported = getattr(self.stage(Run.parse(text), stage).params, "imported", None)
                    if imported:
                        yield Run.parse(text), stage, imported.model_dump()

    def folder(self, run: Run, stage: str) -> str:
        """Where a stage lies; branches lie together."""
        return f"{run}/branches/{stage}" if BRANCH.fullmatch(stage) else f"{run}/{stage}"

    # tables ---------------------------------------------------------------------------------------------------

    def table(self, name: str) -> Table:
        base, overlay = name, None
        for known in self.params.overlays:
            if name.endswith(f"_{known}") and name.removesuffix(f"_{known}") in self.params.tables:
                base, overlay = name.removesuffix(f"_{known}"), known
        if base not in self.params.tables:
            raise UserError(f"{self.file}: tables: no such table '{name}'{nearest(name, self.params.tables)}")
        table = self.params.tables[base]
        if overlay is None:
            return table
        datasets = [f"{d}_{overlay}" for d in table.datasets]
        archs = {f"{d}_{overlay}": a for d, a in table.archs.items()}
        return table.model_copy(update={"datasets": datasets, "archs": archs, "seeds": [0]})

    def kept_tables(self) -> list[str]:
        """The grid's tables, or all where there is no grid."""
        return list(self.params.tables if self.params.grid is None else self.params.grid.tables)

    def methods(self, table: str) -> list[str]:
        """What a table names; a crossing stands for all its cells."""
        named = self.table(table).methods
        return [method for entry in named for method in self.cells.parts.get(entry, [entry])]

    def rows(self, table: str) -> list[tuple[Run, str]]:
        """The (run, node) pairs of a table: `btm` reports its final stage, `btm/merge` the node named."""
        spec, found = self.table(table), []
        for dataset in spec.datasets:
            for entry in self.methods(table):
                method, _, node = entry.partition("/")
                if method in self.cells.senseless:
                    continue
                archs = self.archs(method, dataset)
                if spec.archs.get(dataset):
                    archs = [a for a in archs if a in spec.archs[dataset]]
                seeds = self.params.seeds if spec.seeds is None else spec.seeds
                for arch in archs:
                    found += [(Run(dataset, method, arch, s), node or self.final_stage(method)) for s in seeds]
        return found


def canonical(value: Any) -> str:
    """One text for one value: sorted keys, no spaces to argue about."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
