# What the merged models are compared with: the dense base tuned without experts, and the experts
# merged with equal shares, as weighted_init has them.


rule sft:
    input:
        base=ancient(f"{RESULTS}/base"),
        manifest=f"{RESULTS}/base.manifest.json",
        tokens=ancient(f"{RESULTS}/tokens"),
        tokens_manifest=f"{RESULTS}/tokens.manifest.json",
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
        options=without("sft"),
        seed=config["seed"],
        threads=config["threads"],
        srun=srun("sft"),
    shell:
        "{params.srun}python -m workflow_scripts.sft --base {input.base} --data {input.tokens} "
        "--seed {params.seed} --threads {params.threads} {params.options} "
        "--metrics {output.metrics} {resources.trackers} --out {output.model} 2>&1 | tee {log}"


use rule dense as uniform with:
    input:
        weighted=ancient(f"{RESULTS}/weighted_init/lam~{{lam}}"),
        weighted_manifest=f"{RESULTS}/weighted_init/lam~{{lam}}.manifest.json",
        moe=ancient(f"{RESULTS}/moe_sft"),
        moe_manifest=f"{RESULTS}/moe_sft.manifest.json",
        ffn=ancient(f"{RESULTS}/ffn"),
        ffn_manifest=f"{RESULTS}/ffn.manifest.json",
    output:
        model=kept(directory(f"{RESULTS}/uniform/lam~{{lam}}")),
        manifest=kept(f"{RESULTS}/uniform/lam~{{lam}}.manifest.json"),
    log:
        f"{LOGS}/uniform/lam~{{lam}}.log",
