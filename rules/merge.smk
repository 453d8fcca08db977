# Steps 4 to 7, once for each lambda: the mixing coefficients, their training, the dense model.
# `stored`, `online` and `logged` are shell functions of common.smk.


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
    shell:
        "stored {output:q} python -m workflow_scripts.weighted_init --moe {input.moe_sft:q}/artifact "
        "--ffn {input.ffn:q}/artifact {resources.options} "
        "--out {output:q}.partial/artifact 2>&1 | logged {log:q}"


rule weighted_trained:
    """Step 6: the mixing coefficients, trained on the rows."""
    input:
        unpack(besides("weighted_trained")),
        weighted_init=entry_of("weighted_init"),
        moe_sft=entry_of("moe_sft"),
        ffn=entry_of("ffn"),
        tokens=entry_of("tokens"),
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
    shell:
        "stored {output:q} {resources.start} -m workflow_scripts.weighted_trained "
        "--weighted {input.weighted_init:q}/artifact --moe {input.moe_sft:q}/artifact "
        "--ffn {input.ffn:q}/artifact --data {input.tokens:q}/artifact "
        "{resources.options} {resources.besides} "
        "--metrics {output:q}.partial/metrics.jsonl --out {output:q}.partial/artifact 2>&1 | logged {log:q}"


rule heal:
    """The merged model, fine-tuned after the merge on a share of the rows."""
    input:
        unpack(besides("heal")),
        dense=entry_of("dense"),
        tokens=entry_of("tokens"),
    output:
        entry("heal"),
    log:
        log_of("heal"),
    conda:
        "../envs/training.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
        **nodes(CONFIG.heal),
    shell:
        "stored {output:q} {resources.start} -m workflow_scripts.heal --model {input.dense:q}/artifact "
        "--data {input.tokens:q}/artifact {resources.options} {resources.besides} "
        "--metrics {output:q}.partial/metrics.jsonl --losses {output:q}.partial/losses.json "
        "--out {output:q}.partial/artifact 2>&1 | logged {log:q}"


rule dense:
    """Step 7: the merged model; also the baselines uniform and experts_only."""
    input:
        unpack(besides("dense")),
        weighted=entry_of("weighted"),
        moe_sft=entry_of("moe_sft"),
        ffn=entry_of("ffn"),
    output:
        merged(entry("dense")),
    log:
        log_of("dense"),
    priority: 1
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    shell:
        "stored {output:q} python -m workflow_scripts.dense --weighted {input.weighted:q}/artifact "
        "--moe {input.moe_sft:q}/artifact --ffn {input.ffn:q}/artifact {resources.options} "
        "--out {output:q}.partial/artifact 2>&1 | logged {log:q}"
