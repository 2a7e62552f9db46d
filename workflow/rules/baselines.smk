# Baselines: one network, one loss.   split -> train -> predict -> evaluate


use rule train as baseline_train with:
    input:
        recipe=recipe_of("train"),
        split=split_of,
    output:
        f"{SEED}/train/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/train.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/train.tsv"
    wildcard_constraints:
        method=of_paper("baselines"),
