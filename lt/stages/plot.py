"""`plot`: one figure of a table, from metrics, predictions and training histories that are already there. No torch."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lt import artefact, figures, posthoc, rng, stats
from lt.data.splits import Split
from lt.errors import UserError, pick
from lt.stages.common import Recipe, read_metrics

GROUPS = ("many", "medium", "few")
DRAWS = 2000  # subsets behind a frequency
MOST = 8  # methods in one figure, unless the table names them


def plot(recipe: str | Path, *, figure: str, out: str | Path) -> None:
    """Draw one figure from the runs of a table that are finished; fewer seeds make a wider bar, none no bar."""
    opened = Recipe.of_table(recipe, figures=dict).raw
    for row in opened["rows"]:
        if Path(row["manifest"]).exists():
            artefact.read(row["manifest"])
    runs = by_method(opened, figure)
    if not runs:
        raise UserError(f"{out}: no finished run of table '{opened['table']}' to draw")
    draw = pick("figure", figure, DRAW)
    draw(Path(out), runs)


def by_method(recipe: dict[str, Any], figure: str) -> dict[str, list[Path]]:
    """Metrics folders of each method, seeds in order; the first data set of the table that has any.

    A method with several networks is as many series, and their names say which.
    """
    chosen, found = recipe["figures"].get(figure) or None, {}
    for row in recipe["rows"]:
        folder = Path(row["manifest"]).parent
        if (chosen is None or row["method"] in chosen) and (folder / "metrics.json").exists():
            found.setdefault(row["dataset"], {}).setdefault((row["method"], row["arch"]), []).append(folder)
    first = next(iter(found.values()), {})
    networks = Counter(method for method, _ in first)
    named = {m if networks[m] == 1 else f"{m}, {arch}": folders for (m, arch), folders in first.items()}
    return named if chosen else dict(list(named.items())[:MOST])


def metrics_of(folder: Path, **expected: type) -> dict[str, Any]:
    return read_metrics(artefact.read(folder, verify=False), **expected)


def spread(folders: list[Path], *names: str) -> dict[str, tuple[float, float]]:
    """Mean over seeds and half its 95 % interval."""
    found = [metrics_of(f) for f in folders]
    values = {n: [m["metrics"].get(n, m.get(n)) for m in found] for n in names}
    summaries = {n: stats.summary(v for v in vs if v is not None) for n, vs in values.items()}
    return {n: (s.mean, (s.high - s.low) / 2 if s.n > 1 else 0.0) for n, s in summaries.items() if s.n}


def column(folder: Path, name: str) -> np.ndarray:
    path = folder / "per_class.csv"
    again = artefact.read(folder, verify=False).again
    return numbers(artefact.read_csv(path, again, columns=[name]), name, path, again)


def numbers(rows: list[dict[str, str]], name: str, path: Path, again: str) -> np.ndarray:
    """A column of a CSV file; an empty cell is no number."""
    try:
        return np.array([float(row[name] or "nan") for row in rows])
    except ValueError as error:
        raise UserError(f"{path}: column '{name}': expected numbers ({error}){again}") from None


def parent(folder: Path, name: str) -> artefact.Artefact:
    """What a stage was made from."""
    opened = artefact.read(folder, verify=False)
    if name not in opened.manifest["parents"]:
        raise UserError(f"{folder}: was not made from '{name}'{opened.again}")
    return artefact.read(opened.manifest["parents"][name], verify=False)


def _per_class(out: Path, runs: dict[str, list[Path]]) -> None:
    accuracy = {m: np.nanmean([column(f, "accuracy") for f in fs], axis=0) for m, fs in runs.items()}
    counts = Split.read(parent(next(iter(runs.values()))[0], "split").verified().folder).class_counts
    figures.FIGURES["per_class"](out, accuracy, class_counts=counts)


def _groups(out: Path, runs: dict[str, list[Path]]) -> None:
    figures.FIGURES["groups"](out, {m: spread(fs, *GROUPS) for m, fs in runs.items()})


def _hm_gm(out: Path, runs: dict[str, list[Path]]) -> None:
    figures.FIGURES["hm_gm"](out, {m: spread(fs, "mean", "hm", "gm") for m, fs in runs.items()})


def _reliability(out: Path, runs: dict[str, list[Path]]) -> None:
    figures.FIGURES["reliability"](
        out, {m: metrics_of(fs[0], reliability=dict)["reliability"] for m, fs in runs.items()}
    )


def _cost(out: Path, runs: dict[str, list[Path]]) -> None:
    points = {m: spread(fs, "gmacs", "top1") for m, fs in runs.items()}
    known = {m: {"cost": v["gmacs"][0], "accuracy": v["top1"]} for m, v in points.items() if "gmacs" in v}
    figures.FIGURES["cost"](out, known)


def _ablation(out: Path, runs: dict[str, list[Path]]) -> None:
    figures.FIGURES["ablation"](out, {m: spread(fs, "top1")["top1"] for m, fs in runs.items()})


def _curves(out: Path, runs: dict[str, list[Path]]) -> None:
    tables = {}
    for method, folders in runs.items():
        model = parent(parent(folders[0], "predictions").folder, "model")
        if "history.csv" in model.manifest["outputs"]:
            path = model.verified("history.csv") / "history.csv"
            rows = artefact.read_csv(path, model.again, columns=["loss"])
            tables[method] = {name: numbers(rows, name, path, model.again) for name in rows[0]}
    panels = {"loss": "training loss", "train_top1": "training accuracy (%)"}
    figures.FIGURES["curves"](out, tables, panels=panels)


def _tau(out: Path, runs: dict[str, list[Path]]) -> None:
    """Top-1, few and HM of prediction normalisation over tau, for the first method, from its stored logits."""
    from lt import metrics
    from lt.stages.evaluate import load_predictions

    folder = next(iter(runs.values()))[0]
    stored = load_predictions(parent(folder, "predictions").verified())
    counts = Split.read(parent(folder, "split").verified().folder).class_counts
    sweep = posthoc.pn_sweep(stored["logits"], stored["labels"], posthoc.TAUS)
    cut = column_groups(folder)
    rows = [
        metrics.evaluate_predictions(pred, stored["labels"], class_counts=counts, shots=cut)
        for pred in sweep["predictions"]
    ]
    lines = {name: [row[key] for row in rows] for name, key in (("top-1", "top1"), ("few", "few"), ("HM", "hm"))}
    figures.FIGURES["tau"](out, posthoc.TAUS, lines, chosen=metrics_of(folder).get("tau"))


def column_groups(folder: Path) -> np.ndarray:
    again = artefact.read(folder, verify=False).again
    return np.array([row["shot"] for row in artefact.read_csv(folder / "per_class.csv", again, columns=["shot"])])


def _inclusion(out: Path, runs: dict[str, list[Path]]) -> None:
    """How often each sampler keeps an image, over p: of the largest class, with the p of the last stored draw.

    For the first method of the table that draws anew; the lists that it trained on are single draws of these laws.
    """
    from lt.sampling.inclusion import against_p

    for folders in runs.values():
        predictions = parent(folders[0], "predictions")
        model = parent(predictions.folder, "model")
        if (model / "draws").is_dir():
            break
    else:
        raise UserError(f"{out}: none of {', '.join(runs)} draws its list anew")
    listed = [name for name in model.manifest["outputs"] if name.startswith("draws/")]
    made = json.loads((model.verified(*listed) / "draws" / "draws.json").read_text())[-1]
    p = np.load(model / "draws" / f"p{made['draw']}.npy").astype(np.float64)
    p = p[largest_class(model, len(p))]
    frequency, exact = against_p(p, made["k"], draws=DRAWS, source=rng.stream(0, "subset", "figure"))
    figures.FIGURES["inclusion"](out, p, frequency, expected=exact)


def largest_class(model: artefact.Artefact, images: int) -> np.ndarray:
    """Positions in the training list of a model."""
    from lt.stages.common import load_source

    split = Split.read(parent(model.folder, "split").verified().folder)
    source = load_source({**model.manifest["recipe"]["data"], "pack": None}, "train")  # labels alone are looked at
    labels = split.relabel(source.labels)[split.train]
    if len(labels) != images:
        raise UserError(f"{model.folder}: p of {images} images, the training list has {len(labels)}")
    return np.flatnonzero(labels == np.bincount(labels).argmax())


def _reconstruction(out: Path, runs: dict[str, list[Path]]) -> None:
    """Found by name: the one figure that runs a network."""
    predictions = parent(next(iter(runs.values()))[0], "predictions")
    importlib.import_module("lt.stages.reconstruction").draw(out, predictions)


DRAW: dict[str, Callable[[Path, dict[str, list[Path]]], None]] = {
    "per_class": _per_class,
    "groups": _groups,
    "hm_gm": _hm_gm,
    "reliability": _reliability,
    "curves": _curves,
    "tau": _tau,
    "cost": _cost,
    "ablation": _ablation,
    "inclusion": _inclusion,
    "reconstruction": _reconstruction,
}
