# The verbs that every paper is made of. A paper's file says `use rule train as <paper>_<stage> with:` its inputs.


rule split:
    input:
        recipe="results/{dataset}/recipe/split{split}.json",
    output:
        "results/{dataset}/split{split}/manifest.json",
    log:
        "logs/{dataset}/split{split}.log",
    benchmark:
        "benchmarks/{dataset}/split{split}.tsv"
    conda:
        ENV
    threads: 1
    params:
        args=flags,
    shell:
        "python scripts/split.py {params.args} --out {output} --log {log}"


rule train:
    input:
        packed,
        recipe=recipe_of("{stage}"),
        split=split_of,
    output:
        f"{SEED}/{{stage}}/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/{stage}.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/{stage}.tsv"
    wildcard_constraints:
        method="none",
    retries: RETRIES
    conda:
        ENV
    threads: 1
    resources:
        launch="python",
    params:
        args=flags,
    shell:
        "{resources.launch} scripts/train.py {params.args} --out {output} --log {log}"


rule subset:
    input:
        recipe=recipe_of("subset"),
        split=split_of,
        predictions=predicted,
    output:
        f"{SEED}/subsets/subset{{index}}/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/subsets/subset{index}.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/subsets/subset{index}.tsv"
    conda:
        ENV
    threads: 1
    params:
        args=flags,
    shell:
        "python scripts/subset.py {params.args} --out {output} --log {log}"


rule merge:
    input:
        packed,
        recipe=recipe_of("merge"),
        models=branches,
        split=split_of,
    output:
        f"{SEED}/merge/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/merge.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/merge.tsv"
    wildcard_constraints:
        method="none",
    conda:
        ENV
    threads: 1
    params:
        args=flags,
    shell:
        "python scripts/merge.py {params.args} --out {output} --log {log}"


rule predict:
    input:
        packed,
        recipe=recipe_of("predict"),
        split=split_of,
        model=model_of,
    output:
        f"{SEED}/predictions/{{part}}/{{node}}/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/predictions/{part}/{node}.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/predictions/{part}/{node}.tsv"
    conda:
        ENV
    threads: 1
    params:
        args=flags,
    shell:
        "python scripts/predict.py {params.args} --out {output} --log {log}"


rule evaluate:
    input:
        recipe=recipe_of("evaluate"),
        predictions=predictions,
        split=split_of,
        tuning=tuning,
    output:
        "results/metrics/{dataset}/{method}/{arch}/seed{seed}/{node}/manifest.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/metrics/{node}.log",
    benchmark:
        "benchmarks/{dataset}/{method}/{arch}/seed{seed}/metrics/{node}.tsv"
    conda:
        ENV
    threads: 1
    params:
        args=flags,
    shell:
        "python scripts/evaluate.py {params.args} --out {output} --log {log}"
