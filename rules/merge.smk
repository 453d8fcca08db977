# Steps 4 to 7, once for each lambda: the mixing coefficients, their training, the dense model.


rule weighted_init:
    input:
        moe=ancient(f"{RESULTS}/moe_sft"),
        moe_manifest=manifest(lambda wildcards: WANTS.moe_sft),
        ffn=ancient(f"{RESULTS}/ffn"),
        ffn_manifest=manifest(lambda wildcards: WANTS.ffn),
        changed=marker(lambda wildcards: WANTS.weighted_init(wildcards.lam)),
    output:
        model=directory(f"{RESULTS}/weighted_init/lam~{{lam}}"),
        manifest=f"{RESULTS}/weighted_init/lam~{{lam}}.manifest.json",
    log:
        f"{LOGS}/weighted_init/lam~{{lam}}.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **fixed(3000, 10),
    params:
        code=code_hash("weighted_init"),
        lam=lambda wildcards: float(wildcards.lam),
        shape=options("weighted_init"),
    shell:
        "python -m workflow_scripts.weighted_init --moe {input.moe:q} --ffn {input.ffn:q} "
        "--lam {params.lam} {params.shape} --out {output.model:q} 2>&1 | tee -i {log:q}"


rule weighted_trained:
    input:
        weighted=ancient(f"{RESULTS}/weighted_init/lam~{{lam}}"),
        weighted_manifest=manifest(lambda wildcards: WANTS.weighted_init(wildcards.lam)),
        moe=ancient(f"{RESULTS}/moe_sft"),
        moe_manifest=manifest(lambda wildcards: WANTS.moe_sft),
        ffn=ancient(f"{RESULTS}/ffn"),
        ffn_manifest=manifest(lambda wildcards: WANTS.ffn),
        tokens=ancient(f"{RESULTS}/tokens"),
        tokens_manifest=manifest(lambda wildcards: WANTS.tokens),
        changed=marker(lambda wildcards: WANTS.weighted_trained(wildcards.lam)),
    output:
        model=directory(f"{RESULTS}/weighted_trained/lam~{{lam}}"),
        manifest=f"{RESULTS}/weighted_trained/lam~{{lam}}.manifest.json",
        metrics=f"{METRICS}/weighted_trained/lam~{{lam}}.jsonl",
    log:
        f"{LOGS}/weighted_trained/lam~{{lam}}.log",
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: config["threads"] * config["mixing"]["processes"]
    resources:
        **training("mixing"),
    params:
        code=code_hash("weighted_trained"),
        lam=lambda wildcards: float(wildcards.lam),
        options=options("weighted_trained"),
        srun=srun("mixing"),
    shell:
        "{params.srun}python -m workflow_scripts.weighted_trained --weighted {input.weighted:q} "
        "--moe {input.moe:q} --ffn {input.ffn:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.model:q} 2>&1 | tee -i {log:q}"


rule dense:
    input:
        weighted=folder(lambda wildcards: WANTS.shares(wildcards.lam)),
        weighted_manifest=manifest(lambda wildcards: WANTS.shares(wildcards.lam)),
        moe=ancient(f"{RESULTS}/moe_sft"),
        moe_manifest=manifest(lambda wildcards: WANTS.moe_sft),
        ffn=ancient(f"{RESULTS}/ffn"),
        ffn_manifest=manifest(lambda wildcards: WANTS.ffn),
        changed=marker(lambda wildcards: WANTS.model(f"dense/lam~{wildcards.lam}")),
    output:
        model=kept(directory(f"{RESULTS}/dense/lam~{{lam}}")),
        manifest=kept(f"{RESULTS}/dense/lam~{{lam}}.manifest.json"),
    log:
        f"{LOGS}/dense/lam~{{lam}}.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **conversion(),
    params:
        code=code_hash("dense"),
        lam=lambda wildcards: float(wildcards.lam),
    shell:
        "python -m workflow_scripts.dense --weighted {input.weighted:q} --moe {input.moe:q} "
        "--ffn {input.ffn:q} --out {output.model:q} 2>&1 | tee -i {log:q}"


rule best:
    input:
        evals=results(lambda: WANTS.dense_evaluations()),
        weighted=folders(lambda wildcards: [WANTS.shares(lam) for lam in LAMBDAS]),
        moe=ancient(f"{RESULTS}/moe_sft"),
        moe_manifest=manifest(lambda wildcards: WANTS.moe_sft),
        ffn=ancient(f"{RESULTS}/ffn"),
        ffn_manifest=manifest(lambda wildcards: WANTS.ffn),
        changed=marker(lambda wildcards: CURRENT.best()),
    output:
        model=directory(f"{RESULTS}/best"),
        manifest=f"{RESULTS}/best.manifest.json",
    log:
        f"{LOGS}/best.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **conversion(),
    params:
        code=code_hash("best"),
    shell:
        "python -m workflow_scripts.best --evals {input.evals:q} --weighted {input.weighted:q} "
        "--moe {input.moe:q} --ffn {input.ffn:q} --out {output.model:q} 2>&1 | tee -i {log:q}"
