"""One run on the bench, told by its driver's logs, its trainings' logs and SLURM."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from cluster import slurm
from small_project import METHODS, Project, environment, make

SEEDS = range(5)
EPOCHS, STEPS = 2, 7
OPTIONS = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"]
OPTIONS += ["--slurm-no-account", "--latency-wait", "10"]
HOOKS = Path(__file__).with_name("hooks")
HELD = re.compile(r"process (\d+) on \S+ \(SLURM job (\d+)\)")


def project_of(folder: Path) -> Project:
    """One method, five seeds, fourteen updates each."""
    project = make(folder, METHODS, git=False)
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["seeds"] = list(SEEDS)
    params["tables"]["digits"]["methods"] = ["ce"]
    own = params["recipes"]["ce"]["sets"]["digits"]["stages"]["train"]
    own |= {"epochs": EPOCHS, "steps": STEPS, "batch": 8, "schedule": "constant"}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return project


class Story:
    """A project, the one command that is given again and again, and what became of its jobs."""

    def __init__(self, bench: slurm.Slurm, project: Project, *target: str) -> None:
        self.bench, self.project, self.root, self.target = bench, project, project.root, target
        self.env = environment(project.base) | bench.env
        self.env["PATH"] = f"{bench.env['PATH'].split(':')[0]}:{environment(project.base)['PATH']}:/usr/sbin:/sbin"
        self.fates: dict[int, str] = {}
        self.seconds: dict[str, float] = {}
        self.drivers: list[subprocess.Popen] = []

    def command(self) -> list[str]:
        return ["snakemake", "--profile", "profiles/slurm", *OPTIONS, *self.target]

    def hooked(self, stand: int) -> dict[str, str]:
        """Trainings that stand in that update, save after every one, and note them all."""
        env = {"PYTHONPATH": str(HOOKS), "LT_TEST_STAND": str(stand), "LT_SAVE_EVERY_S": "0"}
        return self.env | env | {"LT_TEST_UPDATES": str(self.root / "updates.txt")}

    def start(self, log: str, stand: int) -> subprocess.Popen:
        with open(self.root / log, "w") as file:
            driver = subprocess.Popen(
                self.command(), cwd=self.root, env=self.hooked(stand), stdout=file, stderr=file,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever started pytest with `&`
            )  # fmt: skip
        self.drivers.append(driver)
        return driver

    def end(self) -> None:
        for driver in self.drivers:
            driver.kill()
            driver.wait()

    def run(self, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(), cwd=self.root, env=env or self.env, capture_output=True, text=True, timeout=600
        )

    def said(self, log: str) -> str:
        return (self.root / log).read_text()

    def home(self, seed: int) -> str:
        return f"digits/ce/resnet8/seed{seed}/train"

    def training_log(self, seed: int) -> str:
        return self.said(f"logs/{self.home(seed)}.log")

    def job(self, artefact: str) -> str:
        """The SLURM job that made it."""
        return json.loads(self.said(f"results/{artefact}/run.json"))["slurm"]["SLURM_JOB_ID"]

    def standing(self) -> dict[int, tuple[int, str]]:
        """Seed -> (process, SLURM job) of each training that stands, with all of its ranks."""
        found = {}
        for seed in SEEDS:
            with contextlib.suppress(OSError, psutil.Error):
                match = HELD.match((self.root / "scratch" / self.home(seed) / "lock").read_text())
                if match and all(p.status() == psutil.STATUS_STOPPED for p in _ranks(int(match[1]))):
                    found[seed] = (int(match[1]), match[2])
        return found

    def wait(self, seconds: float, what: str, found: Callable[[], object], *, driver: bool = True) -> object:
        watched = [*self.bench.daemons.values(), *(self.drivers[-1:] if driver else ())]
        deadline = time.monotonic() + seconds
        while not (value := found()):
            assert all(each.poll() is None for each in watched), f"{what}: a daemon or the driver ended"
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
            time.sleep(0.3)
        return value


def _ranks(process: int) -> list[psutil.Process]:
    """A training's processes: this one, and its siblings where a launcher started it."""
    return [p for p in psutil.Process(process).parent().children() if "scripts/train.py" in p.cmdline()]
