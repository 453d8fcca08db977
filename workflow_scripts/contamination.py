"""Count the rows of a training that contain a problem of an evaluation set.

The rows are those of the tokens, without the ones that were left out or held out.
"""

from xft.artifacts.manifest import CONTAMINATION
from xft.cli.step import Step, run
from xft.common.progress import say


def main(argv: list[str] | None = None) -> None:
    step = Step("contamination", __doc__)
    step.artifact("--tokens", "The tokens of the training, from step tokens.")
    step.path("--data", "FILE", "The rows that the tokens were made from.", nargs="+")
    step.dataset()
    step.output("--out", "FILE", "The count, JSON.")
    args = step.parse_args(argv)
    tokens = step.open("tokens", args.tokens, "tokens")

    from xft.data.preparation import contaminated
    from xft.data.tokenized_rows import read_training_rows
    from xft.data.unwanted_rows import Detector
    from xft.evaluation.references import load_references

    rows = read_training_rows(args.data, tokens)
    fingerprints, hashes = load_references([args.dataset])
    (sha256,) = hashes.values()
    step.inputs |= {"data": tokens.manifest.inputs["data"], "dataset": sha256}
    count = sum(1 for _ in contaminated(Detector(fingerprints).find, rows))
    content = {"rows": len(rows), "contaminated": count, "problems": sha256}
    CONTAMINATION.write(args.out, content, inputs=step.ids)
    say(f"{count:,} of {len(rows):,} rows contain a problem of {args.dataset}")


if __name__ == "__main__":
    run("contamination", main)
