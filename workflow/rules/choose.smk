# The epoch chosen on the test set, where a paper's numbers were made that way: a stage of its own after training.
#
#   train (snapshots) -> best (opens the test set, and says so) -> predict -> evaluate (selected_on: test)


rule choose:
    input:
        recipe=recipe_of("best"),
        split=split_of,
        model=before_best,
    output:
        f"{SEED}/best/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/best.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/best.tsv"
    wildcard_constraints:
        method=one_of(m for m in LT.params.recipes if "best" in LT.stage_names(m)),
    conda:
        ENV
    threads: 1
    params:
        args=flags,
    shell:
        "python scripts/choose.py {params.args} --out {output} --log {log}"
