"""Metrics against what the five papers' own evaluation code computed (README of each golden folder)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lt import metrics
from lt.schema import Evaluate
from lt.stages.evaluate import in_form

GOLDEN = Path(__file__).parent


def load(name: str, prefix: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as data:
        return {key.removeprefix(prefix): data[key] for key in data.files if key.startswith(prefix)}


@pytest.mark.parametrize("case", ["a", "b"])
def test_btm_and_mislas(case: str) -> None:
    data = load("btm/metrics.npz", f"{case}__")
    logits, target = data["logits"], data["target"]
    num_classes = logits.shape[1]
    shots = np.empty(num_classes, np.int64)
    for group, (start, stop) in enumerate(data["groups_idx"]):
        shots[start:stop] = group
    counts = np.arange(num_classes, 0, -1)
    btm = metrics.evaluate(logits, target, class_counts=counts, shots=shots, form="btm")
    mislas = metrics.evaluate(logits, target, class_counts=counts, shots=shots, form="mislas")
    for name, golden in {"hm": "hmean_pct", "gm": "gmean_pct", "top1": "top1_pct", "ece": "ece_pct"}.items():
        assert btm[name] == pytest.approx(float(data[golden]), abs=1e-6), name
        assert mislas[name] == btm[name]
    assert [btm[g] for g in metrics.GROUPS] == pytest.approx(data["groups_floor_pct"], abs=1e-9)
    assert [mislas[g] for g in metrics.GROUPS] == pytest.approx(data["groups_plain_pct"], abs=1e-9)
    seen = metrics.scores(logits, target)
    np.testing.assert_array_equal(metrics.class_accuracy(seen.pred, target, num_classes), data["acc_class"])
    bins = metrics.calibration(seen.confidence, seen.pred == target)
    np.testing.assert_array_equal(bins["count"], data["bin_count"])
    np.testing.assert_allclose(bins["accuracy"], data["bin_acc"], atol=1e-6)
    np.testing.assert_allclose(bins["confidence"], data["bin_conf"], atol=1e-6)
    assert bins["mce"] == pytest.approx(float(data["mce"]), abs=1e-6)
    top5 = float(str(data["lines"][2]).split("Acc@5 ")[1].split("%")[0])
    assert btm["top5"] == pytest.approx(top5, abs=5e-4)


@pytest.mark.parametrize("case", ["zeros_some", "all_zero", "ones", "single_zero"])
def test_btm_means_of_given_accuracies(case: str) -> None:
    data = load("btm/metrics.npz", f"vec_{case}__")
    got = metrics.harmonic_mean(data["acc"]), metrics.geometric_mean(data["acc"])
    assert got == pytest.approx(data["hm_gm"], abs=1e-12)


def test_bagmar() -> None:
    data = load("bagmar/metrics.npz", "a/")
    counts = np.bincount(data["train_labels"], minlength=8)
    got = metrics.evaluate_predictions(data["preds"], data["labels"], class_counts=counts, form="bagmar")
    expected = [data["micro"], data["f1"], data["many"], data["med"], data["few"]]
    percent = [got[name] for name in ("top1", "f1", *metrics.GROUPS)]
    np.testing.assert_allclose(percent, 100 * np.array(expected), rtol=1e-12)
    shots = metrics.shots_by_count(counts, many=50, few=10)
    hits = metrics.class_hits(data["preds"], data["labels"], 8)
    custom = metrics.group_accuracy(*hits, shots, form="bagmar")
    np.testing.assert_allclose(list(custom.values()), data["shot_custom"], rtol=1e-12)
    weighted = metrics.class_accuracy(data["preds"], data["labels"], 8, weights=data["ws"])
    shots = metrics.shots_by_count(counts)
    groups = [weighted[shots == g].mean() for g in range(3)]
    np.testing.assert_allclose(groups, data["w_shot"], rtol=1e-12)


@pytest.mark.parametrize("case", ["c10_if100", "bounds", "c100"])
def test_ipdpp(case: str) -> None:
    data = load("ipdpp/metrics.npz", f"{case}_")
    many, few = (int(v) for v in data["thr"])
    shots = metrics.shots_by_count(data["counts"], many=many, few=few)
    np.testing.assert_array_equal(shots, data["group"])
    got = metrics.evaluate_predictions(
        data["pred"], data["label"], class_counts=data["counts"], shots=shots, form="ipdpp"
    )
    np.testing.assert_allclose([got[g] for g in metrics.GROUPS], 100 * data["acc_many_med_few"], rtol=1e-12)
    assert got["top1"] == pytest.approx(100 * float(data["acc_all"]), rel=1e-12)


def test_ipdpp_top_k() -> None:
    data = load("ipdpp/metrics.npz", "top")
    got = metrics.evaluate(data["_logits"], data["_target"], class_counts=np.ones(10, np.int64))
    assert [got["top1"], got["top5"]] == pytest.approx(data["1_top5"], abs=1e-5)


def test_livt() -> None:
    data = load("livt/evaluation.npz", "e1/")
    expected = json.loads((GOLDEN / "livt/evaluation.json").read_text())["e1"]
    logits, labels, counts = data["logits"], data["labels"], data["cls_num"]
    shots = metrics.shots_by_count(counts)
    for group, mask in enumerate(("many_shot", "medium_shot", "few_shot")):
        np.testing.assert_array_equal(shots == group, data[mask])
    got = metrics.evaluate(logits, labels, class_counts=counts, form="livt")
    assert {name: round(got[name], 2) for name in ("many", "medium", "few", "pdc")} == {
        name: expected[name] for name in ("many", "medium", "few", "pdc")
    }
    for name, golden in {"top1": "avg_acc", "ece": "ece", "mce": "mce"}.items():
        assert round(got[name], 2) == pytest.approx(expected[golden], abs=1e-9)
    seen = metrics.scores(logits, labels)
    np.testing.assert_array_equal(metrics.confusion(seen.pred, labels, 12).T, data["cf"])
    bins = metrics.calibration(seen.confidence, seen.pred == labels)
    np.testing.assert_array_equal(bins["count"], data["cal/counts"])
    np.testing.assert_allclose(bins["accuracy"], data["cal/accuracies"], atol=1e-6)
    np.testing.assert_allclose(bins["confidence"], data["cal/confidences"], atol=1e-6)
    np.testing.assert_allclose(bins["edges"], data["cal/bins"], atol=1e-15)


def test_livt_through_the_stage() -> None:
    data = load("livt/evaluation.npz", "e1/")
    expected = json.loads((GOLDEN / "livt/evaluation.json").read_text())["e1"]
    logits, labels, counts = data["logits"], data["labels"], data["cls_num"]
    found = in_form("livt", logits, labels, counts, metrics.shots_by_count(counts))["as_published"]
    names = {"top1": "avg_acc"} | {name: name for name in ("many", "medium", "few", "pdc", "ece", "mce")}
    assert {name: found[name] for name in names} == {name: expected[golden] for name, golden in names.items()}
    assert in_form("plain", logits, labels, counts, metrics.shots_by_count(counts)) == {}


def test_the_schema_names_every_form() -> None:
    assert set(Evaluate.model_fields["form"].annotation.__args__) == set(metrics.FORMS)


def test_ride() -> None:
    data = load("ride/misc.npz", "eval/")
    rule = json.loads((GOLDEN / "ride/misc.json").read_text())["eval"]
    counts, random = data["cls_num"], np.random.RandomState(rule["seed"])
    target = np.repeat(np.arange(rule["C"]), rule["per_class"])
    random.shuffle(target)
    np.testing.assert_array_equal(target, data["target"])
    logits = random.randn(len(target), rule["C"])
    logits[np.arange(len(target)), target] += 2 * np.log1p(counts[target]) / 6
    logits = logits.astype(np.float32)
    np.testing.assert_array_equal(metrics.scores(logits, target).pred, data["pred"])
    got = metrics.evaluate(logits, target, class_counts=counts, form="ride")
    official = rule["result"]
    names = {"top1": "accuracy", "top5": "top_k_acc"}
    names |= {group: f"{group}_shot_acc" for group in metrics.GROUPS}
    for name, golden in names.items():
        assert got[name] == pytest.approx(100 * official[golden], abs=1e-4), name
    shots = metrics.shots_by_count(counts)
    assert [int((shots == g).sum()) for g in range(3)] == [official[f"{group}_class_num"] for group in metrics.GROUPS]
