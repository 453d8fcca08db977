# Each job's time and memory. Snakemake cannot measure a rule whose result it may take from its cache.

for measured in workflow.rules:
    log = str(measured.log[0]) if measured.log else ""
    if log.startswith(f"{LOGS}/") and not measured.cache.output:
        place = log.removeprefix(LOGS).removesuffix(".log")
        measured.benchmark_modifier = workflow.modifier.path_modifier
        measured.benchmark = f"{BENCHMARKS}{place}.jsonl"
