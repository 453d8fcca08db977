# The problems and what they must return, each model's evaluation and loss, and the tables.


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
        # No hash of the code: whatever it is, this is the content.
        dataset=lambda wildcards: wildcards.named,
        content=lambda wildcards: WANTS.problem_sets[wildcards.named],
    shell:
        "online python -m workflow_scripts.fetch_problems --dataset {params.dataset:q} "
        "--out {output.file:q} 2>&1 | tee -i {log:q}"


rule ground_truth:
    input:
        problems=ancient(problem_file),
        problem_manifest=manifest(lambda wildcards: WANTS.problems(wildcards.dataset)),
        changed=marker(lambda wildcards: WANTS.ground_truth(wildcards.dataset)),
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
        options=options("ground_truth"),
    shell:
        "python -m workflow_scripts.ground_truth --dataset {input.problems:q} {params.options} "
        "--out {output.folder:q} 2>&1 | tee -i {log:q}"


rule eval:
    input:
        model=ancient(f"{RESULTS}/{{model}}"),
        manifest=manifest(lambda wildcards: WANTS.model(wildcards.model)),
        problems=ancient(problem_file),
        problem_manifest=manifest(lambda wildcards: WANTS.problems(wildcards.dataset)),
        truth=ancient(f"{RESULTS}/ground_truth/{{dataset}}"),
        truth_manifest=manifest(lambda wildcards: WANTS.ground_truth(wildcards.dataset)),
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
        options=options("eval", "seed", "threads", "backend"),
        seed=sampling_seed(),
        threads=config["threads"],
    shell:
        "python -m workflow_scripts.eval --model {input.model:q} --dataset {input.problems:q} "
        "--ground-truth {input.truth:q} --prompt {params.prompt:q} --threads {params.threads} "
        "--backend {params.backend:q} {params.seed} {params.options} {resources.besides} "
        "--out {output.result:q} 2>&1 | tee -i {log:q}"


rule validation_loss:
    input:
        model=ancient(f"{RESULTS}/{{model}}"),
        manifest=manifest(lambda wildcards: WANTS.model(wildcards.model)),
        tokens=ancient(f"{RESULTS}/tokens"),
        tokens_manifest=manifest(lambda wildcards: WANTS.tokens),
        changed=marker(lambda wildcards: WANTS.validation_loss(wildcards.model)),
    output:
        result=f"{RESULTS}/validation/{{model}}.json",
        manifest=f"{RESULTS}/validation/{{model}}.json.manifest.json",
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
        "python -m workflow_scripts.validation_loss --model {input.model:q} --data {input.tokens:q} "
        "--threads {params.threads} {resources.besides} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule general:
    input:
        model=ancient(f"{RESULTS}/{{model}}"),
        manifest=manifest(lambda wildcards: WANTS.model(wildcards.model)),
        changed=marker(lambda wildcards: WANTS.general(wildcards.model)),
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
        options=options("general"),
    shell:
        "python -m workflow_scripts.general --model {input.model:q} --tasks {params.tasks:q} "
        "{params.options} {resources.besides} --out {output.result:q} 2>&1 | tee -i {log:q}"


rule summary:
    input:
        evals=results(lambda: WANTS.evaluations()),
        losses=results(lambda: WANTS.validation_losses()),
        general=results(lambda: WANTS.general_results()),
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
    params:
        code=code_hash("summary"),
    shell:
        "python -m workflow_scripts.summary --evals {input.evals:q} --losses {input.losses:q} "
        "--general {input.general:q} --out {output.csv:q} > {log:q} 2>&1"
