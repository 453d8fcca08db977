"""Rows and problems: their number, the lengths of rows in tokens, and the batches of a training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xft.checkpoints.model_files import open_safetensors
from xft.checkpoints.reader import CheckpointHeaders
from xft.common.errors import UserError, errors_at
from xft.common.json_files import read_rows
from xft.config.sections import DataConfig
from xft.config.training import TrainingConfig
from xft.data.instruction_rows import AnyRow, BadRow, Conversation, check_bad
from xft.data.prompt_templates import CHAT, make_template, read_template
from xft.data.row_files import StoredRows, is_array, named, read_files
from xft.hub.named_sets import NAMED_SETS
from xft.hub.source import cached_rows, dataset_source

MOST_ROWS = 1_000  # of a sample
MOST_BATCHES = 1_000  # that are drawn from it
MOST_COUNTED = 2**24  # bytes of files whose rows a dry run reads
LARGEST_ARRAY = 2**26  # bytes of a JSON array whose first row a dry run looks at
READ_ROWS = 10 * MOST_ROWS  # of a larger file, for a sample
TURN = 4  # tokens of a chat template around a turn; assumed


@dataclass(frozen=True)
class Batches:
    """The batch that a training computes at a time.

    largest: tokens of the largest forward pass, with padding.
    longest: those of a row in it.
    row: the mean for a row, with padding.
    context: the mean width of the attention for a token.
    """

    largest: int
    longest: int
    row: float
    context: float


@dataclass(frozen=True)
class Lengths:
    """A sample of rows.

    tokens: of each, at most the window.
    rows: the number of those to train on; None if unknown.
    """

    tokens: np.ndarray
    rows: int | None

    def batches(self, options: TrainingConfig, count: int | None) -> Batches:
        """The batches of a training.

        count: its forward passes in one process, if it is known.
        """
        size = options.per_device_train_batch_size
        tokens = np.sort(self.tokens)
        passes = slice(min(count or MOST_BATCHES, MOST_BATCHES))
        drawn = np.random.default_rng(0).choice(tokens, (MOST_BATCHES, size))
        if options.batching == "packed":
            context = (tokens**2).sum() / tokens.sum()
            largest = drawn.sum(1)[passes].max()
            return Batches(int(largest), int(drawn[passes].max()), tokens.mean(), context)
        if options.batching == "by_length":  # the first batch has the longest row
            drawn = np.sort(drawn, axis=None)[::-1].reshape(-1, size)
        widths = drawn.max(1)
        longest = int(widths[passes].max())
        return Batches(size * longest, longest, widths.mean(), (widths**2).sum() / widths.sum())


def spread(rows: int) -> np.ndarray:
    """The places of a sample, spread evenly over so many rows."""
    return np.linspace(0, rows - 1, min(rows, MOST_ROWS)).astype(int)


def count_rows(data: DataConfig, stated: int | None) -> int | None:
    """The number of rows of the config's section `data`, or `stated`; None if they are elsewhere.

    Raises UserError if rows on this machine cannot be read.
    """
    if stated:
        return stated
    files = _files_here(data)
    if not files:
        return None
    rows, bad = _read(files, data)
    if not rows:
        raise UserError(f"{named(files)}: none of {len(bad)} rows can be used")
    return len(rows)


def _files_here(data: DataConfig) -> list[Path]:
    """The files of rows, also of the hub's cache; empty if one is not on this machine."""
    files = [Path(file) for file in data.files]
    if data.revision:
        source = dataset_source(data.train, data.revision)
        if not source.file:
            return []
        cached = cached_rows(source.repository, source.revision, source.file)
        files = [] if cached is None else [cached]
    return files if all(file.exists() for file in files) else []


def check_rows(data: DataConfig) -> int | None:
    """The number of rows in small local files. In place of larger ones, the first row is read.

    None if they are larger or elsewhere. Raises UserError if a row is bad, as the step does. The
    step alone reads large arrays.
    """
    if data.revision:
        return None
    files = [Path(file) for file in data.files]
    sizes = {file: file.stat().st_size for file in files}
    with errors_at("config: data.train"):
        if 0 < sum(sizes.values()) <= MOST_COUNTED:
            rows, bad = _read(files, data)
            check_bad(bad, rows, data.bad_rows)
            return len(rows)
        first = data.model_copy(update={"limit": 1})
        for file in files:
            if not is_array(file) or sizes[file] <= LARGEST_ARRAY:
                rows, bad = _read([file], first)
                check_bad(bad, rows, data.bad_rows)
    return None


def sample_lengths(data: DataConfig, base: Path) -> Lengths | None:
    """The lengths of up to 1,000 rows, by the tokenizer of the base.

    None if the rows or a tokenizer.json are elsewhere, or if no row can be used.
    """
    files = [Path(file) for file in data.files]
    tokenizer = base / "tokenizer.json"
    if data.revision or not all(file.is_file() for file in [*files, tokenizer]):
        return None

    from tokenizers import Tokenizer

    number = None
    if sum(file.stat().st_size for file in files) <= MOST_COUNTED:
        rows, _ = _read(files, data)
        number = max(len(rows) - data.held_out_rows, 0)
    else:
        few = [min(limit or READ_ROWS, READ_ROWS) for limit in data.limits(len(files))]
        rows, _ = _read(files, data.model_copy(update={"limit": few}))
    if not rows:
        return None
    chosen = [rows[place] for place in spread(len(rows))]
    try:
        encode = Tokenizer.from_file(str(tokenizer)).encode_batch
    except Exception:  # tokenizers raises no class of its own; the step says what is wrong
        return None
    texts = [_text(row, data.template) for row in chosen]
    added = [_special_tokens(row, data.template) for row in chosen]
    lengths = [len(encoded.ids) for encoded in encode(texts, add_special_tokens=False)]
    return Lengths(np.minimum(np.add(lengths, added), data.max_length), number)


def _text(row: AnyRow, template: str) -> str:
    """The text of a row with its template, without special tokens."""
    if isinstance(row, Conversation) or template == CHAT:
        return row.text
    prompt = make_template(read_template(template), tokenizer=None).render(row.instruction)
    return prompt + row.response


def _special_tokens(row: AnyRow, template: str) -> int:
    """The number of special tokens of a row."""
    if isinstance(row, Conversation) or template == CHAT:
        return TURN * len(row.turns)
    return 1  # EOS


def stored_lengths(tokens: Path) -> Lengths:
    """The lengths of the training rows of an artifact of tokens."""
    headers = CheckpointHeaders(tokens)
    held_out = _stored(headers, "held_out")
    lengths = np.diff(_stored(headers, "offsets"))[held_out == 0]
    return Lengths(lengths[spread(len(lengths))], len(lengths))


def _stored(headers: CheckpointHeaders, name: str) -> np.ndarray:
    """A tensor of a folder, without torch."""
    return open_safetensors(headers.folder / headers.file(name), "numpy").get_tensor(name)


def _read(files: list[Path], data: DataConfig) -> tuple[StoredRows, list[BadRow]]:
    """The good rows, and the bad ones among them. A chat template takes all conversations."""
    identity = read_template(data.template)
    accept = None if identity == CHAT else make_template(identity, tokenizer=None).accept
    return read_files(files, data, accept)


def count_problems(dataset: str, limit: int | None) -> int | None:
    """The number of problems of a data set that are evaluated; None if its file is elsewhere."""
    if dataset in NAMED_SETS:
        number = NAMED_SETS[dataset].problems
    elif Path(dataset).is_file():
        number = sum(1 for _ in read_rows(Path(dataset)))
    else:
        return None
    return min(number, limit or number)
