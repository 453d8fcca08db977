# Steps 0 to 3: the base, its upcycled mixture, the tokens, the tuned mixture, the experts' FFN
# weights.
# Rules depend on manifests: a folder's own time says nothing about its content.


rule base:
    input:
        ancient(base_files()),
    output:
        model=directory(f"{RESULTS}/base"),
        manifest=f"{RESULTS}/base.manifest.json",
    log:
        f"{LOGS}/base.log",
    cache: bool(SHARED)
    conda:
        "../envs/conversion.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code_hash("base"),
        content=[content_hash(Path(file)) for file in base_files()],
        source=select("base", "model", "revision"),
    shell:
        "online python -m workflow_scripts.base {params.source} "
        "${{SNAKEMAKE_OUTPUT_CACHE:+--copy}} --out {output.model} 2>&1 | tee {log}"


rule moe:
    input:
        base=ancient(f"{RESULTS}/base"),
        manifest=f"{RESULTS}/base.manifest.json",
    output:
        model=directory(f"{RESULTS}/moe"),
        manifest=f"{RESULTS}/moe.manifest.json",
    log:
        f"{LOGS}/moe.log",
    cache: bool(SHARED)
    conda:
        "../envs/conversion.yaml"
    resources:
        **conversion(),
    params:
        code=code_hash("moe"),
        options=without("moe"),
        seed=config["seed"],
    shell:
        "python -m workflow_scripts.moe --base {input.base} --seed {params.seed} {params.options} "
        "--out {output.model} 2>&1 | tee {log}"


rule fetch_data:
    output:
        file=f"{RESULTS}/data/fetched/{{file}}",
        manifest=f"{RESULTS}/data/fetched/{{file}}.manifest.json",
    log:
        f"{LOGS}/data/{{file}}.log",
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        code=code_hash("fetch_data"),
        source=select("data", *DATA_OPTIONS),
    shell:
        "online python -m workflow_scripts.fetch_data {params.source} --out {output.file} "
        "2>&1 | tee {log}"


rule tokens:
    input:
        base=ancient(f"{RESULTS}/base"),
        manifest=f"{RESULTS}/base.manifest.json",
        data=ancient(DATA),
        data_manifest=DATA_MANIFEST,
        problems=ancient([PROBLEMS[name] for name in forbidden_sets()]),
        problem_manifests=[problem_manifest(name) for name in forbidden_sets()],
    output:
        tokens=directory(f"{RESULTS}/tokens"),
        manifest=f"{RESULTS}/tokens.manifest.json",
        report=f"{RESULTS}/data/report.json",
    log:
        f"{LOGS}/tokens.log",
    cache: bool(SHARED)
    conda:
        "../envs/data.yaml"
    resources:
        **fixed(8000, 120),
    params:
        code=code_hash("tokens"),
        content=data_content(),
        options=select("data", *configuration.TOKENS_OPTIONS),
        template=template_content(config["data"]["template"]),
        problems="--problems" if forbidden_sets() else "",
        problem_contents=[PROBLEM_CONTENTS[name] for name in forbidden_sets()],
    shell:
        "python -m workflow_scripts.tokens --model {input.base} --data {input.data} "
        "{params.options} {params.problems} {input.problems:q} --report {output.report} "
        "--out {output.tokens} 2>&1 | tee {log}"


rule moe_sft:
    input:
        moe=ancient(f"{RESULTS}/moe"),
        manifest=f"{RESULTS}/moe.manifest.json",
        tokens=ancient(f"{RESULTS}/tokens"),
        tokens_manifest=f"{RESULTS}/tokens.manifest.json",
    output:
        model=directory(f"{RESULTS}/moe_sft"),
        manifest=f"{RESULTS}/moe_sft.manifest.json",
        metrics=f"{METRICS}/moe_sft.jsonl",
    log:
        f"{LOGS}/moe_sft.log",
    cache: bool(SHARED)
    conda:
        "../envs/training.yaml"
    threads: config["threads"] * config["training"]["processes"]
    resources:
        **training("training"),
    params:
        code=code_hash("moe_sft"),
        options=without("training"),
        seed=config["seed"],
        threads=config["threads"],
        srun=srun("training"),
    shell:
        "{params.srun}python -m workflow_scripts.moe_sft --moe {input.moe} --data {input.tokens} "
        "--seed {params.seed} --threads {params.threads} {params.options} "
        "--metrics {output.metrics} {resources.trackers} --out {output.model} 2>&1 | tee {log}"


rule ffn:
    input:
        moe=ancient(f"{RESULTS}/moe_sft"),
        manifest=f"{RESULTS}/moe_sft.manifest.json",
    output:
        model=directory(f"{RESULTS}/ffn"),
        manifest=f"{RESULTS}/ffn.manifest.json",
    log:
        f"{LOGS}/ffn.log",
    conda:
        "../envs/conversion.yaml"
    resources:
        **conversion(),
    params:
        code=code_hash("ffn"),
    shell:
        "python -m workflow_scripts.ffn --moe {input.moe} --out {output.model} 2>&1 | tee {log}"
