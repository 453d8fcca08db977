"""The numbers of rows and of problems, if they are on this machine."""

from itertools import islice
from pathlib import Path

from xft.common.errors import UserError, naming
from xft.common.files import open_regular
from xft.config.sections import DataConfig, EvaluationConfig
from xft.data.instructions import BadRow, check_bad, is_array
from xft.data.row_files import StoredRows, named, read_files
from xft.data.templates import CHAT, make_template, read_template
from xft.hub.named_sets import unpacked
from xft.hub.source import dataset_source, find_cached_dataset_file

MOST_COUNTED = 20_000  # lines of a file of rows
LARGEST_ARRAY = 2**26  # bytes of a JSON array whose first row a dry run looks at
NAMED_PROBLEMS = {"humaneval": 164, "mbpp": 378}


def count_rows(data: DataConfig, stated: int | None) -> int | None:
    """The number of rows of the config's section `data`, or `stated`; None if they are elsewhere.

    Raises UserError if rows on this machine cannot be read.
    """
    if stated:
        return stated
    files = [Path(file) for file in data.files]
    if data.revision:
        files = [find_cached_dataset_file(dataset_source(data.train, data.revision))]
    if not all(file and file.exists() for file in files):
        return None
    rows, bad = _read(files, data)
    if not rows:
        raise UserError(f"{named(files)}: none of {len(bad)} rows can be used")
    return len(rows)


def check_first_row(data: DataConfig) -> None:
    """Raise UserError if the first row of a local file is bad, as the step does.

    The step alone looks at rows that are elsewhere, or in a large array, which is read whole.
    """
    first = data.model_copy(update={"limit": 1})
    with naming("config: data.train"):
        for file in map(Path, [] if data.revision else data.files):
            if not is_array(file) or file.stat().st_size <= LARGEST_ARRAY:
                rows, bad = _read([file], first)
                check_bad(bad, rows, data.bad_rows)


def _read(files: list[Path], data: DataConfig) -> tuple[StoredRows, list[BadRow]]:
    """The good rows, and the bad ones among them. A chat template takes all conversations."""
    identity = read_template(data.template)
    accept = None if identity == CHAT else make_template(identity, tokenizer=None).accept
    return read_files(files, data, accept)


def count_lines(data: DataConfig) -> int | None:
    """The number of rows in local JSONL files, up to data.limit. Rows that are left out count too.

    None if they are more than 20,000, or if a file is elsewhere or in another format.
    """
    total = 0
    for file, limit in zip(map(Path, data.files), data.limits(len(data.files)), strict=True):
        if data.revision or file.suffix != ".jsonl" or not file.is_file() or is_array(file):
            return None
        with open_regular(file) as lines:
            number = sum(1 for line in islice(lines, MOST_COUNTED + 1) if line.strip())
        total += min(number, limit or number)
    return None if total > MOST_COUNTED else total


def count_problems(evaluation: EvaluationConfig) -> int | None:
    """The number of problems in all data sets of the config's section `evaluation`.

    None if one of their files is not on this machine.
    """
    numbers = []
    for dataset in evaluation.datasets:
        file = Path(dataset)
        if dataset in NAMED_PROBLEMS:
            number = NAMED_PROBLEMS[dataset]
        elif file.is_file():
            number = sum(bool(line.strip()) for line in unpacked(file).splitlines())
        else:
            return None
        numbers.append(min(number, evaluation.limit or number))
    return sum(numbers)
