# XFT: upcycle a dense code LLM, tune the experts, merge them back, evaluate.
# rules/find_steps.smk finds the steps, workflow_scripts/<rule>.py. rules/common.smk makes the plan.

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
        targets,
    localrule: True
    message:
        f"all: {RESULTS}"


rule by_name:
    """One result by its name: snakemake --cores all results/moe_sft."""
    input:
        named,
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
        target=target_of,
    message:
        "by_name: {output}"
    shell:
        "ln -sfn {params.target:q} {output:q} > {log:q} 2>&1"


use rule by_name as file_by_name with:
    output:
        f"{RESULTS}/{{name}}",
    wildcard_constraints:
        name=FILE_NAME,
