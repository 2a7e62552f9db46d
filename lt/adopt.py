"""Two drivers on one working tree: what each has planned, and taking over what the other has finished.

Needs the drivers themselves; nothing else in `lt` imports this module.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lt import artefact
from lt.errors import UserError, pick
from lt.schema import RUN, Run
from lt.stages import recipe as recipes
from lt.stages.sections import params

PIECES = "results/params"


@dataclass(frozen=True)
class Job:
    """One piece of work as a driver states it; an artefact counts as its folder."""

    name: str
    command: str
    inputs: frozenset[str]
    outputs: frozenset[str]

    @property
    def is_recipe(self) -> bool:
        """What is written from params.yaml and code; Snakemake does it by itself, DVC in stages of their own."""
        stem = self.name.split("@")[0]
        return stem == "params" or stem.endswith("recipe")


def _place(path: str) -> str:
    """Snakemake names an artefact by its manifest, DVC by its folder."""
    return path.removesuffix("/" + artefact.MANIFEST)


def snakemake_jobs(targets: Iterable[str] = ()) -> list[Job]:
    """Every job behind the targets (default: the grid's tables), finished or not. Runs nothing."""
    from snakemake.api import OutputSettings, SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        Quietness,
        ResourceSettings,
        StorageSettings,
    )

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(),
            storage_settings=StorageSettings(),
            snakefile=Path("Snakefile"),
        )
        dag = workflow.dag(DAGSettings(targets=set(targets), forceall=True))
        with contextlib.redirect_stdout(sys.stderr):
            dag.execute_workflow(executor="dryrun")
        return [
            Job(
                job.rule.name,
                " ".join((job.shellcmd or "").split()),
                frozenset(_place(str(f)) for f in job.input),
                frozenset(_place(str(f)) for f in job.output),
            )
            for job in workflow._workflow.dag.jobs
            if job.output
        ]


def dvc_stages() -> list[Job]:
    """Every stage that params.yaml's grid makes of dvc.yaml."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        return [
            Job(
                stage.addressing,
                " ".join(stage.cmd.split()),
                frozenset(_place(dep.def_path) for dep in stage.deps if dep.def_path != "params.yaml"),
                frozenset(out.def_path for out in stage.outs),
            )
            for stage in repo.index.stages
        ]


def matched(jobs: Iterable[Job], stages: Iterable[Job]) -> list[str]:
    """The DVC stages that make what these Snakemake jobs make."""
    maker = {out: stage.name for stage in stages for out in stage.outputs}
    found: dict[str, None] = {maker[PIECES]: None}
    for job in jobs:
        for out in sorted(job.outputs):
            home = next((p for p in (out, str(Path(out).parent)) if p in maker), None)
            if home is None:
                raise UserError(
                    f"{out}: no stage of dvc.yaml makes it; add its method or data set to params.yaml's grid"
                )
            found[maker[home]] = None
    return list(found)


def run(*command: str) -> subprocess.CompletedProcess:
    """A driver's own command line."""
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)


def snakemake_pending(target: str) -> str:
    """What Snakemake would still do for a target; empty if nothing."""
    done = run("snakemake", "--dry-run", "--cores", "1", target)
    if done.returncode:
        raise UserError(f"snakemake -n {target}: {_last(done)}")
    if "Nothing to be done" in done.stdout + done.stderr:
        return ""
    rules = dict.fromkeys(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, flags=re.M))
    return ", ".join(rules) or "some jobs"


def dvc_pending(stages: list[str]) -> str:
    """The first stages that DVC holds for changed; empty if none."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        changed = [name for name, why in repo.status(targets=stages).items() if why]
    return ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")


def _last(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


def damaged(jobs: Iterable[Job]) -> list[str]:
    """Artefacts of these jobs whose files are not what their manifests say."""
    found = []
    for job in jobs:
        for out in sorted(job.outputs):
            if (Path(out) / artefact.MANIFEST).is_file():
                found += artefact.read(out, verify=False).check()
            elif not Path(out).exists():
                found.append(f"{out}: missing")
    return found


def to_dvc(table: str) -> str:
    """Enter a finished Snakemake run in dvc.lock and the cache."""
    target = f"results/tables/{table}.csv"
    if pending := snakemake_pending(target):
        raise UserError(f"{target}: Snakemake has not finished ({pending}); run: snakemake --cores all {target}")
    jobs = snakemake_jobs([target])
    if problems := damaged(jobs):
        raise UserError(problems[0])
    complete_recipes(jobs)
    names = matched(jobs, dvc_stages())
    from dvc.repo import Repo

    with Repo(".") as repo:
        for name in names:
            repo.commit(target=name, force=True)
    if pending := dvc_pending(names):
        raise UserError(f"adopt: dvc status still names {pending}; run: dvc repro")
    return f"{len(names)} stages are up to date for DVC"


def complete_recipes(jobs: Iterable[Job]) -> None:
    """DVC keeps a run's recipes as one folder, and params.yaml in pieces; Snakemake writes what its target needs."""
    params(out=PIECES)
    runs = {match.group() for job in jobs for out in job.outputs if (match := RUN.search(out.removeprefix("results/")))}
    for text in sorted(r for r in runs if not r.startswith("metrics/")):
        recipes.recipe(str(Run.parse(text)))


def to_snakemake(table: str) -> str:
    """Let Snakemake take what `dvc repro` or `dvc pull` has put in place for finished."""
    target = f"results/tables/{table}.csv"
    jobs = snakemake_jobs([target])
    names = matched(jobs, dvc_stages())
    if pending := dvc_pending(names):
        raise UserError(f"{target}: DVC has not finished ({pending}); run: dvc repro")
    if problems := damaged(jobs):
        raise UserError(problems[0])
    done = run("snakemake", "--touch", "--forceall", "--cores", "1", target)
    if done.returncode:
        raise UserError(f"snakemake --touch: {_last(done)}")
    if pending := snakemake_pending(target):
        raise UserError(f"adopt: Snakemake would still run {pending}; run: snakemake --cores all {target}")
    return f"{len(jobs)} jobs are up to date for Snakemake"


DRIVERS = {"dvc": to_dvc, "snakemake": to_snakemake}


def adopt(driver: str, table: str) -> None:
    """Make one driver take over what the other has finished, and check that nothing is left to do."""
    print(pick("adopt", driver, DRIVERS)(table))
