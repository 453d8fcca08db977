# Baselines for the merged models: the dense base tuned without experts, and the mean of such models.
# `stored`, `online` and `logged` are shell functions of common.smk.


rule sft:
    """Baselines: the base, fine-tuned without experts (sft, sft_flops)."""
    input:
        base=entry_of("base"),
        tokens=entry_of("tokens"),
    output:
        entry("sft"),
    log:
        log_of("sft"),
    conda:
        "../envs/training.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
        **nodes(CONFIG.sft),
    shell:
        "stored {output:q} {resources.start} -m workflow_scripts.sft --base {input.base:q}/artifact "
        "--data {input.tokens:q}/artifact {resources.options} {resources.besides} "
        "--metrics {output:q}.partial/metrics.jsonl --losses {output:q}.partial/losses.json "
        "--out {output:q}.partial/artifact 2>&1 | logged {log:q}"


rule soup:
    """A baseline: the mean of the fine-tuned base models of all seeds."""
    input:
        model=entry_of("model"),
    output:
        entry("soup"),
    log:
        log_of("soup"),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    shell:
        "stored {output:q} python -m workflow_scripts.soup {resources.options} "
        "--out {output:q}.partial/artifact 2>&1 | logged {log:q}"
