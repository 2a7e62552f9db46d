import os
import sys

sys.path.insert(0, workflow.basedir)

from lt.artefact import dump
from lt.config import Config, Run, canonical
from lt.errors import UserError
from lt.stages import recipe as recipes

ENV = "../../environment.yml"
SEED = "results/{dataset}/{method}/{arch}/seed{seed}"


def stop(error):
    """A user's mistake: the line itself, exit code 2, no traceback."""
    print(f"lt: {error}", file=sys.stderr, flush=True)
    os._exit(2)


try:
    LT = Config(config)
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
    return one_of(m for m in config["recipes"] if LT.meta(m, "paper") in papers)


def run_of(wildcards):
    return Run(wildcards.dataset, wildcards.method, wildcards.arch, int(wildcards.seed))


def path_of(run, *parts):
    return os.path.join("results", str(run), *parts, "manifest.json")


def stage(name):
    """A stage of this run, or of the recipe that it is shared from."""

    @asked
    def find(wildcards):
        run, home = LT.home(run_of(wildcards), name)
        return path_of(run, home)

    return find


def optional(name):
    """The same, where this run has that stage at all."""

    @asked
    def find(wildcards):
        run = run_of(wildcards)
        return stage(name)(wildcards) if name in LT.stages_of(run) else []

    return find


def node_home(wildcards):
    """Where a node of this run lives: `branch3` is the stage `branch`, number 3."""
    node, stem = wildcards.node, wildcards.node.rstrip("0123456789")
    name = node if node in LT.stage_names(wildcards.method) else stem
    run, home = LT.home(run_of(wildcards), name)
    return run, home + node[len(name) :]


def model_of(wildcards):
    """The artefact of a node; branches lie together in a folder."""
    run, node = run_of(wildcards), wildcards.node
    return (
        path_of(run, "branches", node)
        if node.startswith("branch")
        else path_of(run, node)
    )


def branches(wildcards):
    run = run_of(wildcards)
    count = LT.stage(run, "merge").params.count
    run, _ = LT.home(run, "branch")
    return [path_of(run, "branches", f"branch{i}") for i in range(count)]


@asked
def predictions(wildcards):
    run, node = node_home(wildcards)
    return path_of(run, "predictions", "test", node)


@asked
def predicted(wildcards):
    """The predictions of another stage of this run on the training images, for subsets that are drawn by them."""
    of = LT.stage(run_of(wildcards), "subset").params.of
    if of is None:
        return []
    run, home = LT.home(run_of(wildcards), of)
    return path_of(run, "predictions", "train", home)


@asked
def ride_teacher(wildcards):
    """The teacher's stage, where the recipe has one."""
    run = run_of(wildcards)
    if "teacher" not in LT.stage_names(run.method):
        return []
    home, name = LT.home(run, "teacher")
    return path_of(home, name)


@asked
def tuning(wildcards):
    part = LT.stage(run_of(wildcards), "evaluate").params.tuning
    run, node = node_home(wildcards)
    return path_of(run, "predictions", part, node) if part else []


def recipe_of(name):
    return f"{SEED}/recipe/{name}.json"


def split_of(wildcards):
    return f"results/{wildcards.dataset}/split0/manifest.json"


@asked
def stage_recipe(wildcards):
    return dump(recipes.of_stage(LT, run_of(wildcards), wildcards.stage)).rstrip()


@asked
def split_recipe(wildcards):
    return dump(recipes.of_split(LT, wildcards.dataset, int(wildcards.split))).rstrip()


@asked
def table_recipe(wildcards):
    return canonical(recipes.of_table(LT, wildcards.table))


@asked
def table_rows(wildcards):
    return [row["manifest"] for row in recipes.of_table(LT, wildcards.table)["rows"]]


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
