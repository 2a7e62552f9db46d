"""`evaluate`: predictions and class counts, perhaps a post-hoc step -> metrics and confusion of classes. No torch."""

from __future__ import annotations

import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lt import artefact, metrics, rng, stats
from lt.data import shots
from lt.data.splits import Split
from lt.errors import UserError, pick
from lt.stages.common import Recipe

ZERO = {"floor": "floor 0.001", "zero": "zero"}


def evaluate(
    recipe: str | Path,
    *,
    predictions: str | Path,
    split: str | Path,
    out: str | Path,
    tuning: str | Path | None = None,
) -> None:
    """Every metric of one set of predictions; `tuning` are the predictions that a post-hoc step is tuned on."""
    started, recipe = time.time(), Recipe.read(recipe)
    inputs = {"predictions": artefact.read(predictions), "split": artefact.read(split)}
    if tuning:
        inputs["tuning"] = artefact.read(tuning)
    stored = load_predictions(inputs["predictions"])
    counts = Split.read(inputs["split"].folder).class_counts
    scores, note = adjusted(stored, counts, recipe, inputs)
    groups = shots.by_count(counts, many=recipe.data["shots"]["many"], few=recipe.data["shots"]["few"])
    form = metrics.Form(zero=ZERO[recipe.params["zero"]])
    values = metrics.evaluate(scores, stored["labels"], class_counts=counts, shots=groups, form=form)
    values |= choice_of(inputs["predictions"])
    own = own_groups(stored, scores, counts, recipe)
    note |= in_form(recipe.params["form"], scores, stored["labels"], counts, groups)
    pred, labels = scores.argmax(1), stored["labels"]
    with artefact.commit(out, recipe=recipe.raw, inputs=inputs, started=started) as draft:
        content = {"metrics": values, "own_groups": own, **note, "selected_on": recipe.params["selected_on"]}
        content |= effort_of(inputs["predictions"], stored, groups)
        content["reliability"] = calibration_of(scores, stored["labels"], recipe.params["bins"])
        content["cost"] = cost_of(inputs["predictions"])
        content["bootstrap"] = bootstrap_of(pred, labels, len(counts), seed=recipe.seed)
        (draft / "metrics.json").write_text(artefact.dump(content))
        table = metrics.per_class(pred, labels, class_counts=counts, shots=groups)
        (draft / "per_class.csv").write_text(metrics.to_csv(table))
        (draft / "confusion.csv").write_text(metrics.to_csv(metrics.confusion_cells(pred, labels, len(counts))))


def choice_of(predictions: artefact.Artefact) -> dict[str, float]:
    """What choosing the epoch on the test set added: its top-1 minus the last epoch's, where that was done."""
    model = Path(predictions.manifest["parents"].get("model", "")) / artefact.MANIFEST
    chosen = artefact.read(model, verify=False).manifest.get("chosen") if model.is_file() else None
    return {"test_bonus": chosen["bonus"]} if chosen and chosen["part"] == "test" else {}


def calibration_of(logits: np.ndarray, labels: np.ndarray, bins: int) -> dict[str, list[float]]:
    """What a reliability diagram shows, bin by bin."""
    judged = metrics.scores(logits, labels)
    found = metrics.calibration(judged.confidence, judged.rank == 0, bins=bins)
    return {name: np.asarray(found[name]).tolist() for name in ("edges", "count", "accuracy", "confidence")}


def bootstrap_of(pred: np.ndarray, labels: np.ndarray, classes: int, *, seed: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of top-1 and HM: test images drawn again within their class, or classes drawn again."""
    tested = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[pred == labels], minlength=classes)
    there = tested > 0
    correct, tested = correct[there], tested[there]

    def again(name: str) -> np.random.Generator:
        return rng.stream(seed, "bootstrap", name)

    def top1(hits: np.ndarray, images: np.ndarray) -> float:
        return 100 * float(hits.sum() / images.sum())

    def hm(accuracy: np.ndarray) -> float:
        return 100 * metrics.harmonic_mean(accuracy)

    weights = tested / tested.sum()
    by_class = correct / tested * weights * len(tested)  # its mean is top-1, whatever the classes' sizes
    return {
        "top1_images": stats.bootstrap_images(correct, tested, top1, source=again("images")),
        "top1_classes": stats.bootstrap_classes(by_class, lambda a: 100 * float(a.mean()), source=again("classes")),
        "hm_images": stats.bootstrap_images(correct, tested, lambda h, n: hm(h / n), source=again("images")),
        "hm_classes": stats.bootstrap_classes(correct / tested, hm, source=again("classes")),
    }


def load_predictions(opened: artefact.Artefact) -> dict[str, np.ndarray]:
    path = opened / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not an archive of arrays ({type(error).__name__}){opened.again}") from None
    if missing := [name for name in ("logits", "labels") if name not in found]:
        raise UserError(f"{path}: no array '{missing[0]}'{opened.again}")
    return found


def adjusted(
    stored: dict[str, np.ndarray], counts: np.ndarray, recipe: Recipe, inputs: dict[str, artefact.Artefact]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The scores that are judged: logits, or what a post-hoc step makes of them."""
    note: dict[str, Any] = {}
    if not recipe.params["posthoc"]:
        return stored["logits"], note
    from lt import posthoc

    tuning = load_predictions(inputs["tuning"]) if "tuning" in inputs else None
    scores, found = posthoc.apply(recipe.params["posthoc"], stored, class_counts=counts, tuning=tuning)
    return scores, {**note, **found}


def own_groups(
    stored: dict[str, np.ndarray], scores: np.ndarray, counts: np.ndarray, recipe: Recipe
) -> dict[str, float | None]:
    """Many, medium and few as the data set's paper cuts them, where that differs from the count rule."""
    rule = recipe.params["groups"]
    if rule == "count":
        return {}
    cut = pick("groups", rule, shots.SHOT_RULES)(counts, recipe.data["family"])
    pred = scores.argmax(1)
    found = metrics.evaluate_predictions(pred, stored["labels"], class_counts=counts, shots=cut)
    return {name: found[name] for name in metrics.GROUPS}


def in_form(
    name: str, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """`as_published`: the metrics as one paper's code has them; LiVT rounds class accuracies, then their means."""
    if name == "plain":
        return {}
    form = metrics.FORMS[name]
    found = metrics.evaluate(scores, labels, class_counts=counts, shots=groups, form=form)
    if form.decimals is not None:
        found = {k: v if v is None or k in metrics.COUNTS else round(v, form.decimals) for k, v in found.items()}
    return {"as_published": {"form": name, **found}}


def effort_of(opened: artefact.Artefact, stored: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, Any]:
    """GMACs of an average image with every classifier counted, and the published way; experts per image.

    `experts_used`: the shares of images, overall and by group of their class, that ran 1, 2, ... all experts.
    """
    found: dict[str, Any] = {}
    if counted := opened.manifest.get("gmacs"):
        found |= {"gmacs": counted["with_classifiers"], "gmacs_published": counted["published"]}
    if "experts" not in stored:
        return found | {k: opened.manifest[k] for k in ("experts",) if k in opened.manifest}
    used, group = stored["experts"], groups[stored["labels"]]
    parts = {"all": used} | {name: used[group == number] for number, name in enumerate(metrics.GROUPS)}
    bins = 1 + opened.manifest.get("num_experts", used.max())
    shares = {n: np.bincount(u, minlength=bins)[1:] / max(len(u), 1) for n, u in parts.items()}
    return found | {"experts": float(used.mean()), "experts_used": {n: s.tolist() for n, s in shares.items()}}


def cost_of(opened: artefact.Artefact) -> dict[str, float]:
    """Time summed and memory at its highest over the chain of stages behind these predictions."""
    wall, peak, seen, todo = 0.0, 0.0, set(), [opened.folder]
    while todo:
        folder = todo.pop()
        if folder in seen or not (folder / artefact.MANIFEST).exists():
            continue
        seen.add(folder)
        each = artefact.read(folder, verify=False)
        facts = each.facts()
        wall, peak = wall + facts.get("wall_s", 0.0), max(peak, facts.get("peak_mb", 0.0))
        todo += [Path(p) for p in each.manifest["parents"].values()]
    return {"wall_s": round(wall, 1), "peak_mb": peak}
