"""Fixtures of the tests of the evaluation."""

from collections.abc import Callable

import pytest

from xft.evaluation.journal import Journal


@pytest.fixture
def cut_generation(monkeypatch, capsys) -> Callable:
    """Callable (evaluate, after, of): interrupt an evaluation when so many of its completions are
    written, start it again, and see that it writes the others alone.
    """

    def run(evaluate: Callable[[], None], after: int, of: int) -> None:
        add, written = Journal.add, []

        def add_or_stop(self, number, completion):
            if len(written) == after:
                raise KeyboardInterrupt
            written.append(number)
            add(self, number, completion)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", add_or_stop)
            with pytest.raises(KeyboardInterrupt):
                evaluate()
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", lambda s, n, c: written.append(n) or add(s, n, c))
            evaluate()
        assert f"continuing: {after} of {of} are written" in capsys.readouterr().err
        assert sorted(written) == list(range(of))

    return run
