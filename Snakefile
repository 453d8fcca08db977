# XFT: upcycle a dense code LLM, tune the experts, merge them back, evaluate.
# Paths, validation and helpers: rules/common.smk. What each step does: workflow_scripts/<rule>.py.

from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/mixture.smk"
include: "rules/merge.smk"
include: "rules/evaluation.smk"


localrules:
    all,
    summary,


rule all:
    default_target: True
    input:
        f"{RESULTS}/summary.csv",


onsuccess:
    show_summary()
