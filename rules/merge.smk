# Steps 4 to 7, once for each lambda: the mixing coefficients, their training, the dense model.


rule weighted_init:
    """Steps 4 and 5: lambda, and equal shares of the routed experts."""
    input:
        moe_sft=entry_of("moe_sft"),
        ffn=entry_of("ffn"),
    output:
        entry("weighted_init"),
    log:
        log_of("weighted_init"),
    priority: 1
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.weighted_init {params.flags}"


rule weighted_trained:
    """Step 6: the mixing coefficients, trained on the rows."""
    input:
        weighted_init=entry_of("weighted_init"),
        moe_sft=entry_of("moe_sft"),
        ffn=entry_of("ffn"),
        tokens=entry_of("tokens"),
        code=optional("code"),
    output:
        entry("weighted_trained"),
    log:
        log_of("weighted_trained"),
    priority: 1
    conda:
        "../envs/training.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
        **nodes(CONFIG.mixing),
    params:
        start=start,
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} {params.start} -m workflow_scripts.weighted_trained {params.flags} "
        "--metrics {output:q}.partial/metrics.jsonl --diverged {output:q}.partial/diverged.json"


rule dense:
    """Step 7: the merged model; also the baseline uniform."""
    input:
        weighted=entry_of("weighted"),
        moe_sft=entry_of("moe_sft"),
        ffn=entry_of("ffn"),
        base=optional("base"),
        code=optional("code"),
    output:
        merged(entry("dense")),
    log:
        log_of("dense"),
    priority: 1
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.dense {params.flags}"
