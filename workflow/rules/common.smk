import os
import sys

sys.path.insert(0, workflow.basedir)

from lt.artefact import dump
from lt.config import Run, canonical, load
from lt.errors import UserError
from lt.stages import recipe as recipes
from lt.stages.stale import outdated

ENV = "../../environment.yml"
SEED = "results/{dataset}/{method}/{arch}/seed{seed}"

# On a cluster a job is a Snakemake of its own, which would try again inside the job whatever --retries says.
RETRIES = 2 if workflow.is_main_process else 0


def stop(error):
    """A user's mistake: the line itself, exit code 2, no traceback."""
    print(f"lt: {error}", file=sys.stderr, flush=True)
    os._exit(2)


# Not by `configfile:`, which takes ten times as long. Scripts read the file, too: --config would reach the plan alone.
try:
    if config:
        raise UserError("--config: numbers stand in params.yaml, for both drivers")
    LT = load("params.yaml")
    captions = {name: table.caption for name, table in LT.params.tables.items()}
    config["captions"] = captions  # for the report
except UserError as error:
    stop(error)


def asked(function):
    """Input functions speak through one line as well."""

    def guarded(wildcards):
        try:
            return function(wildcards)
        except UserError as error:
            stop(error)

    return guarded


def one_of(names):
    return "|".join(sorted(names)) or "none"


def of_paper(*papers):
    """The methods whose graph stands in these papers' files, as a wildcard's pattern."""
    return one_of(m for m in LT.params.recipes if LT.meta(m, "paper") in papers)


def recipe_of(name):
    return f"{SEED}/recipe/{name}.json"


def split_of(wildcards):
    return f"results/{wildcards.dataset}/split0/manifest.json"


def flags(wildcards, input):
    """The named inputs, and what the output's name says, as options of the script; many branches are one folder."""
    given = []
    for name, path in input.items():
        if not isinstance(path, str):
            path = os.path.dirname(os.path.dirname(path[0])) if len(path) else None
        if path:
            given.append(f"--{name} {path}")
    given += [
        f"--{name} {wildcards[name]}"
        for name in ("index", "part")
        if name in wildcards.keys()
    ]
    return " ".join(given)


wildcard_constraints:
    dataset="[a-z0-9_]+",
    method="[a-z0-9_]+",
    arch="[a-z0-9_]+",
    seed=r"\d+",
    stage="[a-z0-9_]+",
    node="[a-z0-9_]+",
    part="train|val|test",
    index=r"\d+",
    split=r"\d+",
    table="[a-z0-9_]+",
    figure="[a-z_]+",
