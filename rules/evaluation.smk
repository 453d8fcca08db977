# The problems with their expected results, the evaluation and loss of each model, and the tables.


rule fetch_problems:
    """A set of problems that has a name: HumanEval+, MBPP+ or one of MultiPL-E's."""
    input:
        override=optional("override"),
    output:
        entry("fetch_problems"),
    log:
        log_of("fetch_problems"),
    priority: 2  # as the base's evaluation, which needs it
    localrule: True
    conda:
        "../envs/data.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.fetch_problems {params.flags}"


rule ground_truth:
    """The expected results of the problems, from their canonical solutions."""
    input:
        problems=entry_of("problems"),
    output:
        entry("ground_truth"),
    log:
        log_of("ground_truth"),
    priority: 2  # as the base's evaluation, which needs it
    conda:
        "../envs/evaluation.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.ground_truth {params.flags}"


rule eval:
    """A model's solutions of the problems, and its pass@1. The base's come first."""
    input:
        model=entry_of("model"),
        ground_truth=entry_of("ground_truth"),
        problems=entry_of("problems"),
        template=optional("template"),
    output:
        entry("eval"),
    log:
        log_of("eval"),
    priority: priority_of
    conda:
        evaluation_environment
    threads: threads_of
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.eval {params.flags}"


rule validation_loss:
    """A model's validation loss."""
    input:
        model=entry_of("model"),
        tokens=entry_of("tokens"),
    output:
        entry("validation_loss"),
    log:
        log_of("validation_loss"),
    priority: -1  # it is short, and fills the gaps between evaluations
    conda:
        "../envs/evaluation.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.validation_loss {params.flags}"


rule choose:
    """The setting of a method with the lowest mean loss over the seeds."""
    input:
        losses=entry_of("losses"),
        tokens=entry_of("tokens"),
    output:
        entry("choose"),
    log:
        log_of("choose"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.choose --candidates {output:q}.partial/candidates.csv "
        "{params.flags}"


rule measure_chosen:
    """A result of a method at its chosen setting, which the job makes if it is missing."""
    input:
        choice=entry_of("choice"),
        read=entry_of("read"),
    output:
        entry("measure_chosen"),
    log:
        log_of("measure_chosen"),
    priority: priority_of
    conda:
        evaluation_environment
    threads: threads_of
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.measure_chosen {params.flags}"


rule contamination:
    """The number of training rows that contain a problem."""
    input:
        tokens=entry_of("tokens"),
        problems=entry_of("problems"),
        data=entry_of("data"),
    output:
        entry("contamination"),
    log:
        log_of("contamination"),
    conda:
        "../envs/data.yaml"
    threads: threads_of
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.contamination {params.flags}"


rule diversity:
    """How much the tuned experts differ."""
    input:
        base=entry_of("base"),
        moe_sft=entry_of("moe_sft"),
        ffn=entry_of("ffn"),
    output:
        entry("diversity"),
    log:
        log_of("diversity"),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.diversity {params.flags}"


rule summary:
    """The tables: scores with intervals, differences between models, runs."""
    input:
        results=entry_of("results"),
    output:
        report(
            entry("summary"),
            patterns=["{name}.csv"],
            category="Results",
            caption="../report/summary.rst",
            labels={"file": "{name}.csv"},
        ),
    log:
        log_of("summary"),
    localrule: True
    conda:
        "../envs/summary.yaml"
    resources:
        **RESOURCES,
    params:
        flags=flags,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.summary --runs {output:q}.partial/runs.csv "
        "{params.flags} > /dev/null"


rule report:
    """The page with charts, losses and solutions."""
    input:
        summary=entry_of("summary"),
        shown=optional("shown"),
    output:
        report(
            entry("report"),
            patterns=["{name}.svg", "{name}.html"],
            category="Results",
            caption="../report/report.rst",
            labels={"file": "{name}"},
        ),
    log:
        log_of("report"),
    localrule: True
    conda:
        "../envs/report.yaml"
    resources:
        **RESOURCES,
    shell:
        "exec python -m xft.store.make {output:q} python -m workflow_scripts.report --summary {output:q}.partial/.results/summary.csv "
        "--out {output:q}.partial/report.html > /dev/null"
