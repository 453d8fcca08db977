# Baselines for the merged models: the dense base tuned without experts, and the experts merged with
# equal shares, which weighted_init makes.


rule sft:
    input:
        **artifact_inputs(at("sft"), "base", "tokens"),
        changed=marker(at("sft")),
    output:
        **artifact_outputs("sft"),
        metrics=metrics_of("sft"),
    log:
        log_of("sft"),
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.sft.processes
    resources:
        **RESOURCES.training("sft", at("sft")),
    params:
        code=code_hash("sft"),
        options=options(at("sft")),
        srun=RESOURCES.srun("sft"),
    shell:
        "{params.srun}python -m workflow_scripts.sft --base {input.base:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


UNIFORM = "uniform/lam~{lam}"


use rule dense as uniform with:
    input:
        **artifact_inputs(at(UNIFORM), "weighted", "moe", "ffn"),
        changed=marker(at(UNIFORM)),
    output:
        **artifact_outputs(UNIFORM, kept),
    log:
        log_of(UNIFORM),
