# BaGMar (GALA).
#
#   digits, fashion, CIFAR   train -> predict -> evaluate
#                                         \---> PN, tau 1 -> evaluate       (bagmar_pn)
#                                          \--> PN, tau tuned -> evaluate   (bagmar_pn_tau: on val; bagmar_pn_tau_test)
#   large sets               stage 1 of MiSLAS or of ce -> train (the classifier, class-aware batches) -> predict -> ...


use rule train as bagmar_train with:
    input:
        packed,
        recipe=recipe_of("train"),
        split=split_of,
        init=optional("stage1"),
    output:
        f"{SEED}/train/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/train.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/train.tsv"
    wildcard_constraints:
        method=of_paper("bagmar"),
