# Baselines.
#
#   one loss, one network             train -> predict -> evaluate        (ce, focal, balanced_softmax, ldam_drw, ...)
#   a step on stored predictions      train of another baseline ------^   (ce_pn, tau_norm, ncm, logit_adjustment_posthoc)
#   a classifier on frozen features   train of another baseline -> stage2 -> predict   (crt, lws, balms, ...)


use rule train as baseline_train with:
    input:
        packed,
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


use rule train as baseline_stage2 with:
    input:
        packed,
        recipe=recipe_of("stage2"),
        split=split_of,
        init=stage("train"),
    output:
        f"{SEED}/stage2/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/stage2.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/stage2.tsv"
    wildcard_constraints:
        method=of_paper("baselines"),
