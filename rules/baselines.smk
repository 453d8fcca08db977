# Baselines for the merged models: the dense base tuned without experts, the mean of such models, and
# merges with the shares of weighted_init or with one expert alone.


rule sft:
    input:
        **artifact_inputs(at("sft"), "base", "tokens", "flops_of"),
    output:
        **training_outputs("sft"),
    log:
        log_of("sft"),
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.sft.processes
    resources:
        **RESOURCES.training("sft", at("sft")),
    params:
        **step_params("sft", at("sft"), match_flops="flops_of"),
    shell:
        "{resources.start} -m workflow_scripts.sft --base {input.base:q} --data {input.tokens:q} "
        "{params.match_flops} {input.flops_of:q} {params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


use rule sft as sft_flops with:
    input:
        **artifact_inputs(at("sft_flops"), "base", "tokens", "flops_of"),
    output:
        **training_outputs("sft_flops"),
    log:
        log_of("sft_flops"),
    resources:
        **RESOURCES.training("sft", at("sft_flops")),
    params:
        **step_params("sft", at("sft_flops"), match_flops="flops_of"),


use rule weighted_init as uniform_init with:
    input:
        **artifact_inputs(at(EQUAL), "moe", "ffn", "tokens"),
    output:
        **artifact_outputs(EQUAL),
    log:
        log_of(EQUAL),
    threads: 1
    resources:
        **RESOURCES.start_of_mixing(at(EQUAL)),
    params:
        **step_params("weighted_init", at(EQUAL), data="tokens"),


use rule dense as uniform with:
    input:
        **artifact_inputs(at(UNIFORM), "weighted", "moe", "ffn", "base"),
    output:
        **artifact_outputs(UNIFORM, kept),
    log:
        log_of(UNIFORM),
    params:
        **step_params("dense", at(UNIFORM), base="base"),


use rule dense as experts_only with:
    input:
        **artifact_inputs(at(ONE_EXPERT), "weighted", "moe", "ffn", "base"),
    output:
        **artifact_outputs(ONE_EXPERT, kept),
    log:
        log_of(ONE_EXPERT),
    params:
        **step_params("dense", at(ONE_EXPERT), base="base"),


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
