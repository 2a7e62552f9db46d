"""Long-tailed recognition: five papers, one graph. Numbers stand in params.yaml, edges in workflow/rules."""

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/texts.smk"
include: "workflow/rules/recipes.smk"
include: "workflow/rules/verbs.smk"
include: "workflow/rules/pack.smk"
include: "workflow/rules/imports.smk"
include: "workflow/rules/baselines.smk"
include: "workflow/rules/bagmar.smk"
include: "workflow/rules/btm.smk"
include: "workflow/rules/ride.smk"
include: "workflow/rules/livt.smk"
include: "workflow/rules/ipdpp.smk"
include: "workflow/rules/crossed.smk"
include: "workflow/rules/choose.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/checks.smk"


localrules:
    all,
    recipe,
    split_recipe,
    pack_recipe,
    table_recipe,
    tabulate,
    plot,


rule all:
    input:
        expand("results/tables/{table}.csv", table=LT.kept_tables()),
