"""Turns rows into tokens, keeps them as an artifact, and gives them to trainings as examples.

A training opens the artifact through memory maps.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from xft.artifacts.artifact import OpenedArtifact, create_artifact, open_artifact
from xft.artifacts.manifest import hash_file, joint_sha256, manifest_path, read_manifest
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.common.progress import progress
from xft.config.section import keys
from xft.config.sections import TokensConfig
from xft.data.instruction_rows import AnyRow, Conversation
from xft.data.prompt_templates import Encoded, Template, encode_literally
from xft.data.row_files import DiskArray, StoredRows, blocks, named, read_files
from xft.data.tokenizers import tokenizer_identity

IGNORED = -100
BATCH_ROWS = 1000
BATCH_CHARACTERS = 1_000_000  # a tokenizer takes 300 bytes of memory for each
KIND = "tokens"
VALIDATION, CHOICE = 1, 2  # values of `held_out`
# The tensors of an artifact, as in `Tokens`, and their dtypes.
DTYPES = {"input_ids": "I32", "trained": "U8", "offsets": "I64", "numbers": "I64", "held_out": "U8"}


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows, one after the other: prompt, response, EOS; or the turns of a conversation.

    input_ids: int32 [tokens].
    trained: uint8 [tokens], 1 for the tokens of responses, which have a loss.
    offsets: int64 [rows + 1]; row i is input_ids[offsets[i] : offsets[i + 1]].
    numbers: int64 [rows], the rows' numbers in their file.
    held_out: uint8 [rows], VALIDATION or CHOICE for a row that is held out, 0 for the others.
    """

    input_ids: np.ndarray | DiskArray
    trained: np.ndarray | DiskArray
    offsets: np.ndarray
    numbers: np.ndarray
    held_out: np.ndarray

    @property
    def training(self) -> "RowSubset":
        return RowSubset(self, np.flatnonzero(self.held_out == 0))

    @property
    def validation(self) -> "RowSubset":
        return RowSubset(self, np.flatnonzero(self.held_out == VALIDATION))

    @property
    def choice(self) -> "RowSubset":
        """The rows by which settings are chosen."""
        return RowSubset(self, np.flatnonzero(self.held_out == CHOICE))


class RowSubset(Sequence):
    """Some rows of `tokens` as a torch dataset. Each item is {"input_ids", "labels", "row"}.

    labels: the ids of responses, and IGNORED for all others.
    row: the row's number in its file.
    """

    def __init__(self, tokens: Tokens, places: np.ndarray):
        self.tokens = tokens
        self.places = places

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        return np.diff(self.tokens.offsets)[self.places].tolist()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        tokens = self.tokens
        place = self.places[index]
        begin, end = tokens.offsets[place : place + 2]
        ids = tokens.input_ids[begin:end]
        labels = np.where(tokens.trained[begin:end], ids, IGNORED)
        row = int(tokens.numbers[place])
        return {"input_ids": ids.tolist(), "labels": labels.tolist(), "row": row}


def tokenize_rows(
    rows: Sequence[AnyRow], tokenizer, template: Template, max_length: int
) -> tuple[Tokens, int]:
    """The tokens of all rows, in temporary files, and how many rows were cut.

    The names of special tokens in a row are plain text. A row is cut at `max_length`. A row is left
    out if the prompt of its first response has that length or more. None is held out. Raises
    UserError if no row is left.
    """
    input_ids = DiskArray(np.int32)
    trained = DiskArray(np.uint8)
    numbers = array("q")
    cut = 0
    for batch in _batches(rows):
        encoded = _encode(batch, tokenizer, template, max_length)
        for row, (ids, responses) in zip(batch, encoded, strict=True):
            in_response = _marked(responses, len(ids))[:max_length]
            if not in_response.any():
                continue
            if len(ids) > max_length:
                cut += 1
            input_ids.append(np.array(ids[:max_length], np.int32))
            trained.append(in_response)
            numbers.append(row.number)
    if not numbers:
        raise UserError(f"no row has a response within max_length = {max_length} tokens")
    tokens = Tokens(
        input_ids=input_ids,
        trained=trained,
        offsets=np.array(input_ids.offsets),
        numbers=np.array(numbers),
        held_out=np.zeros(len(numbers), np.uint8),
    )
    return tokens, cut


def _marked(responses: list[tuple[int, int]], length: int) -> np.ndarray:
    """uint8 [length], 1 for the tokens of responses."""
    marks = np.zeros(length, np.uint8)
    for begin, end in responses:
        marks[begin:end] = 1
    return marks


def _batches(rows: Sequence[AnyRow]) -> Iterator[list[AnyRow]]:
    """The rows in batches that fit into memory while they are tokenised, with a progress bar."""
    batch = []
    characters = 0
    for row in progress(rows, desc="tokenize", unit="row"):
        length = len(row.text)
        characters += length
        if batch and (len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS):
            yield batch
            batch = []
            characters = length
        batch.append(row)
    if batch:
        yield batch


def _encode(
    rows: list[AnyRow], tokenizer, template: Template, max_length: int
) -> Iterator[Encoded]:
    """Each row as tokens: prompt, response, EOS; or the turns of a conversation.

    Of a conversation, what follows the response that exceeds `max_length` may be missing.
    """
    for kind, group in groupby(rows, type):
        alike = list(group)
        if kind is Conversation:
            for row in alike:
                yield template.encode_conversation(row, max_length)
            continue
        prompts = template.encode(tokenizer, [row.instruction for row in alike])
        responses = encode_literally(tokenizer, [row.response for row in alike])
        for prompt, response in zip(prompts, responses, strict=True):
            ids = [*prompt, *response, tokenizer.eos_token_id]
            yield ids, [(len(prompt), len(ids))]


def write_tokens(
    out: Path, tokens: Tokens, options: TokensConfig, model: Path, data_hash: str, datasets: dict
) -> None:
    """Write tokens as an artifact.

    options: as for `preparation.prepare`.
    model: the tokenizer's folder.
    data_hash: the hash of the files of rows.
    datasets: what `datasets_of` gives for these files.
    """
    specs = [_spec(name, values) for name, values in vars(tokens).items()]
    parameters = options.stated() | {"tokenizer": tokenizer_identity(model)} | datasets
    with create_artifact(out, KIND, parameters, {"data": data_hash}) as draft:
        draft.write_tensors(specs)


def _spec(name: str, values: np.ndarray | DiskArray) -> TensorSpec:
    """A tensor of the artifact. It is read and written in blocks."""
    import torch

    def chunks() -> Iterator[torch.Tensor]:
        for block in blocks(values):
            yield torch.from_numpy(block)

    return TensorSpec(name, DTYPES[name], (len(values),), chunks)


def datasets_of(data: Iterable[Path]) -> dict[str, list[str]]:
    """The data sets on the hub that rows or tokens come from, by their manifests.

    They are under the key datasets. It is missing if all rows are from elsewhere.
    """
    names = set()
    for path in data:
        manifest = manifest_path(path)
        if manifest.is_file():
            names.update(read_manifest(manifest).parameters.get("datasets", ()))
    return {"datasets": sorted(names)} if names else {}


def open_tokens(path: Path, model: Path, full: bool = False) -> tuple[Tokens, dict[str, str]]:
    """Open tokens to train a model: memory-mapped, and the inputs of a training on them.

    The inputs are the artifact and the file of rows. Raises UserError if the model has another
    tokenizer.
    """
    artifact = _open(path, full)
    made_with = artifact.manifest.parameters["tokenizer"]
    given = tokenizer_identity(model)
    parts = sorted(made_with | given)
    different = [part for part in parts if made_with.get(part) != given.get(part)]
    if different:
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
    known = {name: parameters[name] for name in keys(TokensConfig) if name in parameters}
    return TokensConfig.model_construct(**known)


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
    options = read_options(tokens.path)
    checkpoint = tokens.checkpoint
    given = joint_sha256([hash_file(file) for file in files])
    if given != tokens.manifest.inputs["data"]:
        raise UserError(f"{tokens.path} was not made from {named(files)}. Name the rows' files")
    is_trained_on = checkpoint.get("held_out") == 0
    numbers = set(checkpoint.get("numbers")[is_trained_on].tolist())

    def accept(conversation: Conversation) -> Conversation | str:
        return conversation if conversation.number in numbers else "not learned from"

    rows, _ = read_files(files, options, accept)
    return rows.select(lambda number: number in numbers)
