# What each data set's calls must return, each model's evaluation, and the table of all results.


rule ground_truth:
    input:
        problems=ancient(dataset_file),
    output:
        folder=directory(f"{RESULTS}/ground_truth/{{dataset}}"),
        manifest=f"{RESULTS}/ground_truth/{{dataset}}.manifest.json",
    log:
        f"{LOGS}/ground_truth/{{dataset}}.log",
    conda:
        "../envs/evaluation.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        code=code_hash("ground_truth"),
        content=dataset_content,
        dataset=lambda wildcards: DATASETS[wildcards.dataset],
        sandbox=select("evaluation", "sandbox"),
    shell:
        "python -m workflow_scripts.ground_truth --dataset {params.dataset:q} {params.sandbox} "
        "--out {output.folder} 2>&1 | tee {log}"


rule eval:
    input:
        model=ancient(f"{RESULTS}/{{model}}"),
        manifest=f"{RESULTS}/{{model}}.manifest.json",
        problems=ancient(dataset_file),
        truth=ancient(f"{RESULTS}/ground_truth/{{dataset}}"),
        truth_manifest=f"{RESULTS}/ground_truth/{{dataset}}.manifest.json",
    output:
        result=f"{RESULTS}/eval/{{model}}/{{dataset}}.json",
        generations=f"{RESULTS}/eval/{{model}}/{{dataset}}.generations.jsonl",
        manifest=f"{RESULTS}/eval/{{model}}/{{dataset}}.json.manifest.json",
    log:
        f"{LOGS}/eval/{{model}}/{{dataset}}.log",
    conda:
        evaluation_environment
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=config["gpus"],
    params:
        code=code_hash("eval"),
        model=lambda wildcards: wildcards.model,
        content=dataset_content,
        dataset=lambda wildcards: DATASETS[wildcards.dataset],
        prompt=prompt,
        template=lambda wildcards: template_content(prompt(wildcards)),
        backend=backend,
        options=without(
            "evaluation", "models", "datasets", "base_prompt", "backend", "general"
        ),
        seed=sampling_seed(),
        threads=config["threads"],
    shell:
        "python -m workflow_scripts.eval --model {input.model} --dataset {params.dataset:q} "
        "--ground-truth {input.truth} --prompt {params.prompt:q} --threads {params.threads} "
        "--backend {params.backend} {params.seed} {params.options} "
        "--out {output.result} 2>&1 | tee {log}"


rule general:
    input:
        model=ancient(f"{RESULTS}/{{model}}"),
        manifest=f"{RESULTS}/{{model}}.manifest.json",
    output:
        result=f"{RESULTS}/general/{{model}}/tasks.json",
        manifest=f"{RESULTS}/general/{{model}}/tasks.json.manifest.json",
    log:
        f"{LOGS}/general/{{model}}.log",
    conda:
        "../envs/general.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=config["gpus"],
    params:
        code=code_hash("general"),
        model=lambda wildcards: wildcards.model,
        tasks=config["evaluation"]["general"],
        contents=task_contents(),
        options=select("evaluation", "batch_size", "limit"),
        threads=config["threads"],
    shell:
        "python -m workflow_scripts.general --model {input.model} --tasks {params.tasks:q} "
        "--threads {params.threads} {params.options} --out {output.result} 2>&1 | tee {log}"


rule summary:
    input:
        evals=evaluations(),
        general=general_results(),
    output:
        csv=f"{RESULTS}/summary.csv",
        comparisons=f"{RESULTS}/comparisons.csv",
        table=f"{RESULTS}/summary.md",
    log:
        f"{LOGS}/summary.log",
    conda:
        "../envs/summary.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        code=code_hash("summary"),
    shell:
        "python -m workflow_scripts.summary --evals {input.evals} --general {input.general} "
        "--out {output.csv} > {log} 2>&1"
