"""Evaluate a model: let it write code for each problem, then judge the code with EvalPlus.

Writes the result, a JSON file, and beside it the generations (x.json: x.generations.jsonl). Model-
written code runs in a bubblewrap sandbox, which is tried before anything else is done.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.data.templates import CHAT, COMPLETION, make_template, read_template
from workflow_scripts.data.tokenizers import load_tokenizer
from workflow_scripts.evaluation.generation import generate
from workflow_scripts.evaluation.loading import artifact_id, load_model
from workflow_scripts.evaluation.problems import load_problems
from workflow_scripts.evaluation.prompts import TaskPrompt, task_prompts
from workflow_scripts.evaluation.result import (
    build_result,
    caveats,
    package_versions,
    write_manifest,
    write_result,
)
from workflow_scripts.evaluation.samples import (
    Sample,
    read_samples,
    samples_path,
    write_samples,
)
from workflow_scripts.evaluation.sandbox import Bubblewrap, find_bubblewrap
from workflow_scripts.evaluation.scoring import score

GENERATION_OPTIONS = ("max_new_tokens", "batch_size")
OPTIONS = (*GENERATION_OPTIONS, "limit", "sandbox")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    args, options = _parse(argv)
    sandbox = _open_sandbox(options["sandbox"])
    problem_set = load_problems(args.dataset).first(options["limit"])
    prompts = task_prompts(problem_set, _template(options["prompt"], Path(args.model)))
    saved = samples_path(args.out)
    if args.rescore:
        samples = read_samples(saved, prompts)
    else:
        samples = _generate(args.model, prompts, options, args.verify == "full")
        write_samples(saved, samples)
        print(f"generations: {saved} (judge them again with --rescore)")
    solutions = [sample.solution for sample in samples]
    verdicts = score(problem_set, solutions, sandbox=sandbox, workers=options["threads"])
    scoring_settings = {name: options[name] for name in ("limit", "sandbox")}
    result = build_result(problem_set, samples, verdicts, scoring_settings)
    write_result(args.out, result)
    write_manifest(args.out, result)
    _report(result)


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict]:
    parser = cli.step_parser("eval", __doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="Model folder.")
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME_OR_FILE",
        help="humaneval, mbpp, or a file of problems in HumanEval+ form (.jsonl or .jsonl.gz).",
    )
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="Result, JSON.")
    parser.add_argument(
        "--rescore",
        action="store_true",
        help="Judge the generations of an earlier run again. Loads no model.",
    )
    parser.add_argument(
        "--prompt",
        default="magicoder",
        metavar="NAME_OR_FILE",
        help="magicoder: the paper's instruction prompt. chat: the tokenizer's chat template. A "
        "file: its text, with {instruction} once. completion: the problem's own text. Take the "
        "template that the model was trained with. Default: magicoder.",
    )
    cli.add_options(parser, "evaluation", OPTIONS)
    cli.add_options(parser, None, ["threads"])
    cli.add_verify(parser)
    args = parser.parse_args(argv)
    options = cli.options(args, "evaluation", OPTIONS) | cli.options(args, None, ["threads"])
    is_completion = args.prompt == COMPLETION.identity
    options["prompt"] = args.prompt if is_completion else read_template(args.prompt)
    return args, options


def _template(identity: str, model_folder: Path):
    """The template of an identity; only a chat template needs the model's tokenizer."""
    if identity == COMPLETION.identity:
        return COMPLETION
    return make_template(identity, load_tokenizer(model_folder) if identity == CHAT else None)


def _open_sandbox(kind: str) -> Bubblewrap | None:
    if kind == "bubblewrap":
        return find_bubblewrap()
    print(
        "WARNING: evaluation.sandbox is none. Model-written code runs WITHOUT ISOLATION, with your "
        "rights: it can read, change and delete your files and use the network.",
        file=sys.stderr,
    )
    return None


def _generate(
    model_folder: str, prompts: Sequence[TaskPrompt], options: dict, verify_all: bool
) -> list[Sample]:
    """Load the model and let it write. The origin of the samples says how they came about."""
    identity = artifact_id(Path(model_folder), full=verify_all)
    model, tokenizer = load_model(Path(model_folder), options["threads"])
    completions = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=options["max_new_tokens"],
        batch_size=options["batch_size"],
    )
    origin = {
        "model": {"path": model_folder, "id": identity},
        "settings": {name: options[name] for name in ("prompt", *GENERATION_OPTIONS, "threads")}
        | {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")},
        "versions": package_versions("torch", "transformers"),
    }
    return [
        Sample(
            task_id=prompt.task_id,
            prompt_sha256=prompt.sha256,
            completion=completion.text,
            solution=prompt.solution(completion.text),
            finish=completion.finish,
            origin=origin,
        )
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _report(result: dict) -> None:
    count = result["dataset"]["problems"]
    scores = (
        f"{name} {result['pass@1'][name]:.1%} ({passed}/{count})"
        for name, passed in result["passed"].items()
    )
    print(f"{result['model']['path']} on {result['dataset']['name']}: pass@1 {', '.join(scores)}")
    for caveat in caveats(result):
        print(caveat)


if __name__ == "__main__":
    cli.run("eval", main)
