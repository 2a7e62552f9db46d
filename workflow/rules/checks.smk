# Before the first job: every input that is missing, one line each, exit code 2. A dry run needs no data and skips it.

from lt.commands.inputs import missing_inputs

WITHOUT_IMAGES = ("recipe", "split_recipe", "table_recipe", "evaluate", "tabulate")


onstart:
    jobs = [job.wildcards_dict for job in workflow.dag.needrun_jobs() if job.rule.name not in WITHOUT_IMAGES]
    runs = [f"{w['dataset']}/{w['method']}/{w['arch']}/seed{w['seed']}" for w in jobs if "arch" in w]
    missing = missing_inputs(LT, {w["dataset"] for w in jobs if "dataset" in w}, runs)
    if missing:
        workflow.persistence.unlock()
        stop("\nlt: ".join(missing))
