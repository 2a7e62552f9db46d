# LiVT: one masked pre-training feeds many fine-tunings (loss x resolution x tau).
#
#   mae/pretrain -> finetune (livt) -> predict -> evaluate
#                -> finetune (livt_384, mae_ce, livt_balce, ...)
#
# CIFAR fine-tunes from ImageNet-LT's pre-training: its recipes say `use: imagenet_lt:mae/pretrain`.


use rule train as livt_pretrain with:
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
        method=of_paper("livt"),


use rule train as livt_finetune with:
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
        method=of_paper("livt"),
