"""Step 0: check a dense model and make it an artifact.

The artifact holds links to the model's files. A model on the hub is first fetched at a pinned
revision into the hub's own cache.

With --tuned-from the model is a mixture, or a dense model, that another trainer made of that base.
It is compared with the base, and takes the place of the artifact moe_sft or sft.
"""

from pathlib import Path

from xft.artifacts.artifact import create_artifact, link_outside
from xft.artifacts.manifest import hash_files
from xft.checkpoints.model_files import fact_of_card
from xft.cli.step import Step, run
from xft.config.sections import BaseConfig
from xft.hub.source import check_model, find_model


def main(argv: list[str] | None = None) -> None:
    step = Step("base", __doc__)
    step.output("--out", "DIR", "The artifact.")
    step.artifact("--tuned-from", "The base of a tuned model.", required=False)
    args = step.parse_args(argv)
    base = step.options(BaseConfig)

    source = find_model(base.model, base.revision)
    files = check_model(source, is_base=not args.tuned_from)
    parameters = {} if Path(base.model).is_dir() else base.model_dump()  # of a model on the hub
    kind = "base"
    if args.tuned_from:
        from xft.modeling.other_trainers import kind_of_tuned
        from xft.reporting.cards import origin

        untuned = step.open("base", args.tuned_from, "base", "dense")
        kind = kind_of_tuned(source, untuned.checkpoint)
        parameters |= {"base": origin(untuned)}
    elif known := fact_of_card(source, "license"):
        parameters |= {"license": known}
    with create_artifact(args.out, kind, parameters, step.ids) as draft:
        names = {file.relative_to(source).as_posix(): file for file in files}
        draft.known_files = hash_files(names)
        link_files(names, draft.path, args.out)


def link_files(files: dict[str, Path], folder: Path, out: Path) -> None:
    """Fill `folder`, which will later be moved to `out`, with links to files, by name."""
    for name, file in files.items():
        link = folder / name
        link.parent.mkdir(exist_ok=True)
        link_outside(link, file, (out / name).parent)


if __name__ == "__main__":
    run("base", main)
