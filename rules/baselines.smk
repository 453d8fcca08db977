# What the merged models are compared with: the dense base tuned without experts, and the experts
# merged with equal shares, as weighted_init has them.


rule sft:
    input:
        base=ancient(f"{RESULTS}/base"),
        manifest=manifest(lambda wildcards: WANTS.base),
        tokens=ancient(f"{RESULTS}/tokens"),
        tokens_manifest=manifest(lambda wildcards: WANTS.tokens),
        changed=marker(lambda wildcards: WANTS.sft),
    output:
        model=directory(f"{RESULTS}/sft"),
        manifest=f"{RESULTS}/sft.manifest.json",
        metrics=f"{METRICS}/sft.jsonl",
    log:
        f"{LOGS}/sft.log",
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: config["threads"] * config["sft"]["processes"]
    resources:
        **training("sft"),
    params:
        code=code_hash("sft"),
        options=options("sft"),
        srun=srun("sft"),
    shell:
        "{params.srun}python -m workflow_scripts.sft --base {input.base:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.model:q} 2>&1 | tee -i {log:q}"


use rule dense as uniform with:
    input:
        weighted=ancient(f"{RESULTS}/weighted_init/lam~{{lam}}"),
        weighted_manifest=manifest(lambda wildcards: WANTS.weighted_init(wildcards.lam)),
        moe=ancient(f"{RESULTS}/moe_sft"),
        moe_manifest=manifest(lambda wildcards: WANTS.moe_sft),
        ffn=ancient(f"{RESULTS}/ffn"),
        ffn_manifest=manifest(lambda wildcards: WANTS.ffn),
        changed=marker(lambda wildcards: WANTS.model(f"uniform/lam~{wildcards.lam}")),
    output:
        model=kept(directory(f"{RESULTS}/uniform/lam~{{lam}}")),
        manifest=kept(f"{RESULTS}/uniform/lam~{{lam}}.manifest.json"),
    log:
        f"{LOGS}/uniform/lam~{{lam}}.log",
