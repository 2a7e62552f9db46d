"""The profile on a real SLURM of two nodes, and what becomes of trainings that the cluster ends in every way it has.

Five trainings stand still in the fifth of their fourteen updates. Their driver is killed and started again; they go on,
stand again in the eleventh, and then: one is preempted by a job of a partition that goes first, one cancelled, one
meets its time limit, and the node of the others is cut off.
"""

from __future__ import annotations

import collections
import csv
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import slurm
from cluster.story import EPOCHS, SEEDS, STEPS, Story, project_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TABLE = "results/tables/digits.csv"
STAND = 5


@pytest.fixture(scope="module")
def story(bench: slurm.Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    base = tmp_path_factory.mktemp("story")
    story = Story(bench, project_of(base / "project"), TABLE)
    try:
        tell(story, base)
        print("\n" + "\n".join(f"{seconds:6.1f} s {what}" for what, seconds in story.seconds.items()))
        yield story
    finally:
        story.end()


def tell(story: Story, base: Path) -> None:
    began = time.monotonic()
    driver = story.start("first.log", STAND)
    story.first = story.wait(240, "five trainings stand", lambda: all_stand(story))
    story.seconds["until all five stand"] = time.monotonic() - began
    story.twice = story.run()
    story.status = story.project.run("python", "-m", "lt.cli", "status", "digits")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    process = psutil.Process(story.first[0][0])
    story.outlived = subprocess.run(process.cmdline(), cwd=story.root, env=story.env, capture_output=True, text=True)
    story.seconds["until the driver is killed"] = time.monotonic() - began

    driver = story.start("second.log", STAND)
    story.second = story.wait(300, "five trainings stand again", lambda: again(story))
    story.seconds["until all stand again"] = time.monotonic() - began
    strike(story)
    story.unbroken = unbroken(base / "unbroken")
    story.wait(400, "the table is made", lambda: driver.poll() is not None, driver=False)
    assert driver.returncode == 0, story.said("second.log")[-4000:]
    story.seconds["until the table is there"] = time.monotonic() - began


def all_stand(story: Story) -> dict[int, tuple[int, str]] | None:
    found = story.standing()
    return found if len(found) == len(SEEDS) else None


def again(story: Story) -> dict[int, tuple[int, str]] | None:
    found = all_stand(story)
    return found if found and not set(found.values()) & set(story.first.values()) else None


def strike(story: Story) -> None:
    """Cut off the node with fewer trainings; on the other one: preemption, time limit, cancel."""
    bench, jobs = story.bench, story.bench.jobs()
    nodes = collections.defaultdict(list)
    for seed, (_, job) in story.second.items():
        nodes[jobs[job]["NodeList"]].append(seed)
    cut, other = sorted(slurm.NODES, key=lambda node: len(nodes[node]))
    assert nodes[cut] and len(nodes[other]) >= 3, dict(nodes)
    first = preempted(story, other, {story.second[seed][1]: seed for seed in nodes[other]})
    rest = [seed for seed in nodes[other] if seed != first]
    story.fates = {first: "preempted"} | dict(zip(rest, ("cancelled", "time limit"), strict=False))
    story.fates |= dict.fromkeys(nodes[cut], "node cut off")
    job_of = {fate: story.second[seed][1] for seed, fate in story.fates.items()}
    bench.run("scontrol", "update", f"JobId={job_of['time limit']}", "TimeLimit=1")
    bench.run("scancel", job_of["cancelled"])
    bench.crash_node(cut)
    bench.wait_for("down*", 1, 60)
    for seed, fate in story.fates.items():
        if fate in ("preempted", "node cut off"):
            job = story.second[seed][1]
            story.wait(90, f"job {job} ({fate}) runs again", lambda job=job: runs_again(bench, job))
    bench.start_node(cut)


def runs_again(bench: slurm.Slurm, job: str) -> bool:
    """SLURM lets a job that it puts back in the queue wait for two minutes: not here."""
    facts = bench.jobs()[job]
    if facts["JobState"] == "PENDING":
        bench.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    return facts["Restarts"] == "1" and facts["JobState"] in ("RUNNING", "COMPLETED")


def preempted(story: Story, node: str, trainings: dict[str, int]) -> int:
    """A job that goes first takes the processors of one of these (SLURM job -> seed); whose."""
    bench, each = story.bench, int(story.bench.jobs()[next(iter(trainings))]["NumCPUs"])
    more = slurm.CPUS - each * (len(trainings) - 1)
    asked = ["--partition=urgent", f"--nodelist={node}", f"--cpus-per-task={more}", "--mem=100", "--output=/dev/null"]
    bench.run("sbatch", *asked, "--wrap=true")
    gone = lambda: [job for job in trainings if bench.jobs()[job]["Restarts"] == "1"]
    (job,) = story.wait(60, "one makes room", gone)
    assert f"preempted JobId={job} has been requeued" in (bench.root / "log" / "slurmctld.log").read_text()
    return trainings[job]


def unbroken(folder: Path) -> dict[int, str]:
    """The manifests of the same trainings that nothing disturbed, on this machine and without SLURM."""
    project = project_of(folder)
    targets = [f"results/digits/ce/resnet8/seed{seed}/train/manifest.json" for seed in SEEDS]
    project.run("snakemake", "--cores", "2", *targets)
    return {seed: (project.root / target).read_text() for seed, target in zip(SEEDS, targets, strict=True)}


def test_the_table_is_whole(story: Story) -> None:
    with open(story.root / TABLE) as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == [*map(str, SEEDS), "mean"]
    assert not any("missing" in row["verdict"] for row in rows)
    assert all(float(row["job_s"]) > float(row["wall_s"]) > 0 for row in rows)


def test_slurm_knows_the_jobs_of_the_run_files_on_two_nodes(story: Story) -> None:
    known, nodes = story.bench.jobs(), set()
    completed = story.bench.run("sacct", "-c", "-n", "-P", "-o", "JobID,NodeList,State")
    for path in (story.root / "results").rglob("run.json"):
        facts = json.loads(path.read_text())["slurm"]
        job = known[facts["SLURM_JOB_ID"]]
        assert job["JobState"] == "COMPLETED" and job["NodeList"] == facts["SLURMD_NODENAME"]
        assert f"{facts['SLURM_JOB_ID']}|{facts['SLURMD_NODENAME']}|COMPLETED" in completed
        nodes.add(facts["SLURMD_NODENAME"])
    assert nodes == set(slurm.NODES)


def test_the_profile_says_what_a_job_gets(story: Story) -> None:
    job = story.bench.jobs()[story.second[0][1]]
    assert (job["Partition"], job["NumCPUs"], job["MinMemoryNode"]) == ("main", "8", "32000M")
    assert job["TresPerJob"] == "gres:gpu:1"


def test_short_steps_share_a_job(story: Story) -> None:
    for seed in SEEDS:
        made = [f"digits/ce/resnet8/seed{seed}/predictions/test/train", f"metrics/digits/ce/resnet8/seed{seed}/train"]
        assert len({story.job(artefact) for artefact in made}) == 1


def test_a_second_driver_is_refused(story: Story) -> None:
    assert story.twice.returncode != 0 and "cannot be locked" in story.twice.stdout + story.twice.stderr


def test_status_names_the_running_jobs(story: Story) -> None:
    for seed, (_, job) in story.first.items():
        line = next(line for line in story.status.splitlines() if f"seed{seed}/" in line)
        assert line.startswith("running") and f"(SLURM job {job})" in line


def test_what_outlived_its_driver_is_not_made_twice(story: Story) -> None:
    process, job = story.first[0]
    said = story.outlived.stderr
    assert story.outlived.returncode == 2 and f"already being made by process {process} on " in said
    assert f"(SLURM job {job}); end that job first" in said


def test_a_killed_driver_is_put_right_by_the_same_command(story: Story) -> None:
    said = next(line for line in story.said("second.log").splitlines() if line.startswith("lt: "))
    assert "the driver before this one was killed" in said
    assert all(job in said for _, job in story.first.values())
    for _, job in story.first.values():
        assert story.bench.jobs()[job]["JobState"] == "CANCELLED"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_training_ends_in_the_bits_of_an_undisturbed_one(story: Story, seed: int) -> None:
    assert (story.root / "results" / story.home(seed) / "manifest.json").read_text() == story.unbroken[seed]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_runs_twice(story: Story, seed: int) -> None:
    """Every update was made once; only a node that is cut off loses the one that it had not yet saved."""
    made = collections.Counter(line for line in story.said("updates.txt").splitlines() if f"seed{seed}/" in line)
    assert len(made) == EPOCHS * STEPS
    assert made.total() == len(made) + (story.fates[seed] == "node cut off")
    assert not (story.root / "scratch").exists()


def test_only_the_driver_tries_again(story: Story) -> None:
    """In a job the one job of its own Snakemake has number 0."""
    assert re.findall(r"Trying to restart job (\d+)", story.said("second.log")).count("0") == 0


def fate_of(story: Story, fate: str) -> list[tuple[int, str]]:
    return [(seed, story.second[seed][1]) for seed, each in story.fates.items() if each == fate]


@pytest.mark.parametrize(("fate", "state"), [("cancelled", "CANCELLED"), ("time limit", "TIMEOUT")])
def test_the_message_says_which_job_why_and_where_its_log_is(story: Story, fate: str, state: str) -> None:
    (seed, job), *_ = fate_of(story, fate)
    said = story.said("second.log")
    assert f"SLURM-job '{job}' failed, SLURM status is: '{state}'" in said
    assert f"logs/{story.home(seed)}.log" in said
    assert story.job(story.home(seed)) != job
    assert "stopped by SIGTERM in epoch 2, step 5; state saved" in said
    assert "resumed in epoch 2, step 5" in story.training_log(seed)


@pytest.mark.parametrize("fate", ["preempted", "node cut off"])
def test_slurm_itself_starts_the_job_again(story: Story, fate: str) -> None:
    for seed, job in fate_of(story, fate):
        assert story.job(story.home(seed)) == job and int(story.bench.jobs()[job]["Restarts"]) == 1
        assert f"resumed in epoch 2, step {3 if fate == 'node cut off' else 5}" in story.training_log(seed)


def test_nothing_is_left_to_do_and_the_report_is_made(story: Story) -> None:
    run = lambda *more: subprocess.run(
        ["snakemake", *more, TABLE], cwd=story.root, env=story.env, capture_output=True, text=True
    )
    assert "Nothing to be done" in (done := run("-n")).stdout + done.stderr
    assert run("--report", "report.html").returncode == 0
    assert "digits" in (story.root / "report.html").read_text()
