# Steps 4 to 7, once for each lambda: the mixing coefficients, their training, the dense model.


rule weighted_init:
    input:
        **artifact_inputs(at(INIT), "moe", "ffn", "tokens"),
    output:
        **artifact_outputs(INIT),
    log:
        log_of(INIT),
    conda:
        "../envs/conversion.yaml"
    threads: threads_of_start
    resources:
        **RESOURCES.start_of_mixing(at(INIT)),
    params:
        **step_params("weighted_init", at(INIT), data="tokens"),
        lam=lambda wildcards: wildcards.lam,  # a wildcard alone is not in a cache's key
    shell:
        "python -m workflow_scripts.weighted_init --moe {input.moe:q} --ffn {input.ffn:q} "
        "--lam {params.lam} {params.data} {input.tokens:q} {params.options} {resources.besides} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule weighted_trained:
    input:
        **artifact_inputs(at(TRAINED), "weighted", "moe", "ffn", "tokens"),
        text=text_file,
    output:
        **training_outputs(TRAINED),
    log:
        log_of(TRAINED),
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.mixing.processes
    resources:
        **RESOURCES.training("mixing", at(TRAINED)),
    params:
        **step_params("weighted_trained", at(TRAINED)),
        content=lambda wildcards: list(at(TRAINED)(wildcards).files.values()),
        text=lambda wildcards: "--text" if text_file(wildcards) else "",
    shell:
        "{resources.start} -m workflow_scripts.weighted_trained --weighted {input.weighted:q} "
        "--moe {input.moe:q} --ffn {input.ffn:q} --data {input.tokens:q} "
        "{params.text} {input.text:q} {params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule heal:
    input:
        **artifact_inputs(at(HEAL), "dense", "tokens", "moe"),
    output:
        **training_outputs(HEAL),
    log:
        log_of(HEAL),
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.heal.processes
    resources:
        **RESOURCES.training("heal", at(HEAL)),
    params:
        **step_params("heal", at(HEAL), teacher="moe"),
    shell:
        "{resources.start} -m workflow_scripts.heal --model {input.dense:q} --data {input.tokens:q} "
        "{params.teacher} {input.moe:q} {params.options} --metrics {output.metrics:q} "
        "{resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule dense:
    input:
        **artifact_inputs(at(DENSE), "weighted", "moe", "ffn", "base"),
    output:
        **artifact_outputs(DENSE, kept),
    log:
        log_of(DENSE),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(at(DENSE)),
    params:
        **step_params("dense", at(DENSE), base="base"),
    shell:
        "python -m workflow_scripts.dense --weighted {input.weighted:q} --moe {input.moe:q} "
        "--ffn {input.ffn:q} {params.base} {input.base:q} {params.options} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule best:
    input:
        **artifact_inputs(best, "moe", "ffn", "base"),
        measured=results(lambda wildcards: choice(wildcards).measured),
        weighted=folders(
            lambda wildcards: [
                merge.sources["weighted"] for merge in choice(wildcards).merges
            ]
        ),
    output:
        **artifact_outputs("best"),
    log:
        log_of("best"),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(best),
    params:
        by=lambda wildcards: (
            "--losses" if choice(wildcards).by == "validation" else "--evals"
        ),
        options=merge_options,
    shell:
        "python -m workflow_scripts.best {params.by} {input.measured:q} --weighted {input.weighted:q} "
        "--moe {input.moe:q} --ffn {input.ffn:q} {params.options:q} --out {output.artifact:q} "
        "2>&1 | tee -i {log:q}"
