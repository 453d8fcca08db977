# The problems with their expected results, the evaluation and loss of each model, and the tables.


rule fetch_problems:
    input:
        changed=marker(lambda wildcards: EXPERIMENT.fetched_problems(wildcards.named)),
    output:
        file=f"{RESULTS}/problems/{{named}}.jsonl",
        manifest=f"{RESULTS}/problems/{{named}}.jsonl.manifest.json",
    log:
        f"{LOGS}/problems/{{named}}.log",
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        dataset=lambda wildcards: wildcards.named,
        # For the cache.
        content=lambda wildcards: list(
            EXPERIMENT.fetched_problems(wildcards.named).files.values()
        ),
    shell:
        "online python -m workflow_scripts.fetch_problems --dataset {params.dataset:q} "
        "--out {output.file:q} 2>&1 | tee -i {log:q}"


rule ground_truth:
    input:
        **problem_inputs(lambda wildcards: [wildcards.dataset]),
        changed=marker(at(TRUTH)),
    output:
        **artifact_outputs(TRUTH),
    log:
        log_of(TRUTH),
    conda:
        "../envs/evaluation.yaml"
    threads: CONFIG.threads
    resources:
        **fixed(8000, 120),
    params:
        options=options(at(TRUTH)),
    shell:
        "python -m workflow_scripts.ground_truth --dataset {input.problems:q} {params.options} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule eval:
    input:
        **artifact_inputs(at(EVALUATION), "model", "ground_truth"),
        **problem_inputs(lambda wildcards: [wildcards.dataset]),
    output:
        **result_outputs(EVALUATION),
        generations=f"{RESULTS}/{{variation}}eval/{{model}}/{{dataset}}.generations.jsonl",
    log:
        log_of("eval/{model}/{dataset}"),
    conda:
        evaluation_environment
    threads: CONFIG.threads
    resources:
        **RESOURCES.evaluation(at(EVALUATION)),
    params:
        prompt=prompt,
        options=options(at(EVALUATION)),
    shell:
        "python -m workflow_scripts.eval --model {input.model:q} --dataset {input.problems:q} "
        "--ground-truth {input.ground_truth:q} --prompt {params.prompt:q} {params.options} "
        "{resources.besides} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule validation_loss:
    input:
        **artifact_inputs(at(VALIDATION), "model", "tokens"),
    output:
        **result_outputs(VALIDATION),
    log:
        log_of("validation/{model}"),
    conda:
        "../envs/evaluation.yaml"
    threads: CONFIG.threads
    resources:
        **RESOURCES.measurement(at(VALIDATION), 60),
    params:
        options=options(at(VALIDATION)),
    shell:
        "python -m workflow_scripts.validation_loss --model {input.model:q} --data {input.tokens:q} "
        "{params.options} {resources.besides} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule diversity:
    input:
        **artifact_inputs(at("diversity.json"), "base", "ffn"),
        metrics=lambda wildcards: tuning_metrics(at("diversity.json")(wildcards)),
    output:
        **result_outputs("diversity.json"),
    log:
        log_of("diversity"),
    conda:
        "../envs/conversion.yaml"
    resources:
        **RESOURCES.conversion(at("diversity.json")),
    shell:
        "python -m workflow_scripts.diversity --base {input.base:q} --ffn {input.ffn:q} "
        "--metrics {input.metrics:q} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule lm_eval:
    input:
        **artifact_inputs(at(LM_EVAL), "model"),
    output:
        **result_outputs(LM_EVAL),
    log:
        log_of("lm_eval/{model}"),
    conda:
        "../envs/lm_eval.yaml"
    threads: CONFIG.threads
    resources:
        **RESOURCES.measurement(at(LM_EVAL), 720),
    params:
        options=options(at(LM_EVAL)),
    shell:
        "python -m workflow_scripts.lm_eval --model {input.model:q} "
        "{params.options} {resources.besides} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule summary:
    input:
        results=results(lambda wildcards: EXPERIMENT.shown),
        changed=marker(lambda wildcards: EXPERIMENT.summary),
    output:
        csv=shown(f"{RESULTS}/summary.csv"),
        comparisons=shown(f"{RESULTS}/comparisons.csv"),
        table=f"{RESULTS}/summary.md",
        manifest=f"{RESULTS}/summary.csv.manifest.json",
    log:
        f"{LOGS}/summary.log",
    conda:
        "../envs/summary.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        runs=f"{RESULTS}/{RUNS_TABLE}",
        options=to_flags({"chosen_by": EXPERIMENT.chosen_by}),
    shell:
        "python -m workflow_scripts.summary --runs {params.runs:q} {params.options} "
        "--out {output.csv:q} > {log:q} 2>&1"


rule report:
    input:
        summary=results(lambda wildcards: [EXPERIMENT.summary]),
        changed=marker(lambda wildcards: EXPERIMENT.report),
    output:
        page=shown(f"{RESULTS}/report.html"),
        figures=report(
            directory(f"{RESULTS}/figures"),
            patterns=["{section}/{name}.svg"],
            category="Figures",
            subcategory="{section}",
            caption="../report/figures.rst",
            labels={"figure": "{name}"},
        ),
        figures_manifest=f"{RESULTS}/figures.manifest.json",
        manifest=f"{RESULTS}/report.html.manifest.json",
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    shell:
        "python -m workflow_scripts.report --summary {input.summary:q} --out {output.page:q} "
        "> {log:q} 2>&1"
