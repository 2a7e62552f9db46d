"""Every benchmark's two ways give one result, at small sizes; no timing is judged here."""

import json

import pytest

from bench import cases_images, cases_science, cases_steps, harness, peak, report

AREAS = (cases_images, cases_science, cases_steps)
SMALL = [(area, name) for area in AREAS for name in area.CASES]


@pytest.mark.parametrize(("area", "name"), SMALL, ids=[name for _, name in SMALL])
def test_both_ways_agree(area, name):
    if name in getattr(area, "BF16", ()) and not peak.has_bf16():
        pytest.skip("no bf16 arithmetic on this machine")
    result = harness.compare(area.CASES[name](**area.SMALL[name]), rounds=3)
    assert result.rounds == 3
    assert result.q1 <= result.value <= result.q3
    assert result.value > 0


def work(result, loops):
    def run():
        sum(range(loops))
        return result

    return run


def case(ordinary, ours, demand):
    def same(a, b):
        assert a == b

    return harness.Case(
        id="T", what="test", ordinary=ordinary, ours=ours, same=same, tolerance="none", demand=demand, budget_s=0.2
    )


def test_a_fast_wrong_answer_has_no_number():
    with pytest.raises(AssertionError):
        harness.compare(case(work(1, 1000), work(2, 10), 1))


def test_a_ratio_is_what_it_should_be():
    result = harness.compare(case(work(1, 400_000), work(1, 20_000), 4))
    assert result.value > 4
    assert result.verdict == "ok"


@pytest.mark.parametrize(
    ("reached", "spread", "verdict"),
    [(True, 0.9, "ok"), (False, 0.1, "slow"), (False, 0.3, "inconclusive")],
)
def test_only_a_quiet_miss_is_a_miss(reached, spread, verdict):
    assert harness.judge(reached, spread) == verdict


def test_a_miss_is_measured_once_more():
    found = iter(["slow", "ok"])
    result = harness.settle(lambda: harness.Result("T", "", 1.0, 2.0, next(found)))
    assert result.verdict == "ok"


def test_slopes():
    sizes = [10, 20, 40]
    assert harness.slope(sizes, [3.0, 3.0, 3.0]) == pytest.approx(0)
    assert harness.slope(sizes, [1.0, 4.0, 16.0]) == pytest.approx(2)


def test_report(tmp_path):
    results = [
        harness.Result(
            "P0", "a case", 12.3, 10, "ok", q1=11.0, q3=13.0, rounds=7, ordinary_us=50.0, ours_us=4.0, unit="image"
        ),
        harness.Result("X", "start-up", 0.4, 0.6, "ok", kind="seconds"),
    ]
    paths = report.write(results, {"cpu": "some", "cores": 2}, tmp_path)
    assert json.loads(paths[0].read_text())["results"][0]["value"] == 12.3
    text = paths[1].read_text()
    assert "| P0 | a case | 12.3x | 11-13, n=7 | >= 10 | ok | 50 us/image | 4 us/image |" in text
    assert "| X | start-up | 0.4 s |  | <= 0.6 | ok |" in text
