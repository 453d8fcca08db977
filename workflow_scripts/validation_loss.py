"""Measure the loss of a model on the rows that were held out of the training.

The model's training may have measured it already (--losses): then no model is loaded. With --rows
choice it is the loss on data.choice_rows. If that is not a number, as of a training that diverged,
the file says so, and step choose leaves the model out.
"""

import math
from pathlib import Path

from xft.artifacts.artifact import OpenedArtifact
from xft.artifacts.manifest import LOSS_RESULT, SAFETENSORS, hash_file
from xft.cli.step import Step, run
from xft.common.errors import UserError, counted
from xft.common.gpus import advice_on_nan, claim_gpus
from xft.common.json_files import read_json, read_json_objects
from xft.common.progress import say
from xft.config.sections import MODEL_KINDS, RunConfig
from xft.evaluation.model_loading import load_model
from xft.training.at_end import change_at_end

SPLITS = ("validation", "choice")  # of `Tokens`
DIVERGED = {"loss": None, "rows": []}  # in place of numbers that JSON does not know


def main(argv: list[str] | None = None) -> None:
    step = _declare()
    args = step.parse_args(argv)
    run = step.options(RunConfig)
    claim_gpus(run.gpus)
    model = step.open("model", args.model, *MODEL_KINDS)
    tokens = step.open("tokens", args.data, "tokens")
    given = {"tokens": tokens.id, "threads": run.threads}
    losses = _measured(args.losses, model, given)
    if losses is None:
        losses = _measure(model, tokens, run.threads, args.rows)
    loss = losses["loss"]
    if not math.isfinite(loss):
        if args.rows == "validation":
            raise UserError(
                f"{args.model}: the loss is {loss}. Its training diverged{advice_on_nan()}"
            )
        losses = losses | DIVERGED
    model_id = None if model.known_manifest is None else model.id
    description = {"model": {"path": str(args.model), "id": model_id}, **given, **losses}
    ids = {"model": model_id, "tokens": tokens.id}
    if args.metrics and args.metrics.is_file():
        metrics = list(read_json_objects(args.metrics, "metrics"))
        description["change_at_end"] = change_at_end(metrics)
        ids["metrics"] = hash_file(args.metrics)
    LOSS_RESULT.write(args.out, description, parameters={"threads": run.threads}, inputs=ids)
    say(f"loss {loss:.4f} on {counted(len(losses['rows']), f'{args.rows} row')}")


def _declare() -> Step:
    """The step with its flags."""
    step = Step("validation_loss", __doc__)
    step.artifact("--model", "The model folder.")
    step.artifact("--data", "Tokens with validation rows, from step tokens.")
    step.path("--losses", "FILE", "What the model's training measured, if it is there.", False)
    step.path("--metrics", "FILE", "The metrics of the training that it comes from.", False)
    step.add_argument(
        "--rows",
        choices=SPLITS,
        default="validation",
        help="The rows: data.validation_rows or data.choice_rows. Default: validation.",
    )
    step.output("--out", "FILE", "The loss, JSON.")
    return step


def _measured(file: Path | None, model: OpenedArtifact, given: dict) -> dict | None:
    """The losses that a training measured, if it was this model's, and all else is the same."""
    if file is None or not file.is_file():
        return None
    measured = read_json(file)
    files = model.manifest.files
    weights = {name: files[name]["sha256"] for name in files if name.endswith(SAFETENSORS)}
    if measured.get("of") != given | {"weights": weights}:
        return None
    return measured["losses"]


def _measure(model: OpenedArtifact, tokens: OpenedArtifact, threads: int, split: str) -> dict:
    """The losses of rows, measured now. split: of `SPLITS`. Raises UserError without such rows."""
    from xft.data.tokenized_rows import open_tokens
    from xft.training.losses import LabelledLoss, row_losses

    opened, _ = open_tokens(tokens.path, model.path)
    rows = list(opened.validation if split == "validation" else opened.choice)
    if not rows:
        raise UserError(f"{tokens.path} holds no {split} rows. Set data.{split}_rows")
    loaded, tokenizer = load_model(model.path, threads)
    return row_losses(loaded, LabelledLoss(loaded), rows, tokenizer)


if __name__ == "__main__":
    run("validation_loss", main)
