"""Finds models and rows: local ones, or those of the hub at a pinned revision.

huggingface_hub fetches files into its own cache. Files there are not fetched again. If all are
there, the network is not used.
"""

import glob
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xft.artifacts.artifact import COMPANION_PATTERNS, check_artifact, companions
from xft.checkpoints.layout import dense_layers
from xft.checkpoints.model_files import INDEX_FILE, SINGLE_FILE, check_vocabulary, weight_files
from xft.checkpoints.reader import CheckpointHeaders
from xft.common.errors import UserError
from xft.config.sections import MODEL_KINDS

OFFLINE = "Without a network see docs/hub.md, section Offline machines"
ACCESS = f"A private or gated repository needs HF_TOKEN. {OFFLINE}"
ADVICE = f"Whole files are kept: run again to go on. {ACCESS}"


def fetch_files(
    repository: str, revision: str, patterns: Iterable[str], kind: str = "model"
) -> Path:
    """Fetch the files of a commit that fit a pattern. Returns its folder in the hub's cache.

    Raises UserError if it fails.

    kind: model or dataset.
    """
    from huggingface_hub import snapshot_download

    options = {"repo_type": kind, "revision": revision, "allow_patterns": list(patterns)}
    with hub_errors(f"{repository} at {revision} could not be fetched", ADVICE):
        return Path(snapshot_download(repository, **options))


def fetch_file(repository: str, revision: str, name: str, kind: str = "model") -> Path:
    """A file of a commit, in the hub's cache. Raises UserError as `fetch_files` does."""
    from huggingface_hub import hf_hub_download

    with hub_errors(f"{repository}/{name} at {revision} could not be fetched", ADVICE):
        return Path(hf_hub_download(repository, name, repo_type=kind, revision=revision))


def ask_for_file(repository: str, revision: str, name: str, kind: str = "model") -> None:
    """Raise UserError unless the hub has a file now. It is not fetched."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with hub_errors(f"{repository}/{name} at {revision} could not be fetched", ACCESS):
        get_hf_file_metadata(hf_hub_url(repository, name, repo_type=kind, revision=revision))


def cached_rows(repository: str, revision: str, name: str) -> Path | None:
    """A file of a data set's commit, if the hub's cache holds it."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repository, name, repo_type="dataset", revision=revision)
    return Path(file) if isinstance(file, str) else None


@contextmanager
def hub_errors(failure: str, advice: str) -> Iterator[None]:
    """Turn huggingface_hub's errors into a UserError: `failure`, its own words, and `advice`."""
    from httpx2 import HTTPError  # of huggingface_hub's HTTP client
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    # Failed transfers of large files raise RuntimeError.
    except (HTTPError, EntryNotFoundError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{failure}: {reason}. {advice}") from None


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
# Formats of row files in data sets on the hub, packed or not, and the card that describes them.
ROW_FORMATS = ("json", "jsonl", "ndjson", "csv", "tsv", "parquet", "arrow", "txt")
PACKINGS = ("", ".gz", ".zst", ".bz2", ".xz")
ROW_PATTERNS = ["README.md", *(f"*.{name}{end}" for name in ROW_FORMATS for end in PACKINGS)]
# Paths that lead out of a data set: absolute ones, those through .., URLs.
ELSEWHERE = re.compile(r"^[/\\~]|(^|[/\\])\.\.($|[/\\])|://|::")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def check_source(model: str, revision: str | None) -> None:
    """Raise UserError unless `model` is a folder, or a hub id with a revision.

    A folder has no revision.
    """
    if Path(model).is_dir():
        if revision is not None:
            raise UserError(
                f"base.revision: {model} is a folder here, and a folder has no revisions: "
                "base.revision: null. Or rename the folder to use the model on the hub"
            )
    elif Path(model).exists():
        raise UserError(
            f"base.model: {model} is a file. Name the folder that holds config.json, the weights "
            "and the tokenizer"
        )
    elif revision is None or not HUB_ID.fullmatch(model):
        raise UserError(
            f"base.model: there is no folder {model}. A model on the hub is named "
            "organisation/name, such as openai-community/gpt2, and pinned by base.revision, a "
            "commit hash of 40 hexadecimal digits"
        )


def find_model(model: str, revision: str | None) -> Path:
    """The folder of a local model, or of a hub model, which is fetched. Raises UserError.

    Files in the hub's cache are not fetched again.
    """
    check_source(model, revision)
    if Path(model).is_dir():
        return Path(model)

    chosen = ["config.json", INDEX_FILE, "README.md", *COMPANION_PATTERNS]
    folder = fetch_files(model, revision, chosen)
    weights = weight_files(folder)
    fetch_files(model, revision, map(glob.escape, weights))
    if weights == [SINGLE_FILE] and not (folder / SINGLE_FILE).exists():
        raise UserError(
            f"{model} at {revision} has no {SINGLE_FILE} and no {INDEX_FILE}: only safetensors are "
            "read. Other weights are pickles, and loading a pickle may run any program that its "
            "author put in it. Use a revision with safetensors: the hub's converter "
            "(huggingface.co/spaces/safetensors/convert) opens a pull request with one. Or convert "
            "the model yourself as docs/hub.md says, and name the folder as base.model"
        )
    return folder


def find_config(model: str, revision: str | None) -> Path:
    """The config.json of a local or a hub model. Nothing else is fetched. Raises UserError."""
    check_source(model, revision)
    if Path(model).is_dir():
        return Path(model) / "config.json"

    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # or each of its retries is a warning
    return fetch_file(model, revision, "config.json")


def find_local(model: str, revision: str | None, patterns: Iterable[str]) -> Path | None:
    """The folder of a local model, or of a hub model if its files that fit are all in the cache.

    None if a file is missing there, or if no file is known. Nothing is fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = list(patterns)
    folder = Path(model)
    if not folder.is_dir():
        options = {"allow_patterns": patterns, "local_files_only": True}
        try:
            folder = Path(snapshot_download(model, revision=revision, **options))
        except LocalEntryNotFoundError:
            return None
    if any(path.is_file() for pattern in patterns for path in folder.glob(pattern)):
        return folder
    return None


@dataclass(frozen=True)
class DatasetSource:
    """A data set on the hub, or one of its files.

    repository: organisation/name.
    """

    repository: str
    file: str | None
    revision: str

    @property
    def file_name(self) -> str:
        """The local name of its rows: the file's name, or the data set's name as Parquet."""
        return Path(self.file).name if self.file else f"{Path(self.repository).name}.parquet"

    def __str__(self) -> str:
        place = f"{self.repository}/{self.file}" if self.file else self.repository
        return f"{place} at {self.revision}"


def dataset_source(source: str | list[str], revision: str | None) -> DatasetSource:
    """The data set or file that organisation/name or organisation/name/file names.

    Raises UserError if `source` has another form, or is not pinned.
    """
    parts = source.split("/", 2) if isinstance(source, str) else []
    if len(parts) < 2 or not all(parts) or revision is None:
        raise UserError(
            f"data.train = {source}: a data set on the hub is named organisation/name, and one of "
            "its files organisation/name/file. Set data.revision to the hash of a commit. Files "
            "on this machine have none: data.revision: null"
        )
    repository = "/".join(parts[:2])
    file = parts[2] if len(parts) > 2 else None
    return DatasetSource(repository, file, revision)


def fetch_dataset(source: DatasetSource, split: str, out: Path) -> None:
    """Write a split of a data set as Parquet, as `datasets` reads it. Raises UserError.

    The files are first fetched into the hub's cache. With only the data set's name, `datasets` may
    use a local folder of that name or, without a network, another revision.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    folder = fetch_files(source.repository, source.revision, ROW_PATTERNS, "dataset")
    _check_card(source, folder / "README.md")
    with tempfile.TemporaryDirectory(dir=out.parent) as cache:
        try:
            rows = load_dataset(str(folder), split=split, cache_dir=cache)
            rows.to_parquet(out)
        except (DatasetsError, ValueError, OSError) as error:
            raise UserError(f"{source}, split {split}, cannot be read: {error}") from None


def _check_card(source: DatasetSource, card: Path) -> None:
    """Raise UserError if a data set's card names files outside the data set."""
    import yaml
    from huggingface_hub import DatasetCard

    if not card.is_file():
        return
    try:
        metadata = DatasetCard.load(card).data.to_dict()
        texts = list(_texts_of(metadata.get("configs")))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: its README.md cannot be read: {reason}") from None
    for text in texts:
        if ELSEWHERE.search(text):
            raise UserError(
                f"{source}: its README.md names {text!r} as rows, which is not in the data set. "
                "Name one of its files: organisation/name/file"
            )


def _texts_of(value: object) -> Iterator[str]:
    """The texts in nested lists and objects, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_of(item)


def check_model(folder: Path, is_base: bool = True) -> list[Path]:
    """The files of a model. Raises UserError if they are not sound, or if some are missing.

    is_base: it is also checked whether the model can be upcycled.
    """
    check_artifact(folder, *MODEL_KINDS)
    checkpoint = CheckpointHeaders(folder)
    if checkpoint.config.get("quantization_config"):
        raise UserError(f"{folder} is quantised. Use the unquantised model")
    for name in checkpoint.names:
        if name.endswith("weight") and not checkpoint.is_float(name):  # masks may be integers
            raise UserError(
                f"{folder}: {name} is {checkpoint.dtype(name)}: the model is quantised. Use the "
                "unquantised model"
            )
    if "auto_map" in checkpoint.config:
        _check_known(folder, checkpoint.config)
    if is_base:
        dense_layers(checkpoint.names, checkpoint.config)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)})")
    check_vocabulary(folder)
    files = [folder / "config.json"]
    if (folder / INDEX_FILE).exists():
        files.append(folder / INDEX_FILE)
    files += [folder / name for name in checkpoint.files]
    return files + companions(folder)


def _check_known(folder: Path, config: dict) -> None:
    """Raise UserError if only code in the model's own folder can load it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"{folder} needs its own Python code (auto_map in its config.json), which this project "
            f"never runs. transformers itself does not know model_type "
            f"{config.get('model_type')!r}: use a model of a type that it knows"
        )
