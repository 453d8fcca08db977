"""Step 3: extract the FFN weights of all experts of a tuned mixture.

Of low-rank experts these are the factors. The base's MLP stays in the mixture alone.
"""

from xft.artifacts.artifact import write_json
from xft.cli import running
from xft.cli.step import Step


def main(argv: list[str] | None = None) -> None:
    step = Step("ffn", __doc__)
    step.artifact("--moe", "The tuned mixture.")
    step.path("--out", "DIR", "The FFN weights.")
    args = step.parse_args(argv)

    from xft.conversions.extract import extract_ffn, factor_config

    moe = step.open("moe", args.moe, "moe", "moe_sft")
    plans = extract_ffn(moe.checkpoint)
    config = factor_config(moe.checkpoint.config)
    with step.draft() as draft:
        draft.write_tensors(plans)
        if config is not None:
            write_json(draft.path / "config.json", config)


if __name__ == "__main__":
    running.run("ffn", main)
