"""The artifacts that a configuration wants, and how a run of the workflow gets them.

In the order of reading: `nodes` (an artifact to make, and its recipe), `graph` (what the artifacts
of one run are made from), `choices` (methods at chosen settings), `experiment` (the artifacts of
all runs), `runs_table` (the files with the results of each run), `jobs` (what rules know of each
artifact), `totals` (hours and disk space), `step_jobs` and `job_resources` (what jobs ask a
scheduler for), `input_checks` and `problem_checks` (mistakes that are found before a job runs),
`workflow_run` (from the values of a configuration to a locked store), `begun_jobs` (what became of
jobs), `messages` (what a run says), `screen` (what Snakemake shows of it), `snakemake_options`
(options that are refused), `snakemake_run` (Snakemake's side of all this).
"""
