"""A row of every paper on a real SLURM of two nodes; one training on several GPUs and nodes, and Ctrl-C."""

from __future__ import annotations

import collections
import csv
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import slurm
from cluster.story import EPOCHS, STEPS, Story, project_of
from small_project import TABLE, make

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAPERS = ["ce", "bagmar_pn", "btm", "ride3", "ipdpp_paper", "livt"]
BTM = "digits_smoke/btm/resnet8/seed0"
STAND = 5


def one_row_a_paper(text: str) -> str:
    params = yaml.safe_load(text)
    params["seeds"] = [0]
    params["tables"]["digits"] = {"datasets": ["digits"], "methods": PAPERS}
    return yaml.safe_dump(params, sort_keys=False)


def test_a_table_with_a_row_of_every_paper(bench: slurm.Slurm, tmp_path: Path) -> None:
    story = Story(bench, make(tmp_path / "project", {}, git=False, params=one_row_a_paper), TABLE)
    began = time.monotonic()
    done = story.run()
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    with open(story.root / TABLE) as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["seed"] == "0"}
    assert set(rows) == set(PAPERS) and all(0 <= float(row["top1"]) <= 100 for row in rows.values())

    results, known = story.root / "results", bench.jobs()
    made = {name: story.job(name) for p in results.rglob("run.json") if (name := str(p.parent.relative_to(results)))}
    assert all(known[job]["JobState"] == "COMPLETED" for job in made.values())
    assert {known[job]["NodeList"] for job in made.values()} == set(slurm.NODES)
    of = collections.defaultdict(set)
    for artefact, job in made.items():
        of[job].add(artefact)
    shared = [artefacts for artefacts in of.values() if len(artefacts) > 1]
    assert {f"{BTM}/subsets/subset{i}" for i in range(2)} in shared
    assert len(shared) == 1 + len(PAPERS)  # and each model's predictions with what is measured on them
    print(f"\n{time.monotonic() - began:.0f} s: {len(rows)} rows, {len(made)} artefacts, {len(of)} SLURM jobs")


@pytest.fixture(scope="module")
def ce(bench: slurm.Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    story = Story(bench, project_of(tmp_path_factory.mktemp("ce") / "project"))
    yield story
    story.end()


def wide(story: Story, seed: int, *resources: str) -> None:
    """The command for this seed's training, with torchrun."""
    given = [*resources, "cpus_per_task=2", "mem_mb=8000", "launch=profiles/slurm/torchrun"]
    target = f"results/{story.home(seed)}/manifest.json"
    story.target = (target, "--set-resources", *(f"baseline_train:{each}" for each in given))


def updates(story: Story, seed: int) -> collections.Counter:
    return collections.Counter(line for line in story.said("updates.txt").splitlines() if f"seed{seed}/" in line)


def test_ctrl_c_and_the_same_command_on_two_gpus(ce: Story) -> None:
    """Two ranks of one node stand in the fifth of fourteen updates; interrupted, they end with the sixth."""
    began, ranks = time.monotonic(), min(2, ce.bench.gpus)
    wide(ce, 0, f"gpu={ranks}")
    driver = ce.start("interrupted.log", STAND)
    (_, job) = ce.wait(120, "the training stands", ce.standing)[0]
    asked = ce.bench.jobs()[job]
    assert (asked["TresPerJob"], asked["NumNodes"]) == (f"gres:gpu:{ranks}", "1")
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) != 0
    ce.wait(60, "the job ends", lambda: ce.bench.jobs()[job]["JobState"] == "CANCELLED", driver=False)
    assert "Terminating processes on user request" in ce.said("interrupted.log")
    assert "stopped by SIGTERM in epoch 1, step 6; state saved" in ce.training_log(0)

    done = ce.run(ce.hooked(1000))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "resumed in epoch 1, step 6" in ce.training_log(0)
    assert ce.job(ce.home(0)) != job
    made = updates(ce, 0)
    assert len(made) == EPOCHS * STEPS and set(made.values()) == {ranks}  # no rank makes an update twice
    print(f"\n{time.monotonic() - began:.0f} s")


def test_two_nodes_train_one_network(ce: Story) -> None:
    """torchrun on two nodes, a rank a GPU: one training of as many updates as ever."""
    began, each = time.monotonic(), min(2, ce.bench.gpus)
    wide(ce, 1, "nodes=2", "mpi=srun", "tasks=2", "gpu=0", f"slurm_extra='--gpus-per-node={each}'")
    done = ce.run(ce.hooked(1000))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    job = ce.bench.jobs()[ce.job(ce.home(1))]
    assert (job["NodeList"], job["TresPerNode"]) == ("n[1-2]", f"gres:gpu:{each}")
    history = ce.said(f"results/{ce.home(1)}/history.csv").splitlines()
    made = updates(ce, 1)
    assert len(history) == 1 + EPOCHS and len(made) == EPOCHS * STEPS
    assert set(made.values()) == {2 * each}  # each update by every rank
    print(f"\n{time.monotonic() - began:.0f} s")
