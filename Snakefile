# XFT: upcycle a dense code LLM, tune the experts, merge them back, evaluate.
# rules/steps.smk finds the steps, workflow_scripts/<rule>.py. rules/common.smk has paths, validation
# and helpers.

from snakemake.utils import min_version

min_version("9.0")


# The demonstration is the default if the user names no configuration.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "rules/steps.smk"
include: "rules/common.smk"
include: "rules/outputs.smk"
include: "rules/mixture.smk"
include: "rules/merge.smk"
include: "rules/baselines.smk"
include: "rules/evaluation.smk"
include: "rules/benchmarks.smk"


# Only base, fetch_data and fetch_problems use the network: they run their steps `online`. They run
# where snakemake runs, because compute nodes often have no network.
localrules:
    all,
    base,
    fetch_data,
    fetch_problems,
    summary,
    report,


rule all:
    default_target: True
    input:
        targets(),


onstart:
    begin_run()


onsuccess:
    protect_shared()
    show_summary()


onerror:
    protect_shared()
    show_failures()
