"""Measure a model's general abilities, on tasks of lm-evaluation-harness.

The step needs the package lm_eval. It fetches nothing: the data of the tasks must be on this
machine. It writes a result (JSON).
"""

from xft.artifacts.manifest import hash_file
from xft.cli.step import Step, run
from xft.common.devices import claim_gpus
from xft.common.progress import say
from xft.config.sections import EvaluationConfig, RunConfig
from xft.evaluation import lm_eval_result
from xft.evaluation.lm_eval_tasks import measure, task_files


def main(argv: list[str] | None = None) -> None:
    step = Step("lm_eval", __doc__)
    step.artifact("--model", "The model folder.")
    tasks = "Tasks or groups of tasks of lm_eval, or files of tasks (.yaml)."
    step.name_or_file("--tasks", tasks, required=True, nargs="+")
    step.output("--out", "FILE", "The result, JSON.")
    args = step.parse_args(argv)
    evaluation, run = step.options(EvaluationConfig), step.options(RunConfig)
    options = evaluation.model_dump(include={"batch_size", "limit"}) | {"threads": run.threads}
    hashes = {name: hash_file(file) for name, file in task_files(args.tasks).items()}
    claim_gpus(run.gpus)
    result = measure(args.model, args.tasks, options, step.full)
    lm_eval_result.write(args.out, result, hashes)
    for name, task in result["tasks"].items():
        for metric, measured in task["metrics"].items():
            say(f"{name} {metric} {measured['value']}, {task['examples']} examples")


if __name__ == "__main__":
    run("lm_eval", main)
