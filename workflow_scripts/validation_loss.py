"""Measure the loss of a model on the rows that were held out of the training."""

import math
from pathlib import Path

from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running
from xft.common.devices import advice_on_nan, claim_gpus
from xft.common.errors import UserError
from xft.config.sections import RunConfig
from xft.evaluation.loading import artifact_id, load_model, model_origin
from xft.reporting.validation_losses import write_loss

BATCH_ROWS = 8


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("validation_loss", __doc__)
    flags.add_path(parser, "--model", "DIR", "The model folder.")
    flags.add_path(parser, "--data", "DIR", "Tokens with validation rows, from step tokens.")
    flags.add_path(parser, "--out", "FILE", "The loss, JSON.")
    flags.add_options(parser, RunConfig, ["threads", "gpus"])
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    run = flags.options(args, RunConfig, ["threads", "gpus"])
    threads = run.threads
    claim_gpus(run.gpus)
    full = args.verify == "full"
    identity = artifact_id(args.model, full)

    from xft.data.tokens_artifact import open_tokens
    from xft.training.batches import padded
    from xft.training.validation import row_losses

    opened = open_tokens(args.data, args.model, full)
    rows = list(opened.tokens.validation)
    if not rows:
        raise UserError(f"{args.data} holds no validation rows. Set data.validation_rows")
    model, tokenizer = load_model(args.model, threads)
    losses = row_losses(
        model,
        rows,
        padded(tokenizer),
        BATCH_ROWS,
        lambda batch: {key: value.to(model.device) for key, value in batch.items()},
    )
    total, tokens = losses.sum(dim=0).tolist()
    loss = total / tokens
    if not math.isfinite(loss):
        raise UserError(f"{args.model}: the loss is {loss}. Its training diverged{advice_on_nan()}")
    description = {
        "model": {"path": str(args.model), "id": identity},
        "tokens": opened.artifact.id,
        "rows": [
            {"loss": total / tokens, "tokens": int(tokens)} for total, tokens in losses.tolist()
        ],
        "loss": loss,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": threads,
    }
    inputs = {"model": identity, "tokens": opened.artifact.id}
    origins = {"tokens": opened.artifact} | model_origin(Path(args.model))
    recipe = make_recipe("validation_loss", {"threads": threads}, origins)
    write_loss(args.out, description, {"threads": threads}, inputs, recipe)
    print(f"{args.model}: loss {loss:.4f} on {len(rows)} held-out rows")


if __name__ == "__main__":
    running.run("validation_loss", main)
