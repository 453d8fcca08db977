"""Files that a user or a hub names: what hangs or has no end is refused, and bounds hold. Limits of
time and memory: how they end a block, and that they end with it.
"""

import gzip
import resource
import signal

import pytest
from interpreter import python

from xft.common.errors import UserError
from xft.common.file_access import read_bytes
from xft.common.progress import say
from xft.common.system import limited


def test_a_file_unpacks_to_a_bounded_size(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(2**20)))
    assert read_bytes(path, 2**20) == bytes(2**20)
    with pytest.raises(UserError, match="holds more than 1 MiB"):
        read_bytes(path, 2**20 - 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="is not a whole gzip file"):
        read_bytes(path)


def test_what_a_file_says_does_not_reach_the_terminal_as_commands(capsys):
    hostile = "\x1b[2J\x9b2J\r\u202e gone\ttab\nline"
    shown = "\\x1b[2J\\x9b2J\\r\\u202e gone\ttab\nline"
    say(hostile)
    assert capsys.readouterr().err == f"{shown}\n"
    assert str(UserError(hostile)) == shown


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


ERRORS = {FOR_EVER: TimeoutError, "'A' * 10**11": MemoryError, "1 / 0": ZeroDivisionError}


@pytest.mark.parametrize(("code", "error"), ERRORS.items())
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
from xft.common.system import limited
child = os.fork()
if not child:
    with limited(0.1, 2**26):
        exec({UNSTOPPABLE!r})
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert int(python("-c", code).stdout) == -signal.SIGVTALRM
