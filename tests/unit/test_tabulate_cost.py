import json
from pathlib import Path

import pytest

from lt.stages.tabulate import job_seconds

RUN = "digits/ce/resnet8/seed0"
CHAIN = {  # folder below results -> (its benchmark file, seconds, parents)
    f"metrics/{RUN}/train": (f"{RUN}/metrics/train", 2.5, [f"{RUN}/predictions/test/train", "digits/split0"]),
    f"{RUN}/predictions/test/train": (f"{RUN}/predictions/test/train", 4.0, [f"{RUN}/train", "digits/split0"]),
    f"{RUN}/train": (f"{RUN}/train", 30.25, ["digits/split0"]),
    "digits/split0": ("digits/split0", 1.0, []),
}


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder, (benchmark, seconds, parents) in CHAIN.items():
        manifest = Path("results") / folder / "manifest.json"
        manifest.parent.mkdir(parents=True)
        where = {str(i): f"results/{parent}" for i, parent in enumerate(parents)}
        digests = dict.fromkeys(where, "0" * 64)
        content = {"stage": folder, "recipe": {}, "inputs": digests, "parents": where, "outputs": {}}
        manifest.write_text(json.dumps(content))
        file = Path("benchmarks") / f"{benchmark}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t300.1\n")
    return Path("results/metrics") / RUN / "train/manifest.json"


def test_the_seconds_of_every_job_behind_a_row_are_summed_once(metrics: Path) -> None:
    assert job_seconds(metrics) == 37.75


def test_a_sum_that_lacks_a_job_is_none(metrics: Path) -> None:
    Path(f"benchmarks/{RUN}/predictions/test/train.tsv").unlink()
    assert job_seconds(metrics) is None
