"""Convert an MoE checkpoint of the published XFT code to this project's format."""

import sys
from concurrent.futures import ThreadPoolExecutor

from xft.artifacts.artifact import create_artifact, open_artifact
from xft.cli import flags


def main(argv: list[str] | None = None) -> None:
    parser = flags.StepParser("xft import-reference", __doc__)
    parser.artifact("--model", "The published checkpoint.")
    parser.output("--out", "DIR", "The imported model.")
    args = parser.parse_args(argv)

    from xft.conversions import reference
    from xft.reporting.cards import imported_card

    published = open_artifact(args.model, full=args.verify == "full")
    checkpoint = published.checkpoint
    settings = reference.reference_settings(checkpoint.config)
    stated_theta = checkpoint.config.get("rope_theta", reference.PUBLISHED_ROPE_THETA)
    if stated_theta != reference.PUBLISHED_ROPE_THETA:
        print(
            f"import-reference: the config says rope_theta = {stated_theta}, but the published "
            f"code computes with {reference.PUBLISHED_ROPE_THETA}. So does the imported model",
            file=sys.stderr,
        )
    plans = reference.import_reference(checkpoint, settings)
    config = reference.imported_config(checkpoint, settings)
    inputs = {}
    with (
        ThreadPoolExecutor(max_workers=1) as beside,
        create_artifact(args.out, "moe_sft", settings.model_dump(), inputs) as draft,
    ):
        published_id = beside.submit(lambda: published.id)  # reads the same files at the same time
        draft.write_model(plans, config, like=published.path, card=imported_card(config))
        inputs["published"] = published_id.result()
