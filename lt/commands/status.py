"""`lt status`: what is done, damaged, stale, running, stopped, failed or missing. With --plan: jobs, hours, storage."""

from __future__ import annotations

import argparse
import fcntl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lt import artefact
from lt.config import Config, Run, load
from lt.errors import UserError
from lt.stages import recipe as recipes
from lt.stages.common import read_metrics
from lt.stages.stale import outdated

ORDER = ("done", "damaged", "stale", "running", "stopped", "failed", "missing")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="tables (those of the grid)")
    parser.add_argument("--plan", action="store_true", help="what a run of these tables would start and cost")


def main(given: argparse.Namespace) -> None:
    config = load()
    tables = given.tables or config.kept_tables()
    tables = [Path(t).stem for t in tables]
    for table in tables:
        print("\n".join(table_lines(config, table)))
    if given.plan:
        from lt.commands.plan import plan_lines

        print("\n".join(plan_lines(tables)))


def table_lines(config: Config, table: str) -> Iterator[str]:
    """One line a run, and a summary."""
    count: Counter[str] = Counter()
    rows = config.rows(table)
    for run, node in rows:
        state, note = state_of(config, run, node)
        count[state] += 1
        yield f"{state:8} {run}/{node}" + (f"   {note}" if note else "")
    made = Path(f"results/tables/{table}.csv")
    summary = ", ".join(f"{count[s]} {s}" for s in ORDER if count[s]) or "no runs"
    there = "there" if made.exists() else f"not made; snakemake --cores all {made}"
    yield f"table {table}: {summary} of {len(rows)}; {made}: {there}\n"


def state_of(config: Config, run: Run, node: str) -> tuple[str, str]:
    """(state, note). Stages shared from other recipes count, too."""
    homes = dict.fromkeys(config.home(run, stage) for stage in config.stage_names(run.method))
    manifest = Path(f"results/metrics/{run}/{node}/manifest.json")
    if manifest.exists():
        try:
            read_metrics(artefact.read(manifest))
        except UserError as error:
            return "damaged", str(error)
        old = next(_stale(config, run, list(homes)), "")
        return ("stale", f"{old}: other parameters or code than now") if old else ("done", "")
    places = {str(home): None for home, _ in homes} | {str(run): None}
    stages = {f"{home}/{stage}" for home, stage in homes}
    held, left = _scratch(places, stages)
    if held:
        return "running", held
    if failed := _failure(places, stages):
        return "failed", failed
    return ("stopped", left) if left else ("missing", "")


def _stale(config: Config, run: Run, homes: list[tuple[Run, str]]) -> Iterator[str]:
    """What lies there of this run that would not be made so now."""
    split = f"results/{run.dataset}/recipe/split0.json"
    yield from outdated(split, lambda: recipes.of_split(config, run.dataset, 0))
    for home, stage in homes:
        if stage in config.stages_of(home):
            file = f"results/{home}/recipe/{stage}.json"
            yield from outdated(file, lambda home=home, stage=stage: recipes.of_stage(config, home, stage))


def _belongs(path: Path, base: Path, run: str, stages: set[str]) -> bool:
    """Is this folder or log of a stage that the run has a part in? Of other recipes only what is shared."""
    first = path.relative_to(base).parts[0].removesuffix(".log")
    return f"{run}/{first}" in stages or first in ("branches", "subsets", "predictions", "metrics")


def _scratch(places: dict[str, None], stages: set[str]) -> tuple[str, str]:
    """(who holds a stage, which stage has a state to go on from)."""
    left = ""
    for run in places:
        base = Path("scratch") / run
        for lock in sorted(base.rglob("lock")):
            if not _belongs(lock.parent, base, run, stages):
                continue
            if owner := _owner(lock):
                return f"{lock.parent.relative_to(base)}: {owner}; {_last_line(_log_of(run, lock.parent, base))}", ""
            if any(lock.parent.glob("*/state-*.pt")):
                left = f"{lock.parent.relative_to(base)}: goes on from its state when the command is repeated"
    return "", left


def _owner(lock: Path) -> str:
    """Who holds the lock; nobody where it can be had."""
    try:
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return ""


def _log_of(run: str, folder: Path, base: Path) -> Path:
    return Path("logs") / run / folder.relative_to(base).with_suffix(".log")


def _failure(places: dict[str, None], stages: set[str]) -> str:
    """The last line of the newest log whose artefact did not come."""
    found = []
    for run in places:
        base = Path("logs") / run
        for log in base.rglob("*.log"):
            inner = log.relative_to(base).with_suffix("")
            if inner.parts[0] == "recipe" or not _belongs(log, base, run, stages):
                continue
            metrics = inner.parts[0] == "metrics"
            made = Path("results/metrics") / run / inner.name if metrics else Path("results") / run / inner
            if not (made / "manifest.json").exists() and (line := _last_line(log)):
                found.append((log.stat().st_mtime, f"{inner}: {line}   (log {log})"))
    return max(found)[1] if found else ""


def _last_line(log: Path) -> str:
    """The last line that says something; the command itself does not."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    said = [line for line in lines if not line.startswith("$ ")]
    return said[-1][:200] if said else ("ended without a word" if lines else "")
