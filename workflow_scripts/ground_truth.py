"""Compute the expected results of each problem's calls from its canonical solution.

Of problems whose tests are a program, the canonical solutions are only judged.
"""

from xft.cli.step import Step, run
from xft.common.system import usable_cpus
from xft.config.sections import ScoringConfig
from xft.evaluation import call_scoring
from xft.evaluation.forms import load_problems
from xft.evaluation.scorers import open_sandbox, open_scorer


def main(argv: list[str] | None = None) -> None:
    step = Step("ground_truth", __doc__)
    step.dataset()
    step.output("--out", "DIR", "The expected results.")
    args = step.parse_args(argv)
    options = step.options(ScoringConfig)
    sandbox = open_sandbox(options.sandbox)
    data_set = load_problems(args.dataset).without(options.exclude).first(options.limit)
    truth = open_scorer(data_set, sandbox, usable_cpus()).expected()
    step.inputs["dataset"] = data_set.sha256
    with step.draft(options.model_dump()) as draft:
        call_scoring.write(draft.path, truth)


if __name__ == "__main__":
    run("ground_truth", main)
