"""Turns a file of rows into tokens. Reports the rows that are left out, and holds rows out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from heapq import nsmallest
from pathlib import Path

import numpy as np

from xft.artifacts.manifest import hash_file, joint_sha256
from xft.common.errors import UserError, counted
from xft.common.progress import progress, say
from xft.common.system import spread
from xft.config.sections import TokensConfig
from xft.data.instruction_rows import AnyRow, check_bad, describe
from xft.data.prompt_templates import make_template
from xft.data.row_files import StoredRows, named, place_of, read_files
from xft.data.tokenized_rows import CHOICE, VALIDATION, Tokens, tokenize_rows
from xft.data.tokenizers import no_eos
from xft.data.unwanted_rows import find_exact, find_near


def prepare(
    files: Sequence[Path], tokenizer, options: TokensConfig, find_trace: Callable | None = None
) -> tuple[Tokens, dict]:
    """The tokens of files of rows, and a report of what was left out.

    Raises UserError if a row is bad and none may be, or too few rows are left.

    options: with the template by its identity.
    find_trace: `unwanted_rows.Detector.find`, if rows that give away evaluation problems are to be
    left out.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(no_eos(tokenizer.name_or_path))
    template = make_template(options.template, tokenizer)
    rows, bad = read_files(files, options, template.accept)
    number_read = len(rows) + len(bad)
    check_bad(bad, rows, options.bad_rows)
    if bad:
        say(f"left out {describe(bad)}")
    removed = [{"row": row.number, "reason": "bad", "fault": row.fault} for row in bad]
    for find in _filters(options.deduplicate, find_trace):
        entries = list(find(rows)) if rows else []
        removed += entries
        rows = _without(rows, {entry["row"] for entry in entries})
    if not rows:
        raise UserError(f"no row of {named(files)} is left: {_counts(removed)}")
    tokens, cut = tokenize_rows(rows, tokenizer, template, options.max_length)
    too_long = set(rows.numbers) - set(tokens.numbers.tolist())
    removed += [{"row": number, "reason": "prompt fills the window"} for number in too_long]
    rows = _without(rows, too_long)
    tokens = _hold_out(tokens, rows, options)

    report = {
        "data_sha256": joint_sha256([hash_file(file) for file in files]),
        "rows": number_read,
        "training": len(tokens.training),
        "validation": len(tokens.validation),
    }
    if options.choice_rows:
        report["choice"] = len(tokens.choice)
    if options.held_out_rows and options.deduplicate == "none":
        report["held_out_repeated"] = _repeated_elsewhere(tokens, rows)
    report["cut"] = cut
    return tokens, report | _removed_content(removed, files)


def _removed_content(removed: list[dict], files: Sequence[Path]) -> dict:
    """The rows that were left out, in a report: their numbers by reason, and all in order."""
    counts = Counter(entry["reason"] for entry in removed)
    in_order = sorted(removed, key=lambda entry: entry["row"])
    return {
        "removed": dict(sorted(counts.items())),
        "removed_rows": [_placed(entry, files) for entry in in_order],
    }


def _placed(entry: dict, files: Sequence[Path]) -> dict:
    """An entry of a report with places in files in place of rows' numbers."""
    places = {key: place_of(entry[key], files) for key in ("row", "of") if key in entry}
    return entry | places


def summary(files: Sequence[Path], report: dict) -> str:
    """A report in one line."""
    rows = counted(report["rows"], "row")
    text = f"{rows} of {named(files)}: {report['training']} to train on"
    held_out = report["validation"] + report.get("choice", 0)
    if held_out:
        text += f", {held_out} held out"
    if report.get("held_out_repeated"):
        text += (
            f", {report['held_out_repeated']} of these with the text of a row to train on, or of "
            "one held out for another use (deduplicate = none): their loss is too low"
        )
    if report["cut"]:
        text += f"; cut at max_length: {report['cut']}"
    if report["removed_rows"]:
        text += f"; left out: {_counts(report['removed_rows'])}"
    return text


def _filters(deduplicate: str, find_trace: Callable | None) -> Iterator[Callable]:
    """The filters for rows to leave out: functions from rows to entries of the report."""
    yield _unanswered
    if deduplicate != "none":
        yield partial(_repeated, "duplicate", find_exact)
    if deduplicate == "near":
        yield partial(_repeated, "near duplicate", find_near)
    if find_trace is not None:
        yield partial(contaminated, find_trace)


def _unanswered(rows: StoredRows) -> Iterator[dict]:
    for row in progress(rows, desc="look for responses", unit="row"):
        if row.turns[-1].role != "assistant":
            yield {"row": row.number, "reason": "ends without a response"}


def _repeated(reason: str, find: Callable, rows: StoredRows) -> Iterator[dict]:
    for row, first in find(rows).items():
        yield {"row": row, "reason": reason, "of": first}


def contaminated(find_trace: Callable, rows: StoredRows) -> Iterator[dict]:
    """The entries of rows that give away evaluation problems.

    find_trace: as for `prepare`.
    """
    traces = spread(partial(_trace, find_trace), rows, desc="look for problems", unit="row")
    for number, trace in zip(rows.numbers, traces, strict=True):
        if trace:
            yield {"row": number, "reason": "contaminated", **vars(trace)}


def _trace(find_trace: Callable, row: AnyRow) -> object | None:
    return find_trace(row.text)


def _without(rows: StoredRows, numbers: set[int]) -> StoredRows:
    return rows.select(lambda number: number not in numbers) if numbers else rows


def _hold_out(tokens: Tokens, rows: StoredRows, options: TokensConfig) -> Tokens:
    """The tokens with rows held out: those with the smallest SHA-256 of their text.

    The validation rows come first, so they do not depend on the number of choice rows. Rows that
    are held out do not depend on the seed. Most stay the same if rows are added to the file or
    removed.

    rows: those of the tokens.
    """
    count = options.held_out_rows
    choice = ""
    fewer = "validation_rows"
    if options.choice_rows:
        choice = f" and choice_rows = {options.choice_rows}"
        fewer = "validation_rows or choice_rows"
    if count >= len(tokens.numbers):
        raise UserError(
            f"validation_rows = {options.validation_rows}{choice}: only "
            f"{len(tokens.numbers)} rows are left, and the training needs at least one of them. "
            f"Set fewer {fewer}"
        )
    places = [place for _, place in nsmallest(count, _hashed(rows))]
    held_out = np.zeros_like(tokens.held_out)
    held_out[places[: options.validation_rows]] = VALIDATION
    held_out[places[options.validation_rows :]] = CHOICE
    left = len(rows) - count
    if left < count:
        say(
            f"WARNING: {count} of {len(rows)} rows are held out, and the training has only the "
            f"other {left}. If that is not meant, set fewer {fewer}"
        )
    return replace(tokens, held_out=held_out)


def _repeated_elsewhere(tokens: Tokens, rows: StoredRows) -> int:
    """The number of rows held out whose text is among the other rows too, but for whitespace.

    The validation rows, those of a choice and those of the training are told apart.
    """
    first_of = find_exact(rows)
    parts: dict[int, list[int]] = {}  # of the rows with a text, by the number of the first
    for number, part in zip(rows.numbers, tokens.held_out.tolist(), strict=True):
        parts.setdefault(first_of.get(number, number), []).append(part)
    apart = [some for some in parts.values() if len(set(some)) > 1]
    return sum(part != 0 for some in apart for part in some)


def _hashed(rows: StoredRows) -> Iterator[tuple[bytes, int]]:
    """The SHA-256 of each row's text, with the row's place."""
    for place, row in enumerate(progress(rows, desc="choose rows to hold out", unit="row")):
        yield hashlib.sha256(row.text.encode()).digest(), place


def _counts(removed: list[dict]) -> str:
    counts = Counter(entry["reason"] for entry in removed)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
