"""Step 0: check a dense model and make it an artifact.

A local folder is linked, not copied. A model on the hub is fetched at a pinned revision into the
hub's own cache, and linked from there.
"""

import os
import re
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.checkpoints.artifact import companions, create_artifact
from workflow_scripts.checkpoints.layout import dense_layers
from workflow_scripts.checkpoints.manifest import hash_file
from workflow_scripts.checkpoints.reader import INDEX_FILE, Checkpoint
from workflow_scripts.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("base", __doc__)
    parser.add_argument(
        "--model", required=True, metavar="DIR_OR_ID", help="A model folder, or a model on the hub."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="The artifact.")
    cli.add_options(parser, "base", ["revision"])
    args = parser.parse_args(argv)
    revision = cli.options(args, "base", ["revision"])["revision"]

    source = find_model(args.model, revision)
    files = check_model(source)
    parameters = {"revision": revision} if revision else {}
    with create_artifact(args.out, "base", parameters) as draft:
        for file in files:
            draft.known_files[file.name] = describe(file)
            (draft.path / file.name).symlink_to(link_target(file, args.out))


def find_model(model: str, revision: str | None) -> Path:
    """The folder of a local model, or of a hub model after fetching it. Raises UserError."""
    if Path(model).is_dir():
        return Path(model)
    if not HUB_ID.fullmatch(model) or model.startswith("."):
        raise UserError(f"base.model: there is no folder {model}")
    if revision is None:
        raise UserError(
            f"base.model: there is no folder {model}. If it is a model on the hub, pin it: "
            "base.revision must be a commit hash of 40 hexadecimal digits"
        )
    return fetch(model, revision)


def fetch(model: str, revision: str) -> Path:
    """Fetch a hub model's weights and companions; what is in the hub's cache is not fetched again."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from workflow_scripts.checkpoints.artifact import COMPANION_PATTERNS

    patterns = ["config.json", "*.safetensors", INDEX_FILE, *COMPANION_PATTERNS]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{model} at {revision} could not be fetched: {reason}") from None


def check_model(folder: Path) -> list[Path]:
    """The files that make up a dense model that can be upcycled. Raises UserError."""
    checkpoint = Checkpoint(folder)
    if "quantization_config" in checkpoint.config:
        raise UserError(f"{folder} is quantised; take the unquantised model")
    dense_layers(checkpoint.names, checkpoint.config)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)})")
    weights = [folder / name for name in checkpoint.files]
    index = [folder / INDEX_FILE] if (folder / INDEX_FILE).exists() else []
    return [folder / "config.json", *index, *weights, *companions(folder)]


def describe(file: Path) -> dict:
    return {"size": file.stat().st_size, "sha256": hash_file(file)}


def link_target(file: Path, out: Path) -> Path:
    """Where `out/<name>` shall point: relative within the working directory, else absolute.

    Relative links survive moving the project with its model, absolute ones moving the results.
    """
    here = Path.cwd()
    file = file.absolute()
    if file.is_relative_to(here) and out.absolute().is_relative_to(here):
        return Path(os.path.relpath(file, out.absolute()))
    return file.resolve()


if __name__ == "__main__":
    cli.run("base", main)
