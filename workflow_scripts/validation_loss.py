"""Measure the loss of a model on the rows that were held out of the training."""

import math

from xft.cli.step import Step, run
from xft.common.devices import advice_on_nan, claim_gpus
from xft.common.errors import UserError, counted
from xft.common.progress import say
from xft.config.sections import RunConfig
from xft.evaluation.loading import artifact_id, computed_on, load_model
from xft.reporting.validation_losses import LOSS

BATCH_ROWS = 8


def main(argv: list[str] | None = None) -> None:
    step = Step("validation_loss", __doc__)
    step.artifact("--model", "The model folder.")
    step.artifact("--data", "Tokens with validation rows, from step tokens.")
    step.output("--out", "FILE", "The loss, JSON.")
    args = step.parse_args(argv)
    run = step.options(RunConfig)
    claim_gpus(run.gpus)
    identity = artifact_id(args.model, step.full)

    from xft.data.tokens_artifact import open_tokens
    from xft.training.batches import padded
    from xft.training.validation import row_losses

    held, inputs = open_tokens(args.data, args.model, step.full)
    rows = list(held.validation)
    if not rows:
        raise UserError(f"{args.data} holds no validation rows. Set data.validation_rows")
    model, tokenizer = load_model(args.model, run.threads)
    collate = padded(tokenizer)
    losses = row_losses(model, rows, lambda some: collate(some).to(model.device), BATCH_ROWS)
    total, tokens = losses.sum(dim=0).tolist()
    loss = total / tokens
    if not math.isfinite(loss):
        raise UserError(f"{args.model}: the loss is {loss}. Its training diverged{advice_on_nan()}")
    description = {
        "model": {"path": str(args.model), "id": identity},
        "tokens": inputs["tokens"],
        "rows": [
            {"loss": total / tokens, "tokens": int(tokens)} for total, tokens in losses.tolist()
        ],
        "loss": loss,
        "threads": run.threads,
        **computed_on(model),
    }
    ids = {"model": identity, "tokens": inputs["tokens"]}
    LOSS.write(args.out, description, parameters={"threads": run.threads}, inputs=ids)
    say(f"loss {loss:.4f} on {counted(len(rows), 'validation row')}")


if __name__ == "__main__":
    run("validation_loss", main)
