# Baselines for the merged models: the dense base tuned without experts, and the mean of such models.


rule sft:
    input:
        **artifact_inputs(at(SFT), "base", "tokens", "flops_of"),
    output:
        **training_outputs(SFT),
    log:
        log_of(SFT),
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: CONFIG.threads * CONFIG.sft.processes
    resources:
        **RESOURCES.training("sft", at(SFT)),
    params:
        **step_params("sft", at(SFT), match_flops="flops_of"),
    shell:
        "{resources.start} -m workflow_scripts.sft --base {input.base:q} --data {input.tokens:q} "
        "{params.match_flops} {input.flops_of:q} {params.options} --metrics {output.metrics:q} {resources.besides} --out {output.artifact:q} 2>&1 | tee -i {log:q}"


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
