# The problems and what they must return, each model's evaluation and loss, and the tables.


rule fetch_problems:
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
        # No hash of the code: whatever it is, this is the content.
        dataset=lambda wildcards: wildcards.named,
        content=lambda wildcards: NAMED_SETS[wildcards.named].wanted_sha256,
    shell:
        "online python -m workflow_scripts.fetch_problems --dataset {params.dataset} "
        "--out {output.file} 2>&1 | tee {log}"


rule ground_truth:
    input:
        problems=ancient(problem_file),
        problem_manifest=lambda wildcards: problem_manifest(wildcards.dataset),
    output:
        folder=directory(f"{RESULTS}/ground_truth/{{dataset}}"),
        manifest=f"{RESULTS}/ground_truth/{{dataset}}.manifest.json",
    log:
        f"{LOGS}/ground_truth/{{dataset}}.log",
    conda:
        "../envs/evaluation.yaml"
    threads: config["threads"]
    resources:
        **fixed(8000, 120),
    params:
        code=code_hash("ground_truth"),
        content=problem_content,
        sandbox=select("evaluation", "sandbox"),
    shell:
        "python -m workflow_scripts.ground_truth --dataset {input.problems:q} {params.sandbox} "
        "--out {output.folder} 2>&1 | tee {log}"


rule eval:
    input:
        model=ancient(f"{RESULTS}/{{model}}"),
        manifest=f"{RESULTS}/{{model}}.manifest.json",
        problems=ancient(problem_file),
        problem_manifest=lambda wildcards: problem_manifest(wildcards.dataset),
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
        **evaluation(),
    params:
        code=code_hash("eval"),
        model=lambda wildcards: wildcards.model,
        content=problem_content,
        prompt=prompt,
        template=lambda wildcards: template_content(prompt(wildcards)),
        backend=backend,
        options=without(
            "evaluation", "models", "datasets", "base_prompt", "backend", "general"
        ),
        seed=sampling_seed(),
        threads=config["threads"],
    shell:
        "python -m workflow_scripts.eval --model {input.model} --dataset {input.problems:q} "
        "--ground-truth {input.truth} --prompt {params.prompt:q} --threads {params.threads} "
        "--backend {params.backend} {params.seed} {params.options} "
        "--out {output.result} 2>&1 | tee {log}"


rule validation_loss:
    input:
        model=ancient(f"{RESULTS}/{{model}}"),
        manifest=f"{RESULTS}/{{model}}.manifest.json",
        tokens=ancient(f"{RESULTS}/tokens"),
        tokens_manifest=f"{RESULTS}/tokens.manifest.json",
    output:
        f"{RESULTS}/validation/{{model}}.json",
    log:
        f"{LOGS}/validation/{{model}}.log",
    conda:
        "../envs/evaluation.yaml"
    threads: config["threads"]
    resources:
        **measurement(60),
    params:
        code=code_hash("validation_loss"),
        threads=config["threads"],
    shell:
        "python -m workflow_scripts.validation_loss --model {input.model} --data {input.tokens} "
        "--threads {params.threads} --out {output} 2>&1 | tee {log}"


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
        **measurement(720),
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
        losses=validation_losses(),
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
        "python -m workflow_scripts.summary --evals {input.evals} --losses {input.losses} "
        "--general {input.general} --out {output.csv} > {log} 2>&1"
