"""Collects the hashes of evaluation problems that no training row may hold."""

from collections.abc import Iterator

from xft.data.unwanted_rows import Fingerprint, read_shipped
from xft.evaluation.forms import load_problems
from xft.evaluation.problems import DataSet
from xft.hub.named_sets import RELEASED


def load_references(names_or_files: list[str]) -> tuple[list[Fingerprint], dict[str, str]]:
    """The fingerprints of some sets of problems, and each set's SHA-256 by its label.

    Those of humaneval and mbpp come with the package. Raises UserError if a file is wrong.
    """
    collected = []
    hashes = {}
    for name in names_or_files:
        if chosen := RELEASED.get(name):
            collected += read_shipped(name)
            hashes[name] = chosen.sha256
        else:
            problems = load_problems(name)
            collected += fingerprints(problems)
            hashes[problems.name] = problems.sha256
    return collected, hashes


def fingerprints(data_set: DataSet) -> Iterator[Fingerprint]:
    """The fingerprints of the texts of each problem."""
    for problem in data_set.problems:
        for kind, text in data_set.form.texts(problem).items():
            yield Fingerprint.of(problem.task_id, kind, text)
