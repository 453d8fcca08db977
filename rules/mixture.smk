# Steps 0 to 3: the base, its upcycled mixture, the tokens, the tuned mixture, the experts' FFN
# weights.
# Manifests decide which rules run again. The input `changed` passes the decision to Snakemake; all
# other inputs are ancient. Snakemake's cache hashes params and files, but not wildcards or imported
# code. So cached rules, and rules before them, have params that no shell uses: `code`, and hashes of
# contents.


rule base:
    input:
        files=ancient(base_files()),
        changed=marker(lambda wildcards: WANTS.base),
    output:
        **artifact_outputs("base"),
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
        "${{SNAKEMAKE_OUTPUT_CACHE:+--copy}} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule moe:
    input:
        **artifact_inputs(base=lambda wildcards: WANTS.base),
        changed=marker(lambda wildcards: WANTS.moe),
    output:
        **artifact_outputs("moe"),
    log:
        f"{LOGS}/moe.log",
    cache: bool(SHARED)
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(),
    params:
        code=code_hash("moe"),
        options=options("moe"),
    shell:
        "python -m workflow_scripts.moe --base {input.base:q} {params.options} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


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
        **artifact_inputs(base=lambda wildcards: WANTS.base),
        data=ancient(DATA),
        data_manifest=manifest(lambda wildcards: WANTS.fetched_rows),
        problems=ancient([PROBLEMS[name] for name in forbidden_sets()]),
        problem_manifests=manifests(
            lambda wildcards: [WANTS.problems(name) for name in forbidden_sets()]
        ),
        changed=marker(lambda wildcards: WANTS.tokens),
    output:
        **artifact_outputs("tokens"),
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
        template=template_content(CONFIG.data.template),
        problems="--problems" if forbidden_sets() else "",
        problem_contents=[WANTS.problem_sets[name] for name in forbidden_sets()],
    shell:
        "python -m workflow_scripts.tokens --model {input.base:q} --data {input.data:q} "
        "{params.options} {params.problems} {input.problems:q} --report {output.report:q} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule moe_sft:
    input:
        **artifact_inputs(
            moe=lambda wildcards: WANTS.moe, tokens=lambda wildcards: WANTS.tokens
        ),
        changed=marker(lambda wildcards: WANTS.moe_sft),
    output:
        **artifact_outputs("moe_sft"),
        metrics=f"{METRICS}/moe_sft.jsonl",
    log:
        f"{LOGS}/moe_sft.log",
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.moe_sft.processes
    resources:
        **RESOURCES.training("moe_sft"),
    params:
        code=code_hash("moe_sft"),
        options=options("moe_sft"),
        srun=RESOURCES.srun("moe_sft"),
    shell:
        "{params.srun}python -m workflow_scripts.moe_sft --moe {input.moe:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule ffn:
    input:
        **artifact_inputs(moe=lambda wildcards: WANTS.moe_sft),
        changed=marker(lambda wildcards: WANTS.ffn),
    output:
        **artifact_outputs("ffn"),
    log:
        f"{LOGS}/ffn.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(),
    params:
        code=code_hash("ffn"),
    shell:
        "python -m workflow_scripts.ffn --moe {input.moe:q} --out {output.artifact:q} 2>&1 | tee -i {log:q}"
