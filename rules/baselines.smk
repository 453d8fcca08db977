# Baselines for the merged models: the dense base tuned in other ways, and the mean of such models.


rule sft:
    """Baselines: the base, fine-tuned without experts (sft, sft_flops)."""
    input:
        base=entry_of("base"),
        tokens=entry_of("tokens"),
        code=optional("code"),
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
    params:
        start=start,
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} {params.start} -m workflow_scripts.sft {params.flags} "
        "--metrics {output:q}.partial/metrics.jsonl --losses {output:q}.partial/losses.json "
        "--diverged {output:q}.partial/diverged.json"


rule soup:
    """A baseline: the mean of the fine-tuned base models of all seeds."""
    input:
        models=entry_of("models"),
    output:
        entry("soup"),
    log:
        log_of("soup"),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.soup {params.flags}"
