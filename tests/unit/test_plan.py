from pathlib import Path

import pytest

from lt.commands import plan

SAID = """\
localrule recipe:
    output: results/digits/ce/resnet8/seed0/recipe/train.json
    reason: Missing output files

    rule predict:
        output: results/digits/ce/resnet8/seed0/predictions/test/train/manifest.json
        benchmark: benchmarks/digits/ce/resnet8/seed0/predictions/test/train.tsv

rule baseline_train:
    input: results/digits/split0/manifest.json
    output: results/digits/ce/resnet8/seed0/train/manifest.json
    benchmark: benchmarks/digits/ce/resnet8/seed0/train.tsv

rule livt_pretrain:
    output: results/digits/mae/vit/seed4/pretrain/manifest.json
    benchmark: benchmarks/digits/mae/vit/seed4/pretrain.tsv
Job stats:
job        count
"""
PROFILE = """\
set-resources:
  baseline_train: &train {gpu: 1, mem_mb: attempt * 4000}
  livt_pretrain: {nodes: 2, mpi: srun, slurm_extra: "'--gpus-per-node=4'"}
  predict: *train
  evaluate: {mem_mb: 1000}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "planned", lambda targets: list(plan._jobs(SAID)))
    Path(plan.PROFILE).parent.mkdir(parents=True)
    Path(plan.PROFILE).write_text(PROFILE)
    return tmp_path


def benchmark(name: str, seconds: float) -> None:
    path = Path("benchmarks") / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t300\n")


def test_gpus_come_from_the_profile_of_all_nodes(folder: Path) -> None:
    expected = {"baseline_train": 1, "livt_pretrain": 8, "predict": 1, "evaluate": 0}
    assert plan.gpus_by_rule() == expected
    assert plan.gpus_by_rule(folder / "none.yaml") == {}


def test_hours_are_those_of_the_like_and_the_rest_is_named(folder: Path) -> None:
    benchmark("digits/ce/resnet8/seed1/train", 1800)
    benchmark("digits/ce/resnet8/seed2/train", 5400)
    benchmark("digits/mae/vit/seed0/pretrain", 7200)
    artefact = folder / "results/digits/ce/resnet8/seed1/train"
    artefact.mkdir(parents=True)
    (artefact / "manifest.json").write_bytes(b"x" * 2**20)
    lines = list(plan.plan_lines(["digits"]))
    assert lines[0] == "plan: 4 jobs"
    assert "measured: 3.000 job hours, 17.000 GPU hours; 1 jobs never measured here" in lines  # 1 h x 1 + 2 h x 8
    assert "storage: 1.0 MiB for jobs whose like is there; 2 of unknown size" in lines
    assert next(line for line in lines if "predict" in line).split() == ["predict", "1", "1", "never", "measured"]
