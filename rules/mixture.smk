# Steps 0 to 3: the base, its upcycled mixture, the tokens, the tuned mixture, the experts' FFN
# weights.
# Manifests decide what runs again, and `changed` tells Snakemake: all other inputs are ancient.


rule base:
    input:
        files=ancient(base_files()),
        changed=marker(lambda wildcards: WANTS.base),
    output:
        model=directory(f"{RESULTS}/base"),
        manifest=f"{RESULTS}/base.manifest.json",
    log:
        f"{LOGS}/base.log",
    cache: bool(SHARED)
    conda:
        "../envs/conversion.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code_hash("base"),
        content=list(WANTS.base.files.values()),
        source=options("base"),
    shell:
        "online python -m workflow_scripts.base {params.source} "
        "${{SNAKEMAKE_OUTPUT_CACHE:+--copy}} --out {output.model:q} 2>&1 | tee -i {log:q}"


rule moe:
    input:
        base=ancient(f"{RESULTS}/base"),
        manifest=manifest(lambda wildcards: WANTS.base),
        changed=marker(lambda wildcards: WANTS.moe),
    output:
        model=directory(f"{RESULTS}/moe"),
        manifest=f"{RESULTS}/moe.manifest.json",
    log:
        f"{LOGS}/moe.log",
    cache: bool(SHARED)
    conda:
        "../envs/conversion.yaml"
    resources:
        **conversion(),
    params:
        code=code_hash("moe"),
        options=options("moe"),
    shell:
        "python -m workflow_scripts.moe --base {input.base:q} {params.options} "
        "--out {output.model:q} 2>&1 | tee -i {log:q}"


rule fetch_data:
    input:
        changed=marker(lambda wildcards: WANTS.fetched_rows),
    output:
        file=f"{RESULTS}/data/fetched/{{file}}",
        manifest=f"{RESULTS}/data/fetched/{{file}}.manifest.json",
    log:
        f"{LOGS}/data/{{file}}.log",
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        code=code_hash("fetch_data"),
        source=options("fetch_data"),
    shell:
        "online python -m workflow_scripts.fetch_data {params.source} --out {output.file:q} "
        "2>&1 | tee -i {log:q}"


rule tokens:
    input:
        base=ancient(f"{RESULTS}/base"),
        manifest=manifest(lambda wildcards: WANTS.base),
        data=ancient(DATA),
        data_manifest=manifest(lambda wildcards: WANTS.fetched_rows),
        problems=ancient([PROBLEMS[name] for name in forbidden_sets()]),
        problem_manifests=manifests(
            lambda wildcards: [WANTS.problems(name) for name in forbidden_sets()]
        ),
        changed=marker(lambda wildcards: WANTS.tokens),
    output:
        tokens=directory(f"{RESULTS}/tokens"),
        manifest=f"{RESULTS}/tokens.manifest.json",
        report=f"{RESULTS}/data/report.json",
    log:
        f"{LOGS}/tokens.log",
    cache: bool(SHARED)
    conda:
        "../envs/data.yaml"
    resources:
        **fixed(8000, 120),
    params:
        code=code_hash("tokens"),
        content=WANTS.rows_content,
        options=options("tokens"),
        template=template_content(config["data"]["template"]),
        problems="--problems" if forbidden_sets() else "",
        problem_contents=[WANTS.problem_sets[name] for name in forbidden_sets()],
    shell:
        "python -m workflow_scripts.tokens --model {input.base:q} --data {input.data:q} "
        "{params.options} {params.problems} {input.problems:q} --report {output.report:q} "
        "--out {output.tokens:q} 2>&1 | tee -i {log:q}"


rule moe_sft:
    input:
        moe=ancient(f"{RESULTS}/moe"),
        manifest=manifest(lambda wildcards: WANTS.moe),
        tokens=ancient(f"{RESULTS}/tokens"),
        tokens_manifest=manifest(lambda wildcards: WANTS.tokens),
        changed=marker(lambda wildcards: WANTS.moe_sft),
    output:
        model=directory(f"{RESULTS}/moe_sft"),
        manifest=f"{RESULTS}/moe_sft.manifest.json",
        metrics=f"{METRICS}/moe_sft.jsonl",
    log:
        f"{LOGS}/moe_sft.log",
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: config["threads"] * config["training"]["processes"]
    resources:
        **training("training"),
    params:
        code=code_hash("moe_sft"),
        options=options("moe_sft"),
        srun=srun("training"),
    shell:
        "{params.srun}python -m workflow_scripts.moe_sft --moe {input.moe:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.model:q} 2>&1 | tee -i {log:q}"


rule ffn:
    input:
        moe=ancient(f"{RESULTS}/moe_sft"),
        manifest=manifest(lambda wildcards: WANTS.moe_sft),
        changed=marker(lambda wildcards: WANTS.ffn),
    output:
        model=directory(f"{RESULTS}/ffn"),
        manifest=f"{RESULTS}/ffn.manifest.json",
    log:
        f"{LOGS}/ffn.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **conversion(),
    params:
        code=code_hash("ffn"),
    shell:
        "python -m workflow_scripts.ffn --moe {input.moe:q} --out {output.model:q} 2>&1 | tee -i {log:q}"
