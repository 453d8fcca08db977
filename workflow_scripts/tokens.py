"""Tokenise rows once, for all trainings: instructions with responses, and conversations.

The step leaves out bad rows, conversations that end without a response, duplicates, rows that give
away evaluation problems (--problems), and rows whose prompt fills the window. --report lists the
rows that were left out, with the reasons.
"""

from xft.artifacts.artifact import OpenedArtifact, write_json
from xft.cli.step import Step, run
from xft.common.progress import say
from xft.config.sections import MODEL_KINDS, TokensConfig
from xft.data.prompt_templates import with_template_read
from xft.hub.named_sets import RELEASED


def main(argv: list[str] | None = None) -> None:
    step = Step("tokens", __doc__)
    step.artifact("--model", "The model whose tokenizer is used.")
    step.path("--data", "FILE", "The rows, in one or more files.", nargs="+")
    step.output("--out", "DIR", "The tokens.")
    step.name_or_file(
        "--problems",
        "Leave out rows that give away a problem of these sets: humaneval, mbpp, or files in "
        "HumanEval+ form. Without a value: no set. Default: humaneval and mbpp.",
        nargs="*",
        default=list(RELEASED),
    )
    step.output("--report", "FILE", "The rows that were left out, JSON.", required=False)
    args = step.parse_args(argv)
    options = with_template_read(step.options(TokensConfig))
    base = step.open("base", args.model, *MODEL_KINDS)

    from xft.data.preparation import prepare, summary
    from xft.data.tokenized_rows import datasets_of, write_tokens
    from xft.data.tokenizers import load_tokenizer
    from xft.data.unwanted_rows import Detector
    from xft.evaluation.references import load_references

    fingerprints, problems = load_references([name for name in args.problems if name])
    find_trace = Detector(fingerprints).find if fingerprints else None
    tokenizer = load_tokenizer(args.model)
    tokenizer.name_or_path = _name(base)
    tokens, report = prepare(args.data, tokenizer, options, find_trace)
    if args.report:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.report, report | {"problems": problems})
    datasets = datasets_of(args.data)
    write_tokens(args.out, tokens, options, args.model, report["data_sha256"], datasets)
    say(summary(args.data, report))


def _name(base: OpenedArtifact) -> str:
    """The model as messages name it: its id on the hub, or the folder to which `base` links."""
    stated = base.known_manifest.parameters if base.known_manifest else {}
    return stated.get("model") or str((base.path / "config.json").resolve().parent)


if __name__ == "__main__":
    run("tokens", main)
