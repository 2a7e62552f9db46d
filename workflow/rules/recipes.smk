# A recipe is written by the shell: half of all jobs are recipes, and starting Python for each would cost minutes.
rule recipe:
    output:
        f"{SEED}/recipe/{{stage}}.json",
    log:
        "logs/{dataset}/{method}/{arch}/seed{seed}/recipe/{stage}.log",
    conda:
        ENV
    params:
        recipe=stage_recipe,
    shell:
        "printf '%s\\n' {params.recipe:q} > {output} 2> {log}"


rule split_recipe:
    output:
        "results/{dataset}/recipe/split{split}.json",
    log:
        "logs/{dataset}/recipe/split{split}.log",
    conda:
        ENV
    params:
        recipe=split_recipe,
    shell:
        "printf '%s\\n' {params.recipe:q} > {output} 2> {log}"


rule table_recipe:
    output:
        "results/recipes/{table}.json",
    log:
        "logs/recipes/{table}.log",
    conda:
        ENV
    params:
        recipe=table_recipe,
    shell:
        "python scripts/recipe.py --table {wildcards.table} --log {log}"
