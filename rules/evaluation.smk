# What each data set's calls must return, each model's evaluation and loss, the table of all results.


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
        **fixed(8000, 120),
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
        "../envs/evaluation.yaml"
    threads: config["threads"]
    resources:
        **evaluation(),
    params:
        code=code_hash("eval"),
        model=lambda wildcards: wildcards.model,
        content=dataset_content,
        dataset=lambda wildcards: DATASETS[wildcards.dataset],
        prompt=prompt,
        template=lambda wildcards: template_content(prompt(wildcards)),
        options=without("evaluation", "models", "datasets", "base_prompt"),
        seed=sampling_seed(),
        threads=config["threads"],
    shell:
        "python -m workflow_scripts.eval --model {input.model} --dataset {params.dataset:q} "
        "--ground-truth {input.truth} --prompt {params.prompt:q} --threads {params.threads} "
        "{params.seed} {params.options} "
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
        **evaluation(),
    params:
        code=code_hash("validation_loss"),
        threads=config["threads"],
    shell:
        "python -m workflow_scripts.validation_loss --model {input.model} --data {input.tokens} "
        "--threads {params.threads} --out {output} 2>&1 | tee {log}"


rule summary:
    input:
        evals=evaluations(),
        losses=validation_losses(),
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
        losses=cli.to_flags({"losses": validation_losses()}),
    shell:
        "python -m workflow_scripts.summary --evals {input.evals} {params.losses} "
        "--out {output.csv} > {log} 2>&1"
