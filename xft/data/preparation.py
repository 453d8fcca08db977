"""Turns a file of rows into tokens. Reports the rows that are left out, and holds rows out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from xft.artifacts.manifest import hash_file, joint_sha256
from xft.common.errors import UserError, counted
from xft.common.processes import spread
from xft.common.progress import say
from xft.config.sections import TokensConfig
from xft.data.duplicates import find_exact, find_near
from xft.data.examples import Tokens, tokenize_rows
from xft.data.instructions import AnyRow, check_bad, describe, named, place_of, read_files
from xft.data.templates import make_template
from xft.data.tokenizers import no_eos


def prepare(
    files: Sequence[Path], tokenizer, options: TokensConfig, find_trace: Callable | None = None
) -> tuple[Tokens, dict]:
    """The tokens of files of rows, and a report of what was left out.

    options: with the template by its identity. find_trace:
    `contamination.Detector.find`, where rows that give away evaluation problems are to be left out.
    Raises UserError where a row is bad and none may be, or too few rows are left.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(no_eos(tokenizer.name_or_path))
    template = make_template(options.template, tokenizer)
    good, bad = read_files(files, options, template.accept)
    check_bad(bad, good, options.bad_rows)
    if bad:
        say(f"left out {describe(bad)}")
    removed = [{"row": row.number, "reason": "bad", "fault": row.fault} for row in bad]
    rows = good
    for find in _filters(options.deduplicate, find_trace):
        found = find(rows) if rows else []
        removed += found
        rows = _without(rows, {entry["row"] for entry in found})
    if not rows:
        raise UserError(f"no row of {named(files)} is left: {_counts(removed)}")
    tokens, cut = tokenize_rows(rows, tokenizer, template, options.max_length)
    too_long = _without(rows, set(tokens.numbers.tolist()))
    removed += [{"row": row.number, "reason": "prompt fills the window"} for row in too_long]
    tokens = _hold_out(tokens, rows, options.validation_rows)
    return tokens, {
        "data_sha256": joint_sha256([*map(hash_file, files)]),
        "rows": len(good) + len(bad),
        "training": len(tokens.training),
        "validation": len(tokens.validation),
        "cut": cut,
        "removed": dict(sorted(Counter(entry["reason"] for entry in removed).items())),
        "removed_rows": [
            entry | {key: place_of(entry[key], files) for key in ("row", "of") if key in entry}
            for entry in sorted(removed, key=lambda entry: entry["row"])
        ],
    }


def summary(files: Sequence[Path], report: dict) -> str:
    """A report in one line."""
    held_out = f", {report['validation']} held out" if report["validation"] else ""
    left_out = _counts(report["removed_rows"])
    return (
        f"{counted(report['rows'], 'row')} of {named(files)}: {report['training']} to train on"
        + held_out
        + (f"; cut at max_length: {report['cut']}" if report["cut"] else "")
        + (f"; left out: {left_out}" if left_out else "")
    )


def _filters(deduplicate: str, find_trace: Callable | None) -> Iterator[Callable]:
    """The filters for rows to leave out: functions from rows to entries of the report."""
    yield _unanswered
    if deduplicate != "none":
        yield partial(_repeated, "duplicate", find_exact)
    if deduplicate == "near":
        yield partial(_repeated, "near duplicate", find_near)
    if find_trace is not None:
        yield partial(contaminated, find_trace)


def _unanswered(rows: list[AnyRow]) -> list[dict]:
    return [
        {"row": row.number, "reason": "ends without a response"}
        for row in rows
        if row.turns[-1].role != "assistant"
    ]


def _repeated(reason: str, find: Callable, rows: list[AnyRow]) -> list[dict]:
    return [{"row": row, "reason": reason, "of": first} for row, first in find(rows).items()]


def contaminated(find_trace: Callable, rows: list[AnyRow]) -> list[dict]:
    """The entries of rows that give away evaluation problems. find_trace: as for `prepare`."""
    find = partial(_trace, find_trace)
    found = zip(rows, spread(find, rows, desc="look for problems", unit="row"), strict=True)
    return [{"row": row.number, "reason": "contaminated", **vars(t)} for row, t in found if t]


def _trace(find_trace: Callable, row: AnyRow) -> object | None:
    return find_trace(row.text)


def _without(rows: list[AnyRow], numbers: set[int]) -> list[AnyRow]:
    return [row for row in rows if row.number not in numbers]


def _hold_out(tokens: Tokens, rows: list[AnyRow], count: int) -> Tokens:
    """The tokens with `count` rows held out: the rows with the smallest SHA-256 of their text.

    They do not depend on the seed. Most stay the same if rows are added to the file or removed.
    """
    if count >= len(tokens.numbers):
        raise UserError(
            f"validation_rows = {count}: only {len(tokens.numbers)} rows are left, and the "
            "training needs at least one of them. Set fewer validation_rows"
        )
    digests = {row.number: hashlib.sha256(row.text.encode()).digest() for row in rows}
    order = sorted(range(len(tokens.numbers)), key=lambda i: digests[int(tokens.numbers[i])])
    held_out = np.zeros_like(tokens.held_out)
    held_out[order[:count]] = 1
    if (left := len(order) - count) < count:
        say(
            f"WARNING: {count} of {len(order)} rows are held out, and the training has only the "
            f"other {left}. If that is not meant, set fewer validation_rows"
        )
    return replace(tokens, held_out=held_out)


def _counts(removed: list[dict]) -> str:
    counts = Counter(entry["reason"] for entry in removed)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
