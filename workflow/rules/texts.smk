# What a recipe file says today, and which of those that lie there no longer say it.


def now_pack(wildcards):
    return recipes.of_pack(LT, wildcards.dataset, wildcards.part)


def now_stage(wildcards):
    return recipes.of_stage(LT, run_of(wildcards), wildcards.stage)


def now_split(wildcards):
    return recipes.of_split(LT, wildcards.dataset, int(wildcards.split))


def now_table(wildcards):
    return recipes.of_table(LT, wildcards.table)


def text(now):
    """What a recipe file says, for the shell that writes it; without its last line end."""
    return asked(lambda wildcards: dump(now(wildcards)).rstrip())


def kept(file, now):
    """Reads nothing: a recipe that lies there, or what it made, is made again where it is not what it would be now."""

    @asked
    def look(wildcards):
        if workflow.is_main_process:
            path = file.format(**dict(wildcards.items()))
            workflow.dag.forcefiles.update(outdated(path, lambda: now(wildcards)))
        return []

    return look
