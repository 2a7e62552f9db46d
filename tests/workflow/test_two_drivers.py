"""workflow/rules and dvc.yaml state the same work: job by job the same command, inputs and outputs. Nothing is run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc_grids import CONFIG, grid, smoke_grid
from small_project import ROOT, WITH_BTM, Project, environment, make

READ = """
import json
from lt.adopt import dvc_stages, snakemake_jobs
def told(jobs):
    return [[j.name, j.command, sorted(j.inputs), sorted(j.outputs), j.is_recipe] for j in jobs]
stages = dvc_stages()
outputs = {min(s.outputs) for s in stages if not s.is_recipe}  # a grid may keep more than its tables show
targets = [o if o.endswith((".csv", ".svg")) else o + "/manifest.json" for o in outputs]
print(json.dumps([told(snakemake_jobs(targets)), told(stages)]))
"""


def read(root: Path, base: Path) -> tuple[list, list]:
    """Both plans, in a process of their own: Snakemake's API leaves its marks."""
    done = subprocess.run(
        [sys.executable, "-c", READ], cwd=root, env=environment(base), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    jobs, stages = json.loads(done.stdout.strip().splitlines()[-1])
    return jobs, stages


def covered(some: list[str], others: list[str]) -> set[str]:
    """What of `some` is neither in `others` nor a folder above or a file below one of them."""
    return {a for a in some if not any(a == b or a.startswith(b + "/") or b.startswith(a + "/") for b in others)}


def differences(jobs: list, stages: list) -> list[str]:
    """One line for each thing that one file says and the other does not."""
    maker = {out: stage for stage in stages for out in stage[3]}
    found, seen = [], set()
    for rule, command, inputs, outputs, is_recipe in jobs:
        if is_recipe:  # one job a recipe in Snakemake, one stage a run in DVC: compared by output
            found += [f"{o}: no stage of dvc.yaml makes it" for o in outputs if covered([o], list(maker))]
            continue
        stage = maker.get(outputs[0])
        if stage is None:
            found.append(f"{rule} {outputs[0]}: no stage of dvc.yaml makes it")
            continue
        seen.add(stage[0])
        if command != stage[1]:
            found.append(f"{stage[0]}: commands differ\n  snakemake: {command}\n  dvc:       {stage[1]}")
        if set(outputs) != set(stage[3]):
            found.append(f"{stage[0]}: outputs differ: {sorted(set(outputs) ^ set(stage[3]))}")
        if missing := covered(inputs, stage[2]) | covered(stage[2], inputs):
            found.append(f"{stage[0]}: inputs differ: {sorted(missing)}")
    extra = [s for s in stages if not s[4] and s[0] not in seen]
    return found + [f"{s[0]}: no job of Snakemake makes {s[3][0]}" for s in extra]


def test_same_work(tmp_path: Path) -> None:
    jobs, stages = read(ROOT, tmp_path)
    assert len(jobs) > 50 and len(stages) > 50
    assert not differences(jobs, stages), "\n".join(differences(jobs, stages))


# Every method of the tables on these networks: a method whose graph dvc.yaml lacks is found here.
COMPARED = {  # data set, network -> table
    ("digits", "resnet8"): "digits_full",
    ("digits", "vit_digits"): "digits_full",
    ("imagenet_lt", "resnet50"): "imagenet",
    ("imagenet_lt", "resnet10"): "imagenet",
    ("imagenet_lt", "vit_base"): "imagenet",
    ("cifar10_lt_if100", "resnet32"): "cifar10",
    ("cifar10_lt_if100", "vit_base"): "livt_cifar",
    ("places_lt", "resnet152_places"): "places",
}
GRIDS = {
    f"{dataset} {arch}": smoke_grid(dataset, arch, CONFIG.methods(table)) for (dataset, arch), table in COMPARED.items()
}
GRIDS["imagenet_lt resnet50"]["packs"] = ["imagenet_lt_raw256_smoke"]
FAST = ("digits resnet8", "imagenet_lt resnet50", "cifar10_lt_if100 vit_base")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in GRIDS])
def test_every_graph_is_the_same_work(tmp_path: Path, name: str) -> None:
    project = make(tmp_path / "project", {}, git=False, params=lambda text: with_grid(text, GRIDS[name]))
    jobs, stages = read(project.root, project.base)
    assert not differences(jobs, stages), "\n".join(differences(jobs, stages))


def with_grid(text: str, grid: dict) -> str:
    params = yaml.safe_load(text)
    params["grid"] |= grid
    return yaml.safe_dump(params, sort_keys=False)


def test_the_grids_have_every_graph() -> None:
    """Each list of methods in `grid` is in use in one of the grids that are compared."""
    default = yaml.safe_load((ROOT / "params.yaml").read_text())["grid"]
    used = {key for found in (default, *GRIDS.values()) for key, value in found.items() if value}
    assert used >= set(default)


def test_every_method_of_every_table_has_a_graph() -> None:
    for table in (t for t in CONFIG.params.tables if not t.startswith("crossed")):
        for dataset, arch in {(run.dataset, run.arch) for run, _ in CONFIG.rows(table)}:
            methods = {run.method for run, _ in CONFIG.rows(table) if (run.dataset, run.arch) == (dataset, arch)}
            listed = {m for value in grid(dataset, arch, methods).values() for m in value}
            assert methods <= listed, table


def test_every_verb_is_in_both() -> None:
    def scripts(text: str) -> set[str]:
        return set(re.findall(r"scripts/\w+\.py", text))

    rules = scripts("".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk")))
    assert len(rules) > 10 and scripts((ROOT / "dvc.yaml").read_text()) == rules | {"scripts/params.py"}


@pytest.fixture(scope="module")
def mutable(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make(tmp_path_factory.mktemp("drift") / "project", WITH_BTM, git=False)


MUTATIONS = {
    "an input less": (
        "workflow/rules/btm.smk",
        '        subset=f"{SEED}/subsets/subset{{index}}/manifest.json",\n',
        "",
        "btm_branch@digits_smoke-btm-resnet8-0-0: inputs differ",
    ),
    "an option more": (
        "workflow/rules/verbs.smk",
        "scripts/evaluate.py {params.args}",
        "scripts/evaluate.py {params.args} --x",
        "baseline_evaluate@digits_smoke-ce-resnet8-0-train: commands differ",
    ),
    "an output less": (
        "workflow/rules/tables.smk",
        '        md="results/tables/{table}.md",\n',
        "",
        "tabulate@digits_smoke: outputs differ",
    ),
    "another stage's model": (
        "dvc.yaml",
        "--init results/${item.dataset}/mislas",
        "--init results/${item.dataset}/ce",
        "btm_branch@digits_smoke-btm-resnet8-0-0: commands differ",
    ),
    "another dependency": (
        "dvc.yaml",
        "- results/${item.dataset}/${item.method}/${item.arch}/seed${item.seed}/branches\n",
        "- results/${item.dataset}/${item.method}/${item.arch}/seed${item.seed}/subsets\n",
        "btm_merge@digits_smoke-btm-resnet8-0: inputs differ",
    ),
}


@pytest.mark.parametrize("side", ["workflow/rules", "dvc.yaml"])
def test_a_change_of_one_side_alone_is_found(mutable: Project, side: str) -> None:
    """All changes of one side at once, since reading a plan is what takes time; each must be told."""
    mutations = [m for m in MUTATIONS.values() if m[0].startswith(side)]
    before = {m[0]: (mutable.root / m[0]).read_text() for m in mutations}
    for file, old, new, _ in mutations:
        mutable.edit(file, old, new)
    try:
        found = differences(*read(mutable.root, mutable.base))
    finally:
        for file, text in before.items():
            (mutable.root / file).write_text(text)
    silent = [told for *_, told in mutations if not any(told in line for line in found)]
    assert len(mutations) >= 2 and not silent, found


@pytest.mark.slow
def test_the_small_project_agrees(mutable: Project) -> None:
    """What the mutations start from has no difference of its own."""
    assert not differences(*read(mutable.root, mutable.base))


@pytest.mark.slow
def test_unfinished_work_is_not_adopted(mutable: Project) -> None:
    assert "Snakemake has not finished" in mutable.adopt("dvc", check=False)
    assert "DVC has not finished" in mutable.adopt("snakemake", check=False)


@pytest.mark.slow
@pytest.mark.parametrize("git", [True, False], ids=["git", "no git"])
def test_a_run_of_one_driver_is_up_to_date_for_the_other(tmp_path: Path, git: bool) -> None:
    """The whole smoke table with branches and merge; first by Snakemake, then again from nothing by DVC."""
    first = make(tmp_path / "first", WITH_BTM, git=git)
    made = first.snakemake()
    first.adopt("dvc")
    assert first.status() == [] and first.dvc() == set()

    second = make(tmp_path / "second", WITH_BTM, git=git)
    assert second.dvc() == made
    second.adopt("snakemake")
    assert second.planned() == set() and second.status() == []
    assert same_lock(first) == same_lock(second)


def same_lock(project: Project) -> list[str]:
    """The stages of dvc.lock. Digests of measured times differ from run to run."""
    import yaml

    return sorted(yaml.safe_load((project.root / "dvc.lock").read_text())["stages"])


@pytest.mark.slow
def test_a_damaged_run_is_not_adopted(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    with open(project.root / "results/digits_smoke/ce/resnet8/seed0/train/model.safetensors", "ab") as file:
        file.write(b"x")
    assert "changed since it was written" in project.adopt("dvc", check=False)
    assert "DVC has not finished" in project.adopt("snakemake", check=False)
