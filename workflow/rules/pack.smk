# Packing: the files of a data set that says `pack:` -> a few shards. Stages that read its images wait for it and find it
# beside the split. One process a thread; what was killed goes on with the shards that are missing.


rule pack_recipe:
    input:
        kept("results/{dataset}/recipe/pack_{part}.json", now_pack),
    output:
        "results/{dataset}/recipe/pack_{part}.json",
    log:
        "logs/{dataset}/recipe/pack_{part}.log",
    conda:
        ENV
    params:
        recipe=text(now_pack),
    shell:
        "printf '%s\\n' {params.recipe:q} > {output} 2> {log}"


rule pack:
    input:
        recipe="results/{dataset}/recipe/pack_{part}.json",
    output:
        "results/{dataset}/pack/{part}/manifest.json",
    log:
        "logs/{dataset}/pack/{part}.log",
    benchmark:
        "benchmarks/{dataset}/pack/{part}.tsv"
    retries: RETRIES
    conda:
        ENV
    threads: 8
    params:
        args=flags,
    shell:
        "python scripts/pack.py {params.args} --out {output} --log {log}"
