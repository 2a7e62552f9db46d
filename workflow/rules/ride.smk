# RIDE and BatchFormer.
#
#   RIDE                          stage1 ------------------> predict -> evaluate
#   distilled     teacher ------> stage1 ------------------>
#   with router   [teacher ->]    stage1 -> ea ------------>   (the router learns, the experts stay)
#   linear heads                  stage1 -> tau_norm ------>   (classifiers rescaled, nothing learns)
#   BatchFormer                   stage1, with the encoder in training only
#
# A teacher is the stage 1 of another recipe (`teacher: {use: ride6/stage1}`), which many students share.


use rule train as ride_stage1 with:
    input:
        packed,
        recipe=recipe_of("stage1"),
        split=split_of,
        teacher=optional("teacher"),
    output:
        f"{SEED}/stage1/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/stage1.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/stage1.tsv"
    wildcard_constraints:
        method=of_paper("ride"),


use rule train as ride_ea with:
    input:
        packed,
        recipe=recipe_of("ea"),
        split=split_of,
        init=stage("stage1"),
    output:
        f"{SEED}/ea/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/ea.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/ea.tsv"
    wildcard_constraints:
        method=of_paper("ride"),


use rule merge as ride_tau_norm with:
    input:
        packed,
        recipe=recipe_of("tau_norm"),
        models=stage("stage1"),
        split=split_of,
    output:
        f"{SEED}/tau_norm/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/tau_norm.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/tau_norm.tsv"
    wildcard_constraints:
        method=of_paper("ride"),
