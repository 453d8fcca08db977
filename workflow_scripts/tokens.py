"""Tokenise rows once, for all trainings: instructions with responses, and conversations.

The step leaves out bad rows, conversations that end without a response, duplicates, rows that give
away evaluation problems (--problems), and rows whose prompt fills the window. --report lists the
rows that were left out, with the reasons.
"""

from pathlib import Path

from xft.artifacts.artifact import (
    MODEL_KINDS,
    Artifact,
    open_artifact,
    write_json,
)
from xft.artifacts.code import content_hash
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.artifacts.recipe import make_recipe, problem_input
from xft.cli import flags, running
from xft.common.progress import say
from xft.config.sections import TokensConfig
from xft.data.templates import with_template_read


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("tokens", __doc__)
    flags.add_path(parser, "--model", "DIR", "The model whose tokenizer is used.")
    flags.add_path(parser, "--data", "FILE", "The rows.")
    flags.add_path(parser, "--out", "DIR", "The tokens.")
    parser.add_argument(
        "--problems",
        nargs="+",
        metavar="NAME_OR_FILE",
        help="Leave out rows that give away a problem of these sets: humaneval, mbpp, or files in "
        "HumanEval+ form.",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="The rows that were left out, JSON."
    )
    flags.add_options(parser, TokensConfig)
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    options = with_template_read(flags.options(args, TokensConfig))
    model = open_artifact(args.model, *MODEL_KINDS, full=args.verify == "full")

    from xft.data.contamination import Detector
    from xft.data.preparation import prepare, summary
    from xft.data.tokenizers import load_tokenizer
    from xft.data.tokens_artifact import write_tokens
    from xft.evaluation.references import load_references

    references, problems = load_references(args.problems or [])
    find_trace = Detector(references).find if references else None
    tokens, report = prepare(args.data, load_tokenizer(args.model), options, find_trace)
    recipe = make_recipe("tokens", options.model_dump(), _inputs(model, args.data, problems))
    write_tokens(args.out, tokens, options, args.model, report["data_sha256"], recipe)
    say(summary(args.data, report))
    if args.report:
        made = read_manifest(manifest_path(args.out)).id
        args.report.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.report, report | {"problems": problems, "tokens": made})


def _inputs(model: Artifact, data: Path, problems: dict[str, str]) -> dict:
    """The inputs of the recipe: the model, the rows, and the problems' SHA-256 by label."""
    fetched = manifest_path(data)
    rows = read_manifest(fetched).origin if fetched.exists() else content_hash(data)
    hashes = {problem_input(label): sha for label, sha in problems.items()}
    return {"base": model, "data": rows, **hashes}


if __name__ == "__main__":
    running.run("tokens", main)
