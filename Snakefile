# XFT: upcycle a dense code LLM, tune the experts, merge them back, evaluate.
# rules/find_steps.smk finds the steps, workflow_scripts/<rule>.py. rules/common.smk finds the jobs.

from snakemake.utils import min_version

min_version("9.14")


# The demonstration is the default if the user names no configuration.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "rules/find_steps.smk"
include: "rules/common.smk"
include: "rules/mixture.smk"
include: "rules/merge.smk"
include: "rules/baselines.smk"
include: "rules/evaluation.smk"


rule all:
    """All results of the configuration: models, evaluations, tables, the report."""
    default_target: True
    input:
        lambda wildcards: fixed(RUN.targets()),
    localrule: True
    message:
        f"all: {RESULTS}"


# The name of a result that is a file, not a folder such as dense/lam~0.75.
FILE_NAME = r"(?!(.*/)?ground_truth/).+\.[a-z]+"


rule by_name:
    """One result by its name: snakemake --cores all results/moe_sft."""
    input:
        lambda wildcards: fixed([RUN.named(wildcards.name)]),
    output:
        directory(f"{RESULTS}/{{name}}"),
    log:
        f"{STORE}/logs/by_name/{{name}}.log",
    wildcard_constraints:
        name=rf"(?!{FILE_NAME}$).+",
    localrule: True
    conda:
        "envs/conversion.yaml"
    params:
        target=lambda wildcards: RUN.target_of(wildcards.name),
    message:
        "by_name: {output}"
    shell:
        "ln -sfn {params.target:q} {output:q} > {log:q} 2>&1"


use rule by_name as file_by_name with:
    output:
        f"{RESULTS}/{{name}}",
    wildcard_constraints:
        name=FILE_NAME,
