"""Evaluate a model: let it write code for each problem, run the code, and judge the results.

The step writes a result (JSON) and the generations beside it: x.generations.jsonl for x.json.
The model's code runs in a bubblewrap sandbox. The step tests the sandbox before all other work.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from xft.checkpoints.model_files import read_model_config, window
from xft.cli.step import Step, run
from xft.common.errors import UserError, listed
from xft.common.gpus import claim_gpus
from xft.common.progress import say
from xft.common.system import usable_cpus
from xft.config.sections import EvaluatedConfig, GenerationConfig, RunConfig, ScoringConfig
from xft.data.prompt_templates import CHAT, PROMPT_NAMES, make_template, read_template
from xft.data.tokenizers import load_tokenizer
from xft.evaluation import call_scoring, result
from xft.evaluation.call_scoring import CallScorer
from xft.evaluation.forms import load_problems
from xft.evaluation.model_loading import trained_template
from xft.evaluation.problems import DataSet
from xft.evaluation.program_scoring import ProgramScorer
from xft.evaluation.prompts import TaskPrompt, task_prompts
from xft.evaluation.sampling import Journal, sample
from xft.evaluation.scorers import open_sandbox, open_scorer
from xft.evaluation.scoring import Statuses

SHOWN_LINES = 30  # of a text


def main(argv: list[str] | None = None) -> None:
    step = _declare()
    args = step.parse_args(argv)
    scoring = step.options(ScoringConfig)
    generation = step.options(GenerationConfig)
    run_options = step.options(RunConfig)
    if not args.rescore:
        claim_gpus(run_options.gpus)
    prompt = _prompt(args.prompt, args.model)
    say(f"the prompt is {call_scoring.shortened_repr(prompt)}")
    sandbox = open_sandbox(scoring.sandbox)

    data_set = load_problems(args.dataset).without(scoring.exclude).first(scoring.limit)
    if generation.too_long == "skip":
        other_prompt = read_template(args.other_prompt, PROMPT_NAMES)
        data_set = _fitting(data_set, prompt, args.model, generation.max_new_tokens)
        data_set = _fitting(data_set, other_prompt, args.model, generation.max_new_tokens)
    scorer = open_scorer(data_set, sandbox, usable_cpus())
    truth = _read_ground_truth(step, data_set)

    tokenizer = load_tokenizer(args.model) if prompt == CHAT else None
    prompts = task_prompts(data_set, make_template(prompt, tokenizer))
    samples, journal = _samples(step, prompts, generation, run_options)

    statuses = _judge(scorer, truth, data_set, samples)
    judged = scoring.model_dump() | {"memory_bound": scorer.memory_bound}
    content = result.build_result(data_set, samples, statuses, judged, scorer.versions)
    _write(step, content, data_set)
    if journal is not None:
        journal.remove()

    if trained_template(args.model) is None:
        _show_first(prompts[0], samples[0], statuses[0])
    for line in result.result_lines(content):
        say(line)


def _declare() -> Step:
    """The step with its flags."""
    step = Step("eval", __doc__)
    step.artifact("--model", "The model folder.")
    step.dataset()
    step.output("--out", "FILE", "The result, JSON.")
    step.add_argument(
        "--rescore",
        action="store_true",
        help="Judge the generations of an earlier run again. No model is loaded.",
    )
    step.name_or_file(
        "--prompt",
        "The prompt. magicoder: the paper's instruction prompt. chat: the tokenizer's chat "
        "template. A file: its text, with {instruction} once. completion: the problem's own text. "
        "Default: the template in the manifest of a tuned model; for other models the default of "
        f"evaluation.base_prompt, {EvaluatedConfig().base_prompt}.",
    )
    step.artifact(
        "--ground-truth",
        "The expected results of the calls, from step ground_truth. Default: compute them.",
        required=False,
    )
    step.name_or_file(
        "--other-prompt",
        "With --too-long skip, problems must fit by this prompt too. Default: magicoder.",
        default="magicoder",
    )
    return step


def _prompt(asked: str | None, model_folder: Path) -> str:
    """The identity of the prompt: the template that the model was tuned with, if it is known.

    If nothing is asked for, it is otherwise the workflow's default for a model without a tuning.
    Raises UserError if another template is asked for.
    """
    trained = trained_template(model_folder)
    if asked is None:
        return trained or EvaluatedConfig().base_prompt
    identity = read_template(asked, PROMPT_NAMES)
    if trained is not None and identity != trained:
        raise UserError(
            f"--prompt {asked} is not the template that {model_folder} was tuned with: "
            f"{call_scoring.shortened_repr(trained)}. Leave out --prompt to use that one"
        )
    return identity


def _fitting(data_set: DataSet, prompt: str, model: Path, max_new_tokens: int) -> DataSet:
    """The problems whose prompts by a template leave room for an answer in the model's window."""
    tokenizer = load_tokenizer(model)
    config = read_model_config(model / "config.json")
    tokens = window(config.get("base_config", config)) or math.inf
    room = tokens - max_new_tokens
    prompts = task_prompts(data_set, make_template(prompt, tokenizer))
    too_long = [p.task_id for p in prompts if len(p.encode(tokenizer)) > room]
    return data_set.without(too_long)


def _samples(
    step: Step,
    prompts: Sequence[TaskPrompt],
    generation: GenerationConfig,
    run_options: RunConfig,
) -> tuple[list[result.Sample], Journal | None]:
    """The generations, new ones or those of an earlier run, and the journal of new ones.

    New generations are written beside the result.
    """
    args = step.args
    file = result.samples_path(args.out)
    if args.rescore:
        return result.read_samples(file, prompts, generation.samples), None
    samples, journal = sample(args.model, prompts, generation, run_options, args.out, step.full)
    result.write_samples(file, samples)
    return samples, journal


def _judge(
    scorer: CallScorer | ProgramScorer,
    truth: dict[str, str] | None,
    data_set: DataSet,
    samples: Sequence[result.Sample],
) -> list[Statuses]:
    """The statuses of each sample. Without a ground truth it is computed."""
    expected = scorer.expected() if truth is None else truth
    problems = {problem.task_id: problem for problem in data_set.problems}
    solutions = [(problems[written.task_id], written.solution) for written in samples]
    return scorer.score(expected, solutions)


def _write(step: Step, content: dict, data_set: DataSet) -> None:
    """Write the result with its manifest. The manifest names the generations too."""
    out = step.args.out
    inputs = step.ids | {"model": content["model"]["id"], "dataset": data_set.sha256}
    result.RESULT.write(
        out,
        content,
        parameters=content["settings"],
        inputs=inputs,
        beside=[result.samples_path(out)],
    )


def _show_first(prompt: TaskPrompt, written: result.Sample, statuses: Statuses) -> None:
    """Show the first prompt and answer in the log: the reader sees whether they are sound."""
    texts = {"prompt": prompt.text, f"answer ({statuses.plus})": written.completion}
    for name, text in texts.items():
        lines = indent(listed(text.splitlines(), SHOWN_LINES), "  | ")  # none looks like a message
        say(f"{prompt.task_id}, the {name}:\n{lines}")


def _read_ground_truth(step: Step, data_set: DataSet) -> dict[str, str] | None:
    """The ground truth in --ground-truth, as an input of the step; None if it is not given.

    Raises UserError if the artifact does not hold the problems.
    """
    args = step.args
    if args.ground_truth is None:
        return None
    artifact = step.open("ground_truth", args.ground_truth, call_scoring.KIND)
    if artifact.manifest.inputs["dataset"] != data_set.sha256:
        raise UserError(f"{args.ground_truth} was made from other problems than {args.dataset}")
    held = artifact.manifest.parameters.get("limit")
    wanted = len(data_set.problems)
    if held is not None and held < wanted:
        raise UserError(
            f"{args.ground_truth} holds only the first {held} problems, but {wanted} must be "
            "judged. Make it again with the same --limit, or without a limit"
        )
    return call_scoring.read(artifact.path)


if __name__ == "__main__":
    run("eval", main)
