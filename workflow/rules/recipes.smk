# A recipe is written by the shell: half of all jobs are recipes, and starting Python for each would cost minutes.
rule recipe:
    input:
        kept(recipe_of("{stage}"), now_stage),
    output:
        recipe_of("{stage}"),
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/recipe/{stage}.log",
    conda:
        ENV
    params:
        recipe=text(now_stage),
    shell:
        "printf '%s\\n' {params.recipe:q} > {output} 2> {log}"


rule split_recipe:
    input:
        kept("results/{dataset}/recipe/split{split}.json", now_split),
    output:
        "results/{dataset}/recipe/split{split}.json",
    log:
        "logs/{dataset}/recipe/split{split}.log",
    conda:
        ENV
    params:
        recipe=text(now_split),
    shell:
        "printf '%s\\n' {params.recipe:q} > {output} 2> {log}"


rule table_recipe:
    input:
        kept("results/recipes/{table}.json", now_table),
    output:
        "results/recipes/{table}.json",
    log:
        "logs/recipes/{table}.log",
    conda:
        ENV
    params:
        recipe=asked(lambda wildcards: canonical(now_table(wildcards))),
    shell:
        "python scripts/recipe.py --table {wildcards.table} --log {log}"
