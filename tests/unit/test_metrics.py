from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lt import metrics
from lt.errors import UserError


def toy(n: int = 300, num_classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, n)
    logits = random.standard_normal((n, num_classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    return logits, labels


def test_chunks_do_not_change_the_result() -> None:
    logits, labels = toy()
    whole = metrics.scores(logits, labels)
    for elements in (1, 20, 111, 10**9):
        part = metrics.scores(logits, labels, chunk_elements=elements)
        np.testing.assert_array_equal(part.pred, whole.pred)
        np.testing.assert_array_equal(part.rank, whole.rank)
        np.testing.assert_allclose(part.confidence, whole.confidence, rtol=1e-6)


def test_rank_agrees_with_a_stable_sort_and_ties_go_to_the_first() -> None:
    logits = np.random.default_rng(1).integers(0, 3, (200, 6)).astype(np.float32)
    labels = np.random.default_rng(2).integers(0, 6, 200)
    got = metrics.scores(logits, labels)
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(got.rank, np.argmax(order == labels[:, None], axis=1))
    np.testing.assert_array_equal(got.rank == 0, got.pred == labels)


def test_f1_and_confusion_agree_with_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix, f1_score

    logits, labels = toy(num_classes=9)
    labels = labels % 6  # classes 6..8 are predicted but never tested
    pred = metrics.scores(logits, labels).pred
    pred[pred == 8] = 0  # class 8 is neither
    assert metrics.macro_f1(pred, labels, 9) == pytest.approx(f1_score(labels, pred, average="macro"))
    np.testing.assert_array_equal(metrics.confusion(pred, labels, 9), confusion_matrix(labels, pred, labels=range(9)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_hm_and_gm_agree_with_their_definitions(values: list[float]) -> None:
    accuracy = np.array([round(v, 4) for v in values])
    floored = np.where(accuracy == 0, 0.001, accuracy)
    hm, gm = metrics.harmonic_mean(accuracy), metrics.geometric_mean(accuracy)
    assert hm == pytest.approx(len(floored) / np.sum(1 / floored), rel=1e-12)
    assert gm == pytest.approx(np.prod(floored) ** (1 / len(floored)), rel=1e-9)
    assert floored.min() * (1 - 1e-12) <= hm <= gm * (1 + 1e-12)
    if (accuracy == 0).any():
        assert metrics.harmonic_mean(accuracy, zero="zero") == 0
        assert metrics.geometric_mean(accuracy, zero="zero") == 0


def test_many_classes_do_not_underflow() -> None:
    accuracy = np.full(8142, 1e-3)
    assert metrics.geometric_mean(accuracy) == pytest.approx(1e-3, rel=1e-12)
    assert metrics.harmonic_mean(accuracy) == pytest.approx(1e-3, rel=1e-12)


def test_absent_classes_by_rule() -> None:
    pred, labels = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])
    counts = np.array([200, 50, 5, 200])  # classes 2 and 3 have no test image
    got = {f: metrics.evaluate_predictions(pred, labels, class_counts=counts, form=f) for f in metrics.FORMS}
    assert got["plain"]["absent_classes"] == 2 and got["plain"]["zero_classes"] == 0
    assert (got["plain"]["many"], got["plain"]["few"]) == (100.0, None)
    assert got["plain"]["gm"] == pytest.approx(100 * math.sqrt(0.5))
    for form in ("btm", "mislas", "ride"):
        assert got[form]["many"] is None and got[form]["hm"] is None and got[form]["gm"] is None
        assert got[form]["medium"] == 50.0
    assert got["bagmar"]["few"] == 0.0 and got["bagmar"]["many"] == 100.0
    assert got["livt"]["many"] == 50.0 and got["livt"]["few"] == 0.0
    assert got["ipdpp"]["few"] == 0.0


def test_pooled_groups_weigh_by_images() -> None:
    correct, tested, shots = np.array([9, 0]), np.array([10, 1]), np.array([0, 0])
    assert metrics.group_accuracy(correct, tested, shots, form="ipdpp")["many"] == pytest.approx(9 / 11)
    assert metrics.group_accuracy(correct, tested, shots)["many"] == pytest.approx(0.45)


def test_means_of_rounded_percentages_are_taken_in_percent() -> None:
    """LiVT: (42.00 + 45.65) / 2 is 43.825 and nothing else before it is rounded; a way over fractions moves it."""
    draw, form = np.random.default_rng(0), metrics.FORMS["livt"]
    for _ in range(200):
        tested = draw.integers(1, 60, 12)
        correct, shots = draw.binomial(tested, draw.uniform(0, 1, 12)), np.arange(12) % 3
        labels = np.repeat(np.arange(12), tested)
        pred = np.concatenate(
            [np.where(np.arange(t) < c, k, (k + 1) % 12) for k, (c, t) in enumerate(zip(correct, tested, strict=True))]
        )
        found = metrics.evaluate_predictions(pred, labels, class_counts=np.arange(12) + 1, shots=shots, form=form)
        rounded = np.round(100 * correct / tested, 2)
        assert [found[g] for g in metrics.GROUPS] == [rounded[shots == k].mean() for k in range(3)]


def test_shots_by_name_or_number() -> None:
    names = np.array(["few", "many", "medium"])
    np.testing.assert_array_equal(metrics.shot_index(names, 3), [2, 0, 1])
    with pytest.raises(UserError, match="did you mean 'medium'"):
        metrics.shot_index(np.array(["few", "many", "med"]), 3)
    with pytest.raises(UserError, match="each of 4 classes"):
        metrics.shot_index(names, 4)
    np.testing.assert_array_equal(metrics.shots_by_count([101, 100, 20, 19]), [0, 1, 1, 2])


def test_calibration_bins_are_open_below_and_closed_above() -> None:
    edges = np.linspace(0, 1, 16)
    confidence = np.array([0.0, edges[1], np.nextafter(edges[1], 1), 1.0])
    got = metrics.calibration(confidence, np.array([1, 1, 0, 1]))
    assert got["count"].tolist() == [1, 1] + [0] * 12 + [1]
    assert got["mce"] == pytest.approx(1 - edges[1])
    expected = ((1 - edges[1]) + edges[1] + 0) / 3
    assert got["ece"] == pytest.approx(expected)


def test_pdc_is_zero_when_balanced_and_one_when_as_skewed_as_training() -> None:
    labels = np.repeat(np.arange(4), 25)
    counts = np.array([70, 20, 8, 2])
    assert metrics.pdc(labels, labels, counts) == pytest.approx(0, abs=1e-12)
    assert metrics.pdc(np.repeat(np.arange(4), counts), labels, counts) == pytest.approx(1)
    assert math.isnan(metrics.pdc(labels, labels, np.full(4, 10)))


def test_hostile_logits() -> None:
    huge = np.array([[1e38, -1e38, 0], [-np.inf, 3e38, -np.inf]], np.float32)
    got = metrics.evaluate(huge, np.array([0, 1]), class_counts=np.array([3, 2, 1]))
    assert got["top1"] == 100 and got["ece"] == pytest.approx(0) and got["top5"] == 100
    half = metrics.scores(np.array([[6e4, -6e4]], np.float16), np.array([1]))
    assert half.confidence.dtype == np.float32 and half.pred[0] == 0
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="row 1 has no finite maximum"):
            metrics.scores(np.array([[0.0, 1.0], [bad, 0.0]]), np.array([0, 0]))
    with pytest.raises(UserError, match="row 0"):
        metrics.scores(np.full((1, 3), -np.inf), np.array([0]))
    one = metrics.evaluate(np.zeros((3, 1)), np.zeros(3, int), class_counts=np.array([5]))
    assert one["top1"] == one["hm"] == one["few"] == 100 and one["pdc"] is None
    empty = metrics.evaluate(np.zeros((0, 3)), np.zeros(0, int), class_counts=np.array([5, 4, 3]))
    assert empty["tested"] == 0 and empty["top1"] is None and empty["ece"] is None and empty["f1"] is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), "expected 0..2, got 0..3"),
        (np.array([-1, 0]), "expected 0..2, got -1..0"),
        (np.array([0.0, 1.0]), "vector of integers"),
        (np.array([0]), "2 rows against 1 labels"),
    ],
)
def test_wrong_labels_are_one_clear_line(labels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics.scores(np.zeros((2, 3)), labels)


def test_columns_must_match_the_class_counts() -> None:
    with pytest.raises(UserError, match="logits: 3 columns against 4 class counts"):
        metrics.evaluate(np.zeros((2, 3)), np.array([0, 1]), class_counts=np.ones(4, int))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_logits_warn_of_nothing(dtype: type) -> None:
    top = np.finfo(dtype).max
    got = metrics.scores(np.array([[top, -top, 0], [-top, -top, -top]], dtype), np.array([0, 2]))
    np.testing.assert_allclose(got.confidence, [1, 1 / 3], rtol=1e-6)
    assert got.rank.tolist() == [0, 2]


def test_unknown_rules_name_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown metrics form 'lvit'; did you mean"):
        metrics.evaluate_predictions(np.zeros(1, int), np.zeros(1, int), class_counts=[1], form="lvit")
    with pytest.raises(UserError, match=r"floor 0\.001"):
        metrics.harmonic_mean(np.ones(2), zero="floor")


def test_per_class_table() -> None:
    logits, labels = toy(num_classes=4)
    counts = np.array([500, 100, 20, 3])
    table = metrics.per_class(metrics.scores(logits, labels).pred, labels, class_counts=counts)
    assert table["shot"].tolist() == ["many", "medium", "medium", "few"]
    summary = metrics.evaluate(logits, labels, class_counts=counts)
    assert 100 * table["accuracy"].mean() == pytest.approx(summary["mean"])
    assert 100 * table["f1"].mean() == pytest.approx(summary["f1"])
    rows = list(csv.DictReader(io.StringIO(metrics.to_csv(table))))
    assert [int(r["tested"]) for r in rows] == np.bincount(labels).tolist()
    assert float(rows[1]["accuracy"]) == pytest.approx(table["accuracy"][1], abs=5e-7)


def test_confusion_of_8142_classes_is_small() -> None:
    labels = np.repeat(np.arange(8142), 3)
    pred = np.where(np.arange(len(labels)) % 3, labels, (labels + 1) % 8142)
    tracemalloc.start()
    cells = metrics.confusion_cells(pred, labels, 8142)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6 and len(cells["images"]) == 2 * 8142 and cells["images"].sum() == len(labels)
    assert metrics.to_csv(cells).splitlines()[:4] == ["target,predicted,images", "0,0,2", "0,1,1", "1,1,2"]


def test_memory_is_bounded_by_the_chunk() -> None:
    labels = np.zeros(4000, np.int64)
    logits = np.broadcast_to(np.arange(2000, dtype=np.float32), (4000, 2000))  # 32 MB if it were copied whole
    tracemalloc.start()
    metrics.scores(logits, labels, chunk_elements=1 << 17)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_no_torch_and_no_slow_imports() -> None:
    code = "import lt.metrics, sys; print([m for m in ('torch', 'scipy', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
