"""Step 3: extract the FFN weights of all experts of a tuned mixture.

Of low-rank experts these are the factors. The base's MLP stays in the mixture alone.
"""

from xft.artifacts.artifact import create_artifact, open_artifact, write_json
from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("ffn", __doc__)
    flags.add_path(parser, "--moe", "DIR", "The tuned mixture.")
    flags.add_path(parser, "--out", "DIR", "The FFN weights.")
    flags.add_verify(parser)
    args = parser.parse_args(argv)

    from xft.conversions.extract import extract_ffn, factor_config

    moe = open_artifact(args.moe, "moe", "moe_sft", full=args.verify == "full")
    plans = extract_ffn(moe.checkpoint)
    config = factor_config(moe.checkpoint.config)
    recipe = make_recipe("ffn", {}, {"moe": moe})
    with create_artifact(args.out, "ffn", inputs={"moe": moe.id}, recipe=recipe) as draft:
        draft.write_tensors(plans)
        if config is not None:
            write_json(draft.path / "config.json", config)


if __name__ == "__main__":
    running.run("ffn", main)
