# MiSLAS and BTM.
#
#   MiSLAS   stage1 ------------------------------------------------> stage2
#   BTM      stage1 -> branch0 (subset0) .. branch9 (subset9) -> merge -> stage2


use rule train as btm_stage1 with:
    input:
        packed,
        recipe=recipe_of("stage1"),
        split=split_of,
    output:
        f"{SEED}/stage1/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/stage1.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/stage1.tsv"
    wildcard_constraints:
        method=of_paper("mislas", "btm"),


use rule train as btm_branch with:
    input:
        packed,
        recipe=recipe_of("branch"),
        split=split_of,
        subset=f"{SEED}/subsets/subset{{index}}/manifest.json",
        init=stage("stage1"),
    output:
        f"{SEED}/branches/branch{{index}}/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/branches/branch{index}.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/branches/branch{index}.tsv"
    wildcard_constraints:
        method=of_paper("btm"),


use rule merge as btm_merge with:
    input:
        packed,
        recipe=recipe_of("merge"),
        models=branches,
        split=split_of,
        init=stage("stage1"),
    wildcard_constraints:
        method=of_paper("btm"),


use rule train as mislas_stage2 with:
    input:
        packed,
        recipe=recipe_of("stage2"),
        split=split_of,
        init=stage("stage1"),
    output:
        f"{SEED}/stage2/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/stage2.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/stage2.tsv"
    wildcard_constraints:
        method=of_paper("mislas"),


use rule mislas_stage2 as btm_stage2 with:
    input:
        packed,
        recipe=recipe_of("stage2"),
        split=split_of,
        init=stage("merge"),
    wildcard_constraints:
        method=of_paper("btm"),
