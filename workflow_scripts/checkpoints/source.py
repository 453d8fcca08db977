"""Where a base model comes from: a local folder, or the hub at a pinned revision."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow_scripts.checkpoints.artifact import COMPANION_PATTERNS, companions
from workflow_scripts.checkpoints.layout import dense_layers
from workflow_scripts.checkpoints.reader import INDEX_FILE, Checkpoint
from workflow_scripts.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def check_source(model: str, revision: str | None) -> None:
    """Raise UserError unless `model` is a folder, or a hub id with a revision."""
    if Path(model).is_dir():
        return
    if not HUB_ID.fullmatch(model):
        raise UserError(f"base.model: there is no folder {model}")
    if revision is None:
        raise UserError(
            f"base.model: there is no folder {model}. If it is a model on the hub, pin it: "
            "base.revision must be a commit hash of 40 hexadecimal digits"
        )


def find_model(model: str, revision: str | None) -> Path:
    """The folder of a local model, or of a hub model after fetching it. Raises UserError.

    What is in the hub's cache already is not fetched again.
    """
    check_source(model, revision)
    if Path(model).is_dir():
        return Path(model)

    from huggingface_hub import snapshot_download

    patterns = ["config.json", "*.safetensors", INDEX_FILE, *COMPANION_PATTERNS]
    with _hub_errors(f"{model} at {revision}"):
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))


def find_config(model: str, revision: str | None) -> Path:
    """The config.json of a local model, or of a hub model, of which nothing else is fetched.

    Raises UserError.
    """
    check_source(model, revision)
    if Path(model).is_dir():
        return Path(model) / "config.json"

    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # or each of its retries is a warning
    with _hub_errors(f"the config.json of {model} at {revision}"):
        return Path(hf_hub_download(model, "config.json", revision=revision))


def fetch_dataset_file(source: str, revision: str | None) -> Path:
    """A file org/name/path of a data set on the hub, in the hub's cache. Raises UserError."""
    from huggingface_hub import hf_hub_download

    organisation, name, file = check_dataset_source(source, revision)
    with _hub_errors(f"{source} at {revision}"):
        return Path(
            hf_hub_download(f"{organisation}/{name}", file, repo_type="dataset", revision=revision)
        )


def find_cached_dataset_file(source: str, revision: str | None) -> Path | None:
    """A file org/name/path of a data set on the hub, if the hub's cache holds it."""
    from huggingface_hub import try_to_load_from_cache

    organisation, name, file = check_dataset_source(source, revision)
    found = try_to_load_from_cache(
        f"{organisation}/{name}", file, repo_type="dataset", revision=revision
    )
    return Path(found) if isinstance(found, str) else None


def check_dataset_source(source: str, revision: str | None) -> list[str]:
    """Organisation, name and path of a file on the hub. Raises UserError if a part is missing."""
    parts = source.split("/", maxsplit=2)
    if len(parts) < 3 or not all(parts) or revision is None:
        raise UserError(
            f"data.train = {source}: a file on the hub is named organisation/name/file and pinned "
            "by data.revision"
        )
    return parts


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn the hub's errors into a UserError with their first line."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{what} could not be fetched: {lines[0]}") from None


def check_model(folder: Path) -> list[Path]:
    """The files that make up a dense model that can be upcycled. Raises UserError."""
    checkpoint = Checkpoint(folder)
    if checkpoint.config.get("quantization_config"):
        raise UserError(f"{folder} is quantised; take the unquantised model")
    dense_layers(checkpoint.names, checkpoint.config)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)})")
    weights = [folder / name for name in checkpoint.files]
    index = [folder / INDEX_FILE] if (folder / INDEX_FILE).exists() else []
    return [folder / "config.json", *index, *weights, *companions(folder)]
