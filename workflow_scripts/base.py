"""Step 0: check a dense model and make it an artifact.

A local folder is linked, not copied. A model on the hub is fetched at a pinned revision into the
hub's own cache, and linked from there.
"""

import os
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.checkpoints.artifact import create_artifact
from workflow_scripts.checkpoints.manifest import hash_files
from workflow_scripts.checkpoints.source import check_model, find_model


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("base", __doc__)
    parser.add_argument(
        "--model", required=True, metavar="DIR_OR_ID", help="A model folder, or a model on the hub."
    )
    cli.add_path(parser, "--out", "DIR", "The artifact.")
    cli.add_options(parser, "base", ["revision"])
    args = parser.parse_args(argv)
    revision = cli.options(args, "base", ["revision"])["revision"]

    source = find_model(args.model, revision)
    files = check_model(source)
    on_hub = not Path(args.model).is_dir()
    parameters = {"model": args.model, "revision": revision} if on_hub else {}
    with create_artifact(args.out, "base", parameters) as draft:
        names = {file.relative_to(source).as_posix(): file for file in files}
        draft.known_files = hash_files(names)
        for name, file in names.items():
            link = draft.path / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(link_target(file, args.out.parent.resolve() / args.out.name / name))


def link_target(file: Path, link: Path) -> Path:
    """Where `link` shall point: relative within the working directory, else absolute.

    Relative links survive moving the project with its model, absolute ones moving the results.
    """
    here = Path.cwd()
    file, folder = file.resolve(), link.parent
    if file.is_relative_to(here) and folder.is_relative_to(here):
        return Path(os.path.relpath(file, folder))
    return file


if __name__ == "__main__":
    cli.run("base", main)
