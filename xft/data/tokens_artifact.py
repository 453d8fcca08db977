"""Writes tokenised rows as an artifact, and opens it for trainings through memory maps."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from xft.artifacts.artifact import OpenedArtifact, create_artifact, open_artifact
from xft.artifacts.manifest import hash_file, joint_sha256, manifest_path, read_manifest
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.config.section import keys
from xft.config.sections import TokensConfig
from xft.data.conversations import Conversation
from xft.data.disk_array import blocks
from xft.data.examples import Tokens
from xft.data.row_files import StoredRows, named, read_files
from xft.data.tokenizers import tokenizer_identity

KIND = "tokens"
# The tensors of an artifact, as in `Tokens`, and their dtypes.
DTYPES = {"input_ids": "I32", "trained": "U8", "offsets": "I64", "numbers": "I64", "held_out": "U8"}


def write_tokens(
    out: Path, tokens: Tokens, options: TokensConfig, model: Path, data_hash: str, datasets: dict
) -> None:
    """Write tokens as an artifact.

    options: as for `preparation.prepare`.
    model: the tokenizer's folder.
    data_hash: the hash of the files of rows.
    datasets: what `datasets_of` gives for these files.
    """
    import torch

    plans = [
        TensorSpec(name, dtype, (len(array),), partial(map, torch.from_numpy, blocks(array)))
        for name, dtype in DTYPES.items()
        for array in [getattr(tokens, name)]
    ]
    parameters = options.model_dump() | {"tokenizer": tokenizer_identity(model)} | datasets
    with create_artifact(out, KIND, parameters, {"data": data_hash}) as draft:
        draft.write_tensors(plans)


def datasets_of(data: Iterable[Path]) -> dict[str, list[str]]:
    """The data sets on the hub that rows or tokens come from, by their manifests: datasets.

    It is empty for rows from elsewhere.
    """
    places = filter(Path.is_file, map(manifest_path, data))
    found = {name for p in places for name in read_manifest(p).parameters.get("datasets", ())}
    return {"datasets": sorted(found)} if found else {}


def open_tokens(path: Path, model: Path, full: bool = False) -> tuple[Tokens, dict[str, str]]:
    """Open tokens to train a model: memory-mapped, and the inputs of a training on them.

    The inputs are the artifact and the file of rows. Raises UserError if the model has another
    tokenizer.
    """
    artifact = _open(path, full)
    made_with, given = artifact.manifest.parameters["tokenizer"], tokenizer_identity(model)
    names = sorted(made_with | given)
    if different := [name for name in names if made_with.get(name) != given.get(name)]:
        raise UserError(
            f"{path} was made with another tokenizer than that of {model}: {', '.join(different)} "
            f"differs. Give {model} the tokenizer that it was tuned with. If that is its own one, "
            f"make new tokens: python -m workflow_scripts.tokens --model {model} --data ROWS --out "
            "DIR, with the file of the rows and a new folder"
        )
    checkpoint = artifact.checkpoint
    tokens = Tokens(**{name: checkpoint.get(name).numpy() for name in DTYPES})
    return tokens, {"tokens": artifact.id, "data": artifact.manifest.inputs["data"]}


def read_options(path: Path) -> TokensConfig:
    """The options that tokens were made with. Raises UserError if `path` holds no tokens."""
    parameters = _open(path).manifest.parameters
    return TokensConfig.model_construct(**{name: parameters[name] for name in keys(TokensConfig)})


def _open(path: Path, full: bool = False) -> OpenedArtifact:
    artifact = open_artifact(path, KIND, full=full)
    if artifact.known_manifest is None:
        raise UserError(
            f"{path} is a folder without a manifest. Name tokens that python -m "
            "workflow_scripts.tokens made"
        )
    return artifact


def read_training_rows(files: Sequence[Path], tokens: OpenedArtifact) -> StoredRows:
    """The rows that a training on these tokens learns from, without those that are held out.

    Raises UserError if they are others.

    files: that the tokens were made from, in order.
    """
    options, checkpoint = read_options(tokens.path), tokens.checkpoint
    if joint_sha256([*map(hash_file, files)]) != tokens.manifest.inputs["data"]:
        raise UserError(
            f"{tokens.path} was not made from {named(files)}. Name the files of its rows"
        )
    numbers = {*checkpoint.get("numbers")[checkpoint.get("held_out") == 0].tolist()}

    def accept(conversation: Conversation) -> Conversation | str:
        return conversation if conversation.number in numbers else "not learned from"

    rows, _ = read_files(files, options, accept)
    return rows.select(numbers.__contains__)
