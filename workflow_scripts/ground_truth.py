"""Compute what the calls of each problem must return, from the canonical solutions."""

from workflow_scripts import cli
from workflow_scripts.artifacts.artifact import create_artifact
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.evaluation import ground_truth
from workflow_scripts.evaluation.execution import usable_cpus
from workflow_scripts.evaluation.problems import add_dataset_flag, load_problems
from workflow_scripts.evaluation.sandbox import open_sandbox

OPTIONS = ["limit", "sandbox"]


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("ground_truth", __doc__)
    add_dataset_flag(parser)
    cli.add_path(parser, "--out", "DIR", "The artifact.")
    cli.add_options(parser, "evaluation", OPTIONS)
    args = parser.parse_args(argv)
    options = cli.options(args, "evaluation", OPTIONS)
    sandbox = open_sandbox(options["sandbox"])
    problem_set = load_problems(args.dataset).first(options["limit"])
    truth = ground_truth.compute(problem_set, sandbox=sandbox, workers=usable_cpus())
    inputs = {"dataset": problem_set.sha256}
    recipe = make_recipe("ground_truth", options, inputs)
    with create_artifact(args.out, ground_truth.KIND, options, inputs, recipe) as draft:
        ground_truth.write(draft.path, truth)


if __name__ == "__main__":
    cli.run("ground_truth", main)
