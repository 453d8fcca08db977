"""Reads and checks sets of problems: named ones and the user's own files."""

from pathlib import Path

from xft.common.errors import UserError, did_you_mean, errors_at
from xft.common.json_files import read_rows
from xft.config.sections import problem_label
from xft.evaluation.forms import calls, programs
from xft.evaluation.languages import CODES
from xft.evaluation.problems import ProblemSet
from xft.hub.named_sets import NAMED_SETS, RELEASED, NamedSet, unpacked_sha256

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def load_problems(name_or_file: str) -> ProblemSet:
    """Read a named set, or a `.jsonl`, `.jsonl.gz` or `.parquet` file of problems.

    The first row decides which form all have. Raises UserError if there is no such set or file, or
    if a row is bad. The message names the line and the key.
    """
    chosen = NAMED_SETS.get(name_or_file)
    file = _locate_named(chosen) if chosen else _locate_file(name_or_file)
    sha256 = unpacked_sha256(file)  # first: it bounds what is read
    rows = list(read_rows(file))
    if not rows:
        raise UserError(f"{file} holds no problem")
    form = programs if programs.fits(rows[0][1]) else calls
    problems = []
    for number, fields in rows:
        with errors_at(f"{file}, line {number}"):
            problems.append(form.parse(fields))
    task_ids = [problem.task_id for problem in problems]
    lines = {name: number for name, (number, _) in zip(task_ids, rows, strict=True)}
    if repeated := {task_id for task_id in task_ids if task_ids.count(task_id) > 1}:
        raise UserError(f"{file} holds a task_id more than once: {', '.join(sorted(repeated))}")
    return ProblemSet(problem_label(name_or_file), form, file, sha256, tuple(problems), lines)


def _locate_named(chosen: NamedSet) -> Path:
    found = chosen.find()
    if found is None:
        raise UserError(
            f"the data set {chosen.name} ({chosen}) is not on this machine. Fetch it with "
            f"python -m workflow_scripts.fetch_problems --dataset {chosen.name} "
            f"--out {chosen.file} and name that file. {chosen.advice}"
        )
    return found


def _locate_file(name: str) -> Path:
    file = Path(name)
    if not file.exists() and not file.is_symlink():
        raise UserError(
            f"{name} is neither a data set ({', '.join(RELEASED)}, multipl-e/NAME) nor a file"
            f"{hint_of_set(name)}"
        )
    if not name.endswith(SUFFIXES):
        raise UserError(f"{name}: the name of a file of problems ends in {' or '.join(SUFFIXES)}")
    return file


def hint_of_set(name: str) -> str:
    """The end of a message about an unknown set: a known one, if that was probably meant."""
    source, _, language = Path(name.lower()).name.rpartition("-")
    meant = f"multipl-e/{source}-{CODES.get(language, language)}"
    return did_you_mean(meant if meant in NAMED_SETS else name, NAMED_SETS)
