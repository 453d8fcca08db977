"""Verdicts through the sandbox, and what hostile code achieves: no pass, no hang, no trace."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from problem_files import problem, right_solutions, three_problems, write_problems

from workflow_scripts.errors import UserError
from workflow_scripts.evaluation import execution, ground_truth, scoring
from workflow_scripts.evaluation.execution import Limits
from workflow_scripts.evaluation.problems import load_problems
from workflow_scripts.evaluation.scoring import Verdict

PASS = Verdict("passed", "passed")
FAIL = Verdict("failed", "failed", "[2, 2]")


@pytest.fixture(scope="module", params=["bubblewrap", "none"])
def any_sandbox(request):
    return None if request.param == "none" else request.getfixturevalue("bubblewrap")


@pytest.fixture
def make(tmp_path):
    """A set of problems of these rows."""
    return lambda rows: load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))


@pytest.fixture
def sums(make):
    return make(three_problems())


def verdicts(problem_set, codes, sandbox, workers=2):
    truth = ground_truth.compute(problem_set, sandbox=sandbox, workers=workers)
    solutions = list(zip(problem_set.problems, codes, strict=True))
    return scoring.score(problem_set, truth, solutions, sandbox=sandbox, workers=workers)


@pytest.fixture
def short_limits(monkeypatch):
    """A second for each call."""
    monkeypatch.setattr(scoring, "Limits", lambda **_: Limits(call=1))


def test_right_wrong_and_nearly_right(sums, any_sandbox):
    right = right_solutions()
    nearly = [right[0].replace("a + b\n", "a * b\n"), right[2].replace("a * b\n", "a + b\n")]
    half = Verdict("passed", "failed", "[3, 5]")

    assert verdicts(sums, right, any_sandbox) == [PASS] * 3
    assert verdicts(sums, [nearly[0], right[1], nearly[1]], any_sandbox) == [half, PASS, half]


def test_code_that_raises_does_not_parse_or_is_not_there(sums, bubblewrap):
    broken = ["def add(a, b):\n    return a +", "raise SystemExit", "x = 1"]
    assert verdicts(sums, broken, bubblewrap) == [FAIL] * 3
    nothing = Verdict("no code", "no code")
    assert verdicts(sums, [None] * 3, bubblewrap) == [nothing] * 3


def test_several_solutions_of_a_problem(sums, bubblewrap):
    truth = ground_truth.compute(sums, sandbox=bubblewrap, workers=1)
    add = sums.problems[0]
    solutions = [(add, right_solutions()[0]), (add, "x = 1"), (add, right_solutions()[0])]
    found = scoring.score(sums, truth, solutions, sandbox=bubblewrap, workers=2)
    assert found == [PASS, FAIL, PASS]


STUBBORN = """
import signal
def subtract(a, b):
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            while True: pass
        except BaseException: pass
"""


def test_loops_end_and_cost_only_their_own_problem(sums, bubblewrap, short_limits):
    loop = "def add(a, b):\n    while True: pass\n"
    late = Verdict("timed out", "timed out", "[2, 2]")
    found = verdicts(sums, [loop, STUBBORN, right_solutions()[2]], bubblewrap)
    assert found == [late, late, PASS]


def test_what_is_slow_here_is_measured_against_the_reference_and_tried_again(make, bubblewrap):
    """Two seconds are too long at first, and right where the canonical solution needs half one."""
    rows = three_problems()
    rows[0]["canonical_solution"] = "    import time; time.sleep(0.5); return a + b\n"
    rows[0]["plus_input"] = []
    slow = "import time\ndef add(a, b):\n    time.sleep(2)\n    return a + b\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "Limits", lambda **given: Limits(**({"call": 1} | given)))
        found = verdicts(make(rows), [slow, *right_solutions()[1:]], bubblewrap)
    assert found == [PASS] * 3


FORGER = """
import os
messages = ['{"value": 4}', '{"set": 0}', '{"value": true}', '{"value": true}', '{"set": 0}']
for descriptor in range(3, 64):
    try: os.write(descriptor, '\\n'.join(messages + ['']).encode())
    except OSError: pass
"""
EQUAL_TO_ALL = """
class Everything(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def add(a, b): return Everything(7)
"""
REPLACED_CHECKER = """
import sys, builtins
main = sys.modules['__main__']
main.described = lambda value: '{"value": true}'
main.run = lambda *_: None
import numpy
numpy.allclose = lambda *_, **__: True
def add(a, b): return None
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            try:
                for number in range(3, 64): os.write(number, b'{"value": 4}\\n')
            except OSError: pass
            time.sleep(0.01)
    os._exit(0)
def add(a, b): return a * 7 + b
"""
HOSTILE = {
    "exits at once": ("import os\nos._exit(0)", "failed"),
    "writes to the system": ("open('/usr/planted', 'w')", "refused by the sandbox"),
    "writes to the runner": (
        f"open({str(execution.RUNNER)!r}, 'w').write('')",
        "refused by the sandbox",
    ),
    "reads secrets": ("print(open('/etc/shadow').read())", "failed"),
    "forks without end": ("import os\nwhile True:\n    os.fork()", "refused by the sandbox"),
    "starts threads without end": (
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=[9], daemon=True).start()",
        None,
    ),
    "eats memory": ("x = bytearray(2**40)", "failed"),
    "never ends": ("while True: pass", "timed out"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "failed"),
    "kills all": ("import os\nos.kill(-1, 9)\nos.kill(os.getpid(), 9)", "failed"),
    "prints a gigabyte": ("for _ in range(2**10): print('x' * 2**20)", None),
    "floods the channel": (
        "import os\nfor n in range(3, 64):\n  try:\n"
        "    for _ in range(2**6): os.write(n, b'x' * 2**16)\n"
        "  except OSError: pass",
        "failed",
    ),
    "forges answers": (FORGER, "passed"),  # the base set's answer is no secret
    "equals all": (EQUAL_TO_ALL, "failed"),
    "edits the checker": (REPLACED_CHECKER, "failed"),
    "leaves a process behind": (DAEMON, "refused by the sandbox"),
    "looks for the answers": (
        "import gc\nif any(8 in o.values() for o in gc.get_objects() if type(o) is dict and "
        "'expected' in o): raise SystemExit\nimport sys\n"
        "assert not any('expected' in str(f.f_locals) for f in [sys._getframe(1)])",
        "failed",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_code_loses_its_own_problem_only(make, bubblewrap, short_limits, attack):
    code, status = HOSTILE[attack]
    problems = make([problem("add", "+", f"Task/{i}") for i in range(3)])
    right = right_solutions()[0]
    before, hostile, after = verdicts(problems, [right, code, right], bubblewrap)

    assert (before, after) == (PASS, PASS)
    assert hostile.plus != "passed"
    assert status in (None, hostile.base)


def test_a_socket_of_this_machine_is_out_of_reach(make, bubblewrap):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))"
        found = verdicts(make([problem("add", "+", "Task/0")]), [code], bubblewrap)
        with pytest.raises(TimeoutError):
            server.accept()
    assert found[0].base == "refused by the sandbox"


def test_nothing_is_left_running(make, bubblewrap, short_limits):
    mark = f"left-behind-{os.getpid()}"
    code = f"import os\nos.execvp('sleep', ['{mark}', '3600'])"
    verdicts(make([problem("add", "+", "Task/0")]), [code], bubblewrap)
    deadline = time.monotonic() + 300  # the kernel takes a moment; the program sleeps for longer
    while is_running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(mark)


def is_running(mark: str) -> bool:
    """Whether a process has the mark in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended since it was listed
            if mark.encode() in path.read_bytes():
                return True
    return False


def test_an_mbpp_problem_gets_its_inputs_as_evalplus_turns_them(make, bubblewrap):
    rows = [problem("add", "+", "Mbpp/2"), problem("add", "+", "Mbpp/3")]
    rows[0] |= {"base_input": [[[1], [2]]], "plus_input": []}  # lists become tuples for Mbpp/2
    adds_tuples = "def add(a, b):\n    return a + b if type(a) is tuple else None\n"
    found = verdicts(make(rows), [adds_tuples, right_solutions()[0]], bubblewrap, workers=1)
    assert found == [PASS, PASS]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("return undefined_name", r"Arithmetic/1 raises NameError; arguments: \[2, 2\]"),
        ("import os; os._exit(0)", r"Arithmetic/1 ends its process; arguments: \[2, 2\]"),
    ],
)
def test_a_canonical_solution_that_fails_is_named(make, bubblewrap, body, fault):
    rows = three_problems()
    rows[1]["canonical_solution"] = f"    {body}\n"
    with pytest.raises(UserError, match=fault):
        verdicts(make(rows), right_solutions(), bubblewrap)


def test_the_artifact_says_what_is_in_memory(sums, bubblewrap, tmp_path):
    truth = ground_truth.compute(sums, sandbox=bubblewrap, workers=2)
    ground_truth.write(tmp_path, truth)
    assert ground_truth.read(tmp_path, sums) == truth


ODD_MESSAGES = [
    '{"value": {"fraction": ["0x1", "0x0"]}}',
    '{"value": {"decimal": "no number"}}',
    '{"value": {"decimal": "1E+999999999"}}',
    '{"value": {"complex": [1, 2, 3]}}',
    '{"value": {"int": 5}}',
    '{"value": {"set": [[1]]}}',
    '{"value": {"dict": [[[], 1]]}}',
    '{"value": {"dict": 7}}',
    '{"value": {"set": 7, "tuple": 7}}',
    '{"value": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"digest": 7}',
    '{"raised": [], "errno": {}}',
    '{"raised": "x", "errno": []}',
    '{"neither": 1}',
    "[1]",
    "no JSON",
    "\\xff\\xfe",
]


def test_odd_messages_lose_their_own_problem_only(make, bubblewrap):
    """Also where what was expected is large, so that a digest is taken of what was returned."""
    rows = [problem("add", "+", f"Task/{i}") for i in range(len(ODD_MESSAGES) + 1)]
    for row in rows[::2]:
        row["canonical_solution"] = "    return [a + b] * 100000\n"
    codes = [
        f"import os\nos.write(3, b'''{message}\\n''')\nos.write(4, b'''{message}\\n''')"
        for message in ODD_MESSAGES
    ]
    right = rows[-1]["prompt"] + rows[-1]["canonical_solution"]

    *odd, last = verdicts(make(rows), [*codes, right], bubblewrap)

    assert last == PASS
    assert {verdict.base for verdict in odd} == {"failed"}
