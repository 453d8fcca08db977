"""Step 3: extract the FFN weights of all experts of a tuned mixture.

Of LoRA experts these are the factors. No weight is written: the artifact is an index over hard
links to the mixture's files, and stays whole without the mixture. On another file system the files
are copied.
"""

from xft.artifacts.artifact import write_json
from xft.cli.step import Step, run


def main(argv: list[str] | None = None) -> None:
    step = Step("ffn", __doc__)
    step.artifact("--moe", "The tuned mixture.")
    step.output("--out", "DIR", "The FFN weights.")
    args = step.parse_args(argv)

    from xft.checkpoints.layout import FACTOR_SETTINGS, ffn_names

    moe = step.open("moe", args.moe, "moe", "moe_sft")
    config = moe.checkpoint.config
    names = ffn_names(moe.checkpoint)
    with step.draft() as draft:
        draft.link_tensors(moe, names)
        if config.get("experts") == "lora":
            factors = {key: config[key] for key in FACTOR_SETTINGS}
            write_json(draft.path / "config.json", factors)


if __name__ == "__main__":
    run("ffn", main)
