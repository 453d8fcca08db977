# Steps 0 to 3: the base, its upcycled mixture, the tokens, the tuned mixture, the experts' FFN
# weights.
# Manifests decide which rules run again. The input `changed` passes the decision to Snakemake; all
# other inputs are ancient. Snakemake's cache hashes params and files, but not wildcards or imported
# code. So cached rules, and rules before them, have params that no shell uses: `code`, and hashes of
# contents.


rule base:
    input:
        files=base_files,
        changed=marker(at("base")),
    output:
        **artifact_outputs("base"),
    log:
        log_of("base"),
    cache: bool(SHARED)
    conda:
        "../envs/conversion.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code_hash("base"),
        content=lambda wildcards: list(at("base")(wildcards).files.values()),
        source=base_source,
    shell:
        "online python -m workflow_scripts.base {params.source} "
        "${{SNAKEMAKE_OUTPUT_CACHE:+--copy}} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule moe:
    input:
        **artifact_inputs(at("moe"), "base"),
    output:
        **artifact_outputs("moe"),
    log:
        log_of("moe"),
    cache: bool(SHARED)
    priority: 1  # the longest chain begins first
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(at("moe")),
    params:
        **step_params("moe", at("moe")),
    shell:
        "python -m workflow_scripts.moe --base {input.base:q} {params.options} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule fetch_data:
    input:
        changed=marker(at(FETCHED)),
    output:
        **result_outputs(FETCHED),
    log:
        log_of("data/{file}"),
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        **step_params("fetch_data", at(FETCHED)),
    shell:
        "online python -m workflow_scripts.fetch_data {params.options} --out {output.result:q} "
        "2>&1 | tee -i {log:q}"


rule tokens:
    input:
        **artifact_inputs(at("tokens"), "base"),
        **problem_inputs(forbidden_sets),
        data=rows_file,
        data_manifest=manifests(sources(at("tokens"), "data")),
    output:
        **artifact_outputs("tokens"),
        report=f"{RESULTS}/{{variation}}data/report.json",
    log:
        log_of("tokens"),
    cache: bool(SHARED)
    conda:
        "../envs/data.yaml"
    resources:
        **fixed(8000, 120),
    params:
        **step_params("tokens", at("tokens")),
        content=lambda wildcards: at("tokens")(wildcards).run.rows_content,
        template=lambda wildcards: at("tokens")(wildcards).run.config.data.template,
        template_content=template_content,
        problems=lambda wildcards: "--problems" if forbidden_sets(wildcards) else "",
        problem_contents=lambda wildcards: list(at("tokens")(wildcards).files.values()),
    shell:
        "python -m workflow_scripts.tokens --model {input.base:q} --data {input.data:q} "
        "{params.options} --template {params.template:q} {params.problems} {input.problems:q} --report {output.report:q} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule moe_sft:
    input:
        **artifact_inputs(at("moe_sft"), "moe", "tokens"),
    output:
        **training_outputs("moe_sft"),
    log:
        log_of("moe_sft"),
    cache: bool(SHARED)
    priority: 1
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.moe_sft.processes
    resources:
        **RESOURCES.training("moe_sft", at("moe_sft")),
    params:
        **step_params("moe_sft", at("moe_sft")),
    shell:
        "{resources.start} -m workflow_scripts.moe_sft --moe {input.moe:q} --data {input.tokens:q} "
        "{params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule ffn:
    input:
        **artifact_inputs(at("ffn"), "moe"),
    output:
        **artifact_outputs("ffn"),
    log:
        log_of("ffn"),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(at("ffn")),
    params:
        code=code_hash("ffn"),
    shell:
        "python -m workflow_scripts.ffn --moe {input.moe:q} --out {output.artifact:q} 2>&1 | tee -i {log:q}"
