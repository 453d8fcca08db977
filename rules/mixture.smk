# Steps 0 to 3: the base, its upcycled mixture, the tokens, the tuned mixture, the experts' FFN
# weights.


rule base:
    """Links to the files of the base model, which is downloaded if it is on the hub."""
    input:
        files=optional("files"),
        tuned_from=optional("tuned_from"),
    output:
        entry("base"),
    log:
        log_of("base"),
    localrule: True
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.base {params.flags}"


rule moe:
    """Step 1: the mixture of experts, upcycled from the base."""
    input:
        base=entry_of("base"),
        code=optional("code"),
    output:
        entry("moe"),
    log:
        log_of("moe"),
    priority: 1  # the longest chain begins first
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.moe {params.flags}"


rule fetch_data:
    """A data set of instruction rows from the hub."""
    output:
        entry("fetch_data"),
    log:
        log_of("fetch_data"),
    localrule: True
    conda:
        "../envs/data.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.fetch_data {params.flags}"


rule tokens:
    """The rows, cleaned and tokenised."""
    input:
        base=entry_of("base"),
        data=entry_of("data"),
        problems=optional("problems"),
        template=optional("template"),
    output:
        entry("tokens"),
    log:
        log_of("tokens"),
    priority: 1
    conda:
        "../envs/data.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.tokens {params.flags} "
        "--report {output:q}.partial/report.json"


rule moe_sft:
    """Step 2: the mixture, fine-tuned on the rows."""
    input:
        moe=entry_of("moe"),
        tokens=entry_of("tokens"),
        code=optional("code"),
    output:
        entry("moe_sft"),
    log:
        log_of("moe_sft"),
    priority: 1
    conda:
        "../envs/training.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
        **nodes(CONFIG.moe_sft),
    params:
        start=start,
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} {params.start} -m workflow_scripts.moe_sft {params.flags} "
        "--metrics {output:q}.partial/metrics.jsonl --losses {output:q}.partial/losses.json "
        "--diverged {output:q}.partial/diverged.json"


rule ffn:
    """Step 3: the weights of the experts' MLPs, as links into the tuned mixture."""
    input:
        moe_sft=entry_of("moe_sft"),
    output:
        entry("ffn"),
    log:
        log_of("ffn"),
    priority: 1
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.ffn {params.flags}"
