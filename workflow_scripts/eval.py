"""Evaluate a model: let it write code for each problem, run the code, and judge the results.

The step writes a result (JSON) and the generations beside it: x.generations.jsonl for x.json.
The model's code runs in a bubblewrap sandbox. The step tests the sandbox before all other work.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from xft.artifacts.artifact import Artifact, open_artifact
from xft.artifacts.manifest import Recipe
from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running
from xft.common.devices import claim_gpus
from xft.common.errors import UserError
from xft.config.sections import EvalConfig, GenerationConfig, RunConfig, ScoringConfig
from xft.data.templates import CHAT, COMPLETION, make_template, read_template
from xft.data.tokenizers import load_tokenizer
from xft.evaluation import ground_truth
from xft.evaluation.execution import memory_bound, usable_cpus
from xft.evaluation.ground_truth import GroundTruth, shown
from xft.evaluation.loading import model_origin, trained_template
from xft.evaluation.problems import ProblemSet, load_problems
from xft.evaluation.prompts import task_prompts
from xft.evaluation.result import (
    TEST_NAMES,
    build_result,
    caveats,
    measures,
    write_result,
)
from xft.evaluation.samples import (
    journal_path,
    read_samples,
    samples_path,
    write_samples,
)
from xft.evaluation.sampling import SamplingOptions, sample
from xft.evaluation.sandbox import open_sandbox
from xft.evaluation.scoring import score

DEFAULT_PROMPT = "magicoder"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    args, options, scoring = _parse(argv)
    sandbox = open_sandbox(scoring.sandbox)
    problem_set = load_problems(args.dataset).first(scoring.limit)
    truth, truth_artifact = _read_ground_truth(args, problem_set)
    prompts = task_prompts(problem_set, _template(options.prompt, Path(args.model)))
    saved, journal = samples_path(args.out), None
    if args.rescore:
        samples = read_samples(saved, prompts, options.generation.samples)
    else:
        samples, journal = sample(
            args.model, prompts, options, journal_path(args.out), args.verify == "full"
        )
        write_samples(saved, samples)
        print(f"generations: {saved} (--rescore judges them again)")
    problems = {problem.task_id: problem for problem in problem_set.problems}
    solutions = [(problems[written.task_id], written.code) for written in samples]
    workers = usable_cpus()
    truth = truth or ground_truth.compute(problem_set, sandbox=sandbox, workers=workers)
    verdicts = score(problem_set, truth, solutions, sandbox=sandbox, workers=workers)
    judged = scoring.model_dump()
    result = build_result(
        problem_set, samples, verdicts, judged | {"memory_bound": memory_bound(sandbox)}
    )
    recipe = _recipe(args.model, options.settings | judged, problem_set, truth_artifact)
    write_result(args.out, result, truth_artifact and truth_artifact.id, recipe)
    if journal is not None:
        journal.remove()
    _report(result)


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, SamplingOptions, ScoringConfig]:
    parser = flags.step_parser("eval", __doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="The model folder.")
    flags.add_dataset(parser)
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="The result, JSON.")
    parser.add_argument(
        "--rescore",
        action="store_true",
        help="Judge the generations of an earlier run again. No model is loaded.",
    )
    parser.add_argument(
        "--prompt",
        metavar="NAME_OR_FILE",
        help="The prompt. magicoder: the paper's instruction prompt. chat: the tokenizer's chat "
        "template. A file: its text, with {instruction} once. completion: the problem's own text. "
        "Default: the template in the manifest of a tuned model; magicoder for other models.",
    )
    parser.add_argument(
        "--ground-truth",
        type=Path,
        metavar="DIR",
        help="The expected results of the calls, from step ground_truth. Default: compute them.",
    )
    flags.add_options(parser, EvalConfig)
    flags.add_options(parser, RunConfig, ["seed", "threads", "gpus"])
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    generation = flags.options(args, GenerationConfig)
    scoring = flags.options(args, ScoringConfig)
    run = flags.options(args, RunConfig, ["seed", "threads", "gpus"])
    if not args.rescore:
        claim_gpus(run.gpus)
    options = SamplingOptions(
        generation,
        _prompt(args.prompt, Path(args.model)),
        seed=run.seed if generation.temperature else None,
        threads=None if generation.backend == "vllm" else run.threads,
    )
    return args, options, scoring


def _prompt(asked: str | None, model_folder: Path) -> str:
    """The identity of the prompt: the template that the model was tuned with, if it is known.

    Raises UserError if another template is asked for.
    """
    trained = trained_template(model_folder)
    if asked is None:
        return trained or DEFAULT_PROMPT
    identity = asked if asked == COMPLETION.identity else read_template(asked)
    if trained is not None and identity != trained:
        raise UserError(
            f"--prompt {asked} is not the template that {model_folder} was tuned with: "
            f"{shown(trained)}. Leave out --prompt to use that one"
        )
    return identity


def _template(identity: str, model_folder: Path):
    """The template with an identity. Only a chat template needs the model's tokenizer."""
    if identity == COMPLETION.identity:
        return COMPLETION
    return make_template(identity, load_tokenizer(model_folder) if identity == CHAT else None)


def _read_ground_truth(
    args: argparse.Namespace, problem_set: ProblemSet
) -> tuple[GroundTruth | None, Artifact | None]:
    """The ground truth and its artifact. Both are None if --ground-truth is not given.

    Raises UserError if the artifact does not hold the problems.
    """
    if args.ground_truth is None:
        return None, None
    artifact = open_artifact(args.ground_truth, ground_truth.KIND, full=args.verify == "full")
    if artifact.manifest.inputs["dataset"] != problem_set.sha256:
        raise UserError(f"{args.ground_truth} was made from other problems than {args.dataset}")
    held, wanted = artifact.manifest.parameters.get("limit"), len(problem_set.problems)
    if held is not None and held < wanted:
        raise UserError(
            f"{args.ground_truth} holds only the first {held} problems, but {wanted} must be "
            "judged. Make it again with the same --limit, or without a limit"
        )
    return ground_truth.read(artifact.path, problem_set), artifact


def _recipe(model: str, options: dict, problem_set: ProblemSet, truth: Artifact | None) -> Recipe:
    inputs = {"dataset": problem_set.sha256} | model_origin(Path(model))
    return make_recipe("eval", options, inputs | ({"ground_truth": truth} if truth else {}))


def _report(result: dict) -> None:
    count = len(result["problems"])
    parts = []
    for tests, name in TEST_NAMES.items():
        shares = [f"{measure} {result[measure][tests]:.1%}" for measure in measures(result)]
        parts.append(f"{name}: {', '.join(shares)}, {result['passed'][tests]} of {count} pass")
    print(f"{result['model']['path']} on {result['dataset']['name']}, {'; '.join(parts)}")
    for caveat in caveats(result):
        print(caveat)


if __name__ == "__main__":
    running.run("eval", main)
