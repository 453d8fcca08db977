"""Limits of time and memory: how they end a block, and that they end with it."""

import resource
import signal

import pytest
from interpreter import python

from xft.common.limits import limited

FOR_EVER = "while True: pass"
# The comparison of these lists takes 2^60 operations, and no signal handler runs in between.
UNSTOPPABLE = """
one, other = [1], [1]
for _ in range(60):
    one, other = [one, one], [other, other]
one == other
"""


def state() -> tuple:
    timers = signal.getitimer(signal.ITIMER_PROF), signal.getitimer(signal.ITIMER_VIRTUAL)
    return resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF), timers


@pytest.mark.parametrize(
    ("code", "error"),
    [(FOR_EVER, TimeoutError), ("'A' * 10**11", MemoryError), ("1 / 0", ZeroDivisionError)],
)
def test_a_block_ends_with_an_error_and_leaves_no_limit(code, error):
    before = state()
    with pytest.raises(error), limited(0.1, 2**26):
        exec(code)
    assert state() == before
    with limited(0.1, 2**26):
        assert state() != before
    assert state() == before


def test_what_python_cannot_stop_ends_the_process():
    code = f"""
import os
from xft.common.limits import limited
child = os.fork()
if not child:
    with limited(0.1, 2**26):
        exec({UNSTOPPABLE!r})
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert int(python("-c", code).stdout) == -signal.SIGVTALRM
