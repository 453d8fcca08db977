"""Measure what a model can do besides code, on tasks of lm-evaluation-harness.

Needs the package lm_eval, and the tasks' data on this machine: nothing is fetched. Writes
the result, a JSON file.
"""

from collections.abc import Sequence
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.common.devices import check_gpus
from workflow_scripts.evaluation import general_result
from workflow_scripts.evaluation.general import measure, task_hashes
from workflow_scripts.evaluation.loading import model_origin

OPTIONS = ("batch_size", "limit")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    parser = cli.step_parser("general", __doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="Model folder.")
    parser.add_argument(
        "--tasks",
        required=True,
        nargs="+",
        metavar="NAME_OR_FILE",
        help="Tasks or groups of tasks of lm_eval, or files of tasks (.yaml).",
    )
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="Result, JSON.")
    cli.add_options(parser, "evaluation", OPTIONS)
    cli.add_options(parser, None, ["threads", "gpus"])
    cli.add_verify(parser)
    args = parser.parse_args(argv)
    options = cli.options(args, "evaluation", OPTIONS) | cli.options(args, None, ["threads"])
    hashes = task_hashes(args.tasks)
    check_gpus(cli.options(args, None, ["gpus"])["gpus"])
    result = measure(args.model, args.tasks, options, args.verify == "full")
    inputs = hashes | model_origin(Path(args.model))
    recipe = make_recipe("general", options | {"tasks": args.tasks}, inputs)
    general_result.write(args.out, result, hashes, recipe)
    for name, task in result["tasks"].items():
        for metric, measured in task["metrics"].items():
            print(f"{args.model}: {name} {metric} {measured['value']}, {task['examples']} examples")


if __name__ == "__main__":
    cli.run("general", main)
