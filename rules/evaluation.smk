# The problems with their expected results, the evaluation and loss of each model, and the tables.


rule fetch_problems:
    input:
        changed=marker(lambda wildcards: WANTS.problems(wildcards.named)),
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
        content=lambda wildcards: WANTS.problem_sets[wildcards.named],  # for the cache
    shell:
        "online python -m workflow_scripts.fetch_problems --dataset {params.dataset:q} "
        "--out {output.file:q} 2>&1 | tee -i {log:q}"


rule ground_truth:
    input:
        problems=ancient(problem_file),
        problem_manifest=manifest(lambda wildcards: WANTS.problems(wildcards.dataset)),
        changed=marker(lambda wildcards: WANTS.ground_truth(wildcards.dataset)),
    output:
        **artifact_outputs("ground_truth/{dataset}"),
    log:
        f"{LOGS}/ground_truth/{{dataset}}.log",
    conda:
        "../envs/evaluation.yaml"
    threads: CONFIG.threads
    resources:
        **fixed(8000, 120),
    params:
        options=options("ground_truth"),
    shell:
        "python -m workflow_scripts.ground_truth --dataset {input.problems:q} {params.options} "
        "--out {output.artifact:q} 2>&1 | tee -i {log:q}"


rule eval:
    input:
        **artifact_inputs(
            model=lambda wildcards: WANTS.model(wildcards.model),
            truth=lambda wildcards: WANTS.ground_truth(wildcards.dataset),
        ),
        problems=ancient(problem_file),
        problem_manifest=manifest(lambda wildcards: WANTS.problems(wildcards.dataset)),
        changed=marker(
            lambda wildcards: WANTS.evaluation(wildcards.model, wildcards.dataset)
        ),
    output:
        result=f"{RESULTS}/eval/{{model}}/{{dataset}}.json",
        generations=f"{RESULTS}/eval/{{model}}/{{dataset}}.generations.jsonl",
        manifest=f"{RESULTS}/eval/{{model}}/{{dataset}}.json.manifest.json",
    log:
        f"{LOGS}/eval/{{model}}/{{dataset}}.log",
    conda:
        evaluation_environment
    threads: CONFIG.threads
    resources:
        **RESOURCES.evaluation(),
    params:
        prompt=prompt,
        backend=backend,
        options=options("eval", "seed", "threads", "backend"),
        seed=sampling_seed(),
        threads=CONFIG.threads,
    shell:
        "python -m workflow_scripts.eval --model {input.model:q} --dataset {input.problems:q} "
        "--ground-truth {input.truth:q} --prompt {params.prompt:q} --threads {params.threads} "
        "--backend {params.backend:q} {params.seed} {params.options} {resources.besides} "
        "--out {output.result:q} 2>&1 | tee -i {log:q}"


rule validation_loss:
    input:
        **artifact_inputs(
            model=lambda wildcards: WANTS.model(wildcards.model),
            tokens=lambda wildcards: WANTS.tokens,
        ),
        changed=marker(lambda wildcards: WANTS.validation_loss(wildcards.model)),
    output:
        result=f"{RESULTS}/validation/{{model}}.json",
        manifest=f"{RESULTS}/validation/{{model}}.json.manifest.json",
    log:
        f"{LOGS}/validation/{{model}}.log",
    conda:
        "../envs/evaluation.yaml"
    threads: CONFIG.threads
    resources:
        **RESOURCES.measurement(60),
    params:
        threads=CONFIG.threads,
    shell:
        "python -m workflow_scripts.validation_loss --model {input.model:q} --data {input.tokens:q} "
        "--threads {params.threads} {resources.besides} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule lm_eval:
    input:
        **artifact_inputs(model=lambda wildcards: WANTS.model(wildcards.model)),
        changed=marker(lambda wildcards: WANTS.lm_eval(wildcards.model)),
    output:
        result=f"{RESULTS}/lm_eval/{{model}}/tasks.json",
        manifest=f"{RESULTS}/lm_eval/{{model}}/tasks.json.manifest.json",
    log:
        f"{LOGS}/lm_eval/{{model}}.log",
    conda:
        "../envs/lm_eval.yaml"
    threads: CONFIG.threads
    resources:
        **RESOURCES.measurement(720),
    params:
        tasks=CONFIG.evaluation.lm_eval,
        options=options("lm_eval"),
    shell:
        "python -m workflow_scripts.lm_eval --model {input.model:q} --tasks {params.tasks:q} "
        "{params.options} {resources.besides} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule summary:
    input:
        evals=results(lambda: WANTS.evaluations()),
        losses=results(lambda: WANTS.validation_losses()),
        lm_eval=results(lambda: WANTS.lm_eval_results()),
        changed=marker(lambda wildcards: WANTS.summary),
    output:
        csv=f"{RESULTS}/summary.csv",
        comparisons=f"{RESULTS}/comparisons.csv",
        table=f"{RESULTS}/summary.md",
        manifest=f"{RESULTS}/summary.csv.manifest.json",
    log:
        f"{LOGS}/summary.log",
    conda:
        "../envs/summary.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    shell:
        "python -m workflow_scripts.summary --evals {input.evals:q} --losses {input.losses:q} "
        "--lm-eval {input.lm_eval:q} --out {output.csv:q} > {log:q} 2>&1"
