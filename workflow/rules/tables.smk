# Many runs -> one table beside the published numbers.


rule tabulate:
    input:
        recipe="results/recipes/{table}.json",
        metrics=table_rows,
    output:
        csv="results/tables/{table}.csv",
        html=report(
            "results/tables/{table}.html",
            category="Tables",
            caption="../report/table.rst",
            labels={"table": "{table}"},
        ),
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
        json="results/tables/{table}.json",
        comparisons="results/tables/{table}.comparisons.csv",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "benchmarks/tables/{table}.tsv"
    conda:
        ENV
    threads: 1
    shell:
        "python scripts/tabulate.py --recipe {input.recipe} --out results/tables/{wildcards.table}.csv --log {log}"


rule plot:
    input:
        recipe="results/recipes/{table}.json",
        metrics=table_rows,
    output:
        report(
            "results/figures/{table}/{figure}.svg",
            category="Figures",
            subcategory="{table}",
            caption="../report/figure.rst",
            labels={"figure": "{figure}"},
        ),
    log:
        "logs/figures/{table}/{figure}.log",
    benchmark:
        "benchmarks/figures/{table}/{figure}.tsv"
    conda:
        ENV
    threads: 1
    params:
        args=lambda wildcards, input: f"--recipe {input.recipe} --figure {wildcards.figure}",
        dataset=lambda wildcards: LT.table(wildcards.table).datasets[0],
    shell:
        "python scripts/plot.py {params.args} --out {output} --log {log}"


for table in LT.params.tables:

    rule:
        name:
            f"figures_{table}"
        input:
            figures_of(table),


rule figures:
    input:
        [path for table in LT.kept_tables() for path in figures_of(table)],
