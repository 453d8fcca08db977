"""Steps 4 and 5: set lambda, and create mixing coefficients.

The routed experts have equal shares, or with --init usage shares by their use in the mixture.
"""

from pathlib import Path

from xft.cli.step import Step, run
from xft.common.devices import claim_gpus
from xft.common.errors import UserError
from xft.config.sections import MixingShape, MixingStart, RunConfig
from xft.config.validation import check_lambda


def main(argv: list[str] | None = None) -> None:
    step = Step("weighted_init", __doc__)
    step.artifact("--moe", "The tuned mixture.")
    step.artifact("--ffn", "The FFN weights of its experts.")
    step.add_argument(
        "--lam", required=True, metavar="X", help="Lambda, the weight of the shared expert, 0 to 1."
    )
    step.artifact("--data", "Tokens from step tokens. Only for --init usage.", required=False)
    step.output("--out", "DIR", "The coefficients.")
    args = step.parse_args(argv)
    run, shape, start = map(step.options, (RunConfig, MixingShape, MixingStart))
    lam = check_lambda(args.lam, shape, "--lam")
    by_usage = start.init == "usage"
    if by_usage != (args.data is not None):
        raise UserError(
            "--data names a folder of tokens, from step tokens, on which init = usage measures the "
            "use of the experts. Give both of them, or neither"
        )

    from xft.conversions import mixing_artifact
    from xft.conversions.merge import initial_logits

    sources = mixing_artifact.open_sources(args.moe, args.ffn, step.full)
    config = {"shared_expert_weight": lam, **shape.model_dump()}
    step.inputs |= sources.artifacts
    shares, known, parameters = None, {}, {}
    if by_usage:
        from xft.data.tokens_artifact import open_tokens

        claim_gpus(run.gpus)
        tokens, inputs = open_tokens(args.data, args.moe, step.full)
        shares = _gate_shares(args.moe, tokens.training, start.init_rows, run.threads)
        known, parameters = start.model_dump(), {"threads": run.threads}
        step.inputs |= inputs
    logits = initial_logits(sources.ffn.checkpoint, **config, shares=shares)
    config |= known
    with step.draft(config | parameters) as draft:
        mixing_artifact.write(draft, logits, config)


def _gate_shares(moe: Path, examples, number: int, threads: int):
    """`evaluation.usage.gate_shares` of a mixture on the first `number` examples."""
    from xft.common.progress import say
    from xft.evaluation.loading import load_model
    from xft.evaluation.usage import gate_shares

    model, _ = load_model(moe, threads)
    rows = [examples[place]["input_ids"] for place in range(min(number, len(examples)))]
    shares = gate_shares(model, rows)
    least, most = shares.min().item(), shares.max().item()
    say(f"shares of {least:.3f} to {most:.3f} by the use of the experts on {len(rows)} rows")
    return shares


if __name__ == "__main__":
    run("weighted_init", main)
