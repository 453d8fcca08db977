"""Measure a model's general abilities, on tasks of lm-evaluation-harness.

The step needs the package lm_eval. It fetches nothing: the data of the tasks must be on this
machine. It writes a result (JSON).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running
from xft.common.devices import claim_gpus
from xft.config.sections import EvaluationConfig, RunConfig
from xft.evaluation import lm_eval_result
from xft.evaluation.lm_eval_tasks import LmEvalOptions, measure, task_hashes
from xft.evaluation.loading import model_origin

OPTIONS = ("batch_size", "limit")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    parser = flags.step_parser("lm_eval", __doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="The model folder.")
    parser.add_argument(
        "--tasks",
        required=True,
        nargs="+",
        metavar="NAME_OR_FILE",
        help="Tasks or groups of tasks of lm_eval, or files of tasks (.yaml).",
    )
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="The result, JSON.")
    flags.add_options(parser, EvaluationConfig, OPTIONS)
    flags.add_options(parser, RunConfig, ["threads", "gpus"])
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    evaluation = flags.options(args, EvaluationConfig, OPTIONS)
    run = flags.options(args, RunConfig, ["threads", "gpus"])
    options = LmEvalOptions(evaluation.batch_size, evaluation.limit, run.threads)
    hashes = task_hashes(args.tasks)
    claim_gpus(run.gpus)
    result = measure(args.model, args.tasks, options, args.verify == "full")
    inputs = hashes | model_origin(Path(args.model))
    recipe = make_recipe("lm_eval", asdict(options) | {"tasks": args.tasks}, inputs)
    lm_eval_result.write(args.out, result, hashes, recipe)
    for name, task in result["tasks"].items():
        for metric, measured in task["metrics"].items():
            print(f"{args.model}: {name} {metric} {measured['value']}, {task['examples']} examples")


if __name__ == "__main__":
    running.run("lm_eval", main)
