"""Sets of problems. The processes that judge, which take seconds to start, serve all tests that do
not open them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import cache

import pytest
from problem_files import write_problems

from xft.evaluation import call_scoring
from xft.evaluation.forms import load_problems
from xft.evaluation.judges import Judges


@pytest.fixture(scope="session")
def judges() -> Iterator[Callable]:
    """Callable (confined): such judges in an open context."""
    with ExitStack() as stack:
        yield cache(lambda confined: stack.enter_context(Judges(confined)))


@pytest.fixture(autouse=True)
def shared_judges(judges, monkeypatch):
    monkeypatch.setattr(call_scoring, "Judges", lambda confined: nullcontext(judges(confined)))


@pytest.fixture
def make(tmp_path):
    """Callable (*rows): a set of these problems."""
    return lambda *rows: load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))
