"""Compute the expected results of each problem's calls from its canonical solution."""

from xft.artifacts.artifact import create_artifact
from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running
from xft.config.sections import ScoringConfig
from xft.evaluation import ground_truth
from xft.evaluation.execution import usable_cpus
from xft.evaluation.problems import load_problems
from xft.evaluation.sandbox import open_sandbox


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("ground_truth", __doc__)
    flags.add_dataset(parser)
    flags.add_path(parser, "--out", "DIR", "The expected results.")
    flags.add_options(parser, ScoringConfig)
    args = parser.parse_args(argv)
    options = flags.options(args, ScoringConfig)
    sandbox = open_sandbox(options.sandbox)
    problem_set = load_problems(args.dataset).first(options.limit)
    truth = ground_truth.compute(problem_set, sandbox=sandbox, workers=usable_cpus())
    parameters, inputs = options.model_dump(), {"dataset": problem_set.sha256}
    recipe = make_recipe("ground_truth", parameters, inputs)
    with create_artifact(args.out, ground_truth.KIND, parameters, inputs, recipe) as draft:
        ground_truth.write(draft.path, truth)


if __name__ == "__main__":
    running.run("ground_truth", main)
