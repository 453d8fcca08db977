# Baselines for the merged models: the dense base tuned without experts, and the experts merged with
# equal shares, which weighted_init makes.


rule sft:
    input:
        **artifact_inputs(
            base=lambda wildcards: WANTS.base, tokens=lambda wildcards: WANTS.tokens
        ),
        changed=marker(lambda wildcards: WANTS.sft),
    output:
        **artifact_outputs("sft"),
        metrics=f"{METRICS}/sft.jsonl",
    log:
        f"{LOGS}/sft.log",
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.sft.processes
    resources:
        **RESOURCES.training("sft"),
    params:
        code=code_hash("sft"),
        options=options("sft"),
        srun=RESOURCES.srun("sft"),
    shell:
        "{params.srun}python -m workflow_scripts.sft --base {input.base:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


use rule dense as uniform with:
    input:
        **artifact_inputs(
            weighted=lambda wildcards: WANTS.weighted_init(wildcards.lam),
            moe=lambda wildcards: WANTS.moe_sft,
            ffn=lambda wildcards: WANTS.ffn,
        ),
        changed=marker(lambda wildcards: WANTS.model(f"uniform/lam~{wildcards.lam}")),
    output:
        **artifact_outputs("uniform/lam~{lam}", kept),
    log:
        f"{LOGS}/uniform/lam~{{lam}}.log",
