# What a stage reads: the artefact that each input of a rule stands for, as a function of the run.


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


@asked
def own_subset(wildcards):
    """The subset of a branch, where this run's branches have subsets."""
    run, subset = run_of(wildcards), f"subset{wildcards.index}"
    has = "subset" in LT.stages_of(run)
    return path_of(run, "subsets", subset) if has else []


@asked
def trunk(wildcards):
    """What the second stage of a crossing stands on: the merged network, the one branch, or stage 1."""
    run = run_of(wildcards)
    name = [s for s in LT.stages_of(run) if s in ("stage1", "branch", "merge")][-1]
    home, node = LT.home(run, name)
    if name == "branch":
        return path_of(home, "branches", "branch0")
    return path_of(home, node)


@asked
def before_best(wildcards):
    """The training stage whose snapshots are compared."""
    run = run_of(wildcards)
    trained = [s for s in LT.stages_of(run) if s not in ("best", "predict", "evaluate")]
    home, node = LT.home(run, trained[-1])
    return path_of(home, node)


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
def tuning(wildcards):
    part = LT.stage(run_of(wildcards), "evaluate").params.tuning
    run, node = node_home(wildcards)
    return path_of(run, "predictions", part, node) if part else []


@asked
def packed(wildcards):
    """The packs that a stage reads its images from; none where the data set is not packed."""
    return recipes.packs_of(LT, wildcards.dataset, getattr(wildcards, "part", "train"))


@asked
def table_rows(wildcards):
    return [row["manifest"] for row in recipes.of_table(LT, wildcards.table)["rows"]]


def figures_of(table):
    return [f"results/figures/{table}/{name}.svg" for name in LT.table(table).figures]
