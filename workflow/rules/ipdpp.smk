# BNS and IP-DPP. Lists are drawn inside finetune, from the model as it stands; they are among its outputs (draws/).
#
#   split -> pretrain -+-> finetune (draw 0 -> epochs .. -> draw 1 -> epochs .. ) -> evaluate        ipdpp
#                      +-> probe <- subset0 (balanced)                           -> evaluate        bns_lp: only measures


use rule train as ipdpp_pretrain with:
    input:
        packed,
        recipe=recipe_of("pretrain"),
        split=split_of,
    output:
        f"{SEED}/pretrain/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/pretrain.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/pretrain.tsv"
    wildcard_constraints:
        method=of_paper("ipdpp"),


use rule train as ipdpp_probe with:
    input:
        packed,
        recipe=recipe_of("probe"),
        split=split_of,
        subset=f"{SEED}/subsets/subset0/manifest.json",
        init=stage("pretrain"),
    output:
        f"{SEED}/probe/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/probe.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/probe.tsv"
    wildcard_constraints:
        method=of_paper("ipdpp"),


use rule train as ipdpp_finetune with:
    input:
        packed,
        recipe=recipe_of("finetune"),
        split=split_of,
        init=stage("pretrain"),
    output:
        f"{SEED}/finetune/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/finetune.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/finetune.tsv"
    wildcard_constraints:
        method=of_paper("ipdpp"),
