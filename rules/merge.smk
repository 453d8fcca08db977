# Steps 4 to 7, once for each lambda: the mixing coefficients, their training, the dense model.


rule weighted_init:
    input:
        **artifact_inputs(
            moe=lambda wildcards: WANTS.moe_sft, ffn=lambda wildcards: WANTS.ffn
        ),
        changed=marker(lambda wildcards: WANTS.weighted_init(wildcards.lam)),
    output:
        **artifact_outputs("weighted_init/lam~{lam}"),
    log:
        f"{LOGS}/weighted_init/lam~{{lam}}.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **fixed(3000, 10),
    params:
        code=code_hash("weighted_init"),
        lam=lambda wildcards: wildcards.lam,
        shape=options("weighted_init"),
    shell:
        "python -m workflow_scripts.weighted_init --moe {input.moe:q} --ffn {input.ffn:q} "
        "--lam {params.lam} {params.shape} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule weighted_trained:
    input:
        **artifact_inputs(
            weighted=lambda wildcards: WANTS.weighted_init(wildcards.lam),
            moe=lambda wildcards: WANTS.moe_sft,
            ffn=lambda wildcards: WANTS.ffn,
            tokens=lambda wildcards: WANTS.tokens,
        ),
        changed=marker(lambda wildcards: WANTS.weighted_trained(wildcards.lam)),
    output:
        **artifact_outputs("weighted_trained/lam~{lam}"),
        metrics=f"{METRICS}/weighted_trained/lam~{{lam}}.jsonl",
    log:
        f"{LOGS}/weighted_trained/lam~{{lam}}.log",
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.mixing.processes
    resources:
        **RESOURCES.training("mixing"),
    params:
        code=code_hash("weighted_trained"),
        options=options("weighted_trained"),
        srun=RESOURCES.srun("mixing"),
    shell:
        "{params.srun}python -m workflow_scripts.weighted_trained --weighted {input.weighted:q} "
        "--moe {input.moe:q} --ffn {input.ffn:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule dense:
    input:
        **artifact_inputs(
            weighted=lambda wildcards: WANTS.shares(wildcards.lam),
            moe=lambda wildcards: WANTS.moe_sft,
            ffn=lambda wildcards: WANTS.ffn,
        ),
        changed=marker(lambda wildcards: WANTS.model(f"dense/lam~{wildcards.lam}")),
    output:
        **artifact_outputs("dense/lam~{lam}", kept),
    log:
        f"{LOGS}/dense/lam~{{lam}}.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(),
    shell:
        "python -m workflow_scripts.dense --weighted {input.weighted:q} --moe {input.moe:q} "
        "--ffn {input.ffn:q} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule best:
    input:
        **artifact_inputs(
            moe=lambda wildcards: WANTS.moe_sft, ffn=lambda wildcards: WANTS.ffn
        ),
        evals=results(lambda: WANTS.dense_evaluations()),
        weighted=folders(lambda wildcards: [WANTS.shares(lam) for lam in LAMBDAS]),
        changed=marker(lambda wildcards: CURRENT.best()),
    output:
        **artifact_outputs("best"),
    log:
        f"{LOGS}/best.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(),
    shell:
        "python -m workflow_scripts.best --evals {input.evals:q} --weighted {input.weighted:q} "
        "--moe {input.moe:q} --ffn {input.ffn:q} --out {output.artifact:q} 2>&1 | tee -i {log:q}"
