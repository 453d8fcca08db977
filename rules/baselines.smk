# Baselines for the merged models: the dense base tuned without experts, the mean of such models, and
# merges with the shares of weighted_init or with one expert alone.


rule sft:
    input:
        **artifact_inputs(at("sft"), "base", "tokens", "flops_of"),
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
        match="",
    shell:
        "{resources.start} -m workflow_scripts.sft --base {input.base:q} --data {input.tokens:q} "
        "{params.match} {input.flops_of:q} {params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


use rule sft as sft_flops with:
    input:
        **artifact_inputs(at("sft_flops"), "base", "tokens", "flops_of"),
        changed=marker(at("sft_flops")),
    output:
        **artifact_outputs("sft_flops"),
        metrics=metrics_of("sft_flops"),
    log:
        log_of("sft_flops"),
    resources:
        **RESOURCES.training("sft", at("sft_flops")),
    params:
        code=code_hash("sft"),
        options=options(at("sft_flops")),
        match="--match-flops",


use rule weighted_init as uniform_init with:
    input:
        **artifact_inputs(at(EQUAL), "moe", "ffn", "tokens"),
        changed=marker(at(EQUAL)),
    output:
        **artifact_outputs(EQUAL),
    log:
        log_of(EQUAL),
    threads: 1
    resources:
        **RESOURCES.start_of_mixing(at(EQUAL)),
    params:
        **start_params(at(EQUAL)),


use rule dense as uniform with:
    input:
        **artifact_inputs(at(UNIFORM), "weighted", "moe", "ffn", "base"),
        changed=marker(at(UNIFORM)),
    output:
        **artifact_outputs(UNIFORM, kept),
    log:
        log_of(UNIFORM),
    params:
        **merge_params(at(UNIFORM)),


use rule dense as experts_only with:
    input:
        **artifact_inputs(at(ONE_EXPERT), "weighted", "moe", "ffn", "base"),
        changed=marker(at(ONE_EXPERT)),
    output:
        **artifact_outputs(ONE_EXPERT, kept),
    log:
        log_of(ONE_EXPERT),
    params:
        **merge_params(at(ONE_EXPERT)),


rule soup:
    input:
        models=folders(lambda wildcards: at("soup")(wildcards).sources.values()),
        manifests=manifests(lambda wildcards: at("soup")(wildcards).sources.values()),
        changed=marker(at("soup")),
    output:
        **artifact_outputs("soup"),
    log:
        log_of("soup"),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(at("soup")),
    shell:
        "python -m workflow_scripts.soup --models {input.models:q} --out {output.artifact:q} "
        "2>&1 | tee -i {log:q}"
