# Before the first job: every input that is missing, one line each, exit code 2. A dry run needs no data and skips it.

from lt import driver
from lt.commands.inputs import check_targets, missing_for

WITHOUT_IMAGES = ("recipe", "split_recipe", "table_recipe", "evaluate", "tabulate")

try:
    check_targets(LT, sys.argv[1:])
except UserError as error:
    stop(error)

if workflow.is_main_process:
    DRIVER = driver.begin(acting=not {"-n", "--dry-run", "--dryrun"} & set(sys.argv))


onstart:
    jobs = [
        job
        for job in workflow.dag.needrun_jobs()
        if job.rule.name not in WITHOUT_IMAGES
    ]
    missing = missing_for(
        LT,
        [
            path
            for job in jobs
            for path in job.output
            if path.endswith("manifest.json")
        ],
    )
    if missing:
        workflow.persistence.unlock()
        stop("\nlt: ".join(missing))


onerror:
    partial = [
        job for job in workflow.dag.needrun_jobs() if job.rule.name == "tabulate"
    ]
    # Begun, not finished: or the same command would find its table there and do nothing.
    for job in partial:
        workflow.persistence.started(job)
    driver.tell(LT, [job.wildcards.table for job in partial])
