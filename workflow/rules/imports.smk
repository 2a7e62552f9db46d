# Stages that a checkpoint from elsewhere stands in for (`lt import`). A rule without wildcards goes before the stage's
# own, and needs none of the stages before it.


def imported(run, name):
    home = LT.folder(run, name)
    return {
        "recipe": f"results/{run}/recipe/{name}.json",
        "split": f"results/{run.dataset}/split0/manifest.json",
        "out": f"results/{home}/manifest.json",
        "log": f"logs/{home}.log",
        "benchmark": f"benchmarks/{home}.tsv",
    }


for run, name, _ in LT.imports():
    paths = imported(run, name)

    rule:
        name:
            f"import_{run.dataset}_{run.method}_{run.arch}_{run.seed}_{name}"
        input:
            recipe=paths["recipe"],
            split=paths["split"],
        output:
            paths["out"],
        log:
            paths["log"],
        benchmark:
            paths["benchmark"]
        conda:
            ENV
        threads: 1
        params:
            args=flags,
        shell:
            "python scripts/train.py {params.args} --out {output} --log {log}"
