"""Verdicts through the sandbox. Steps that run programs in sandboxes end when they are told to, and
no sandbox outlives them.
"""

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import psutil
import pytest
from problem_files import problem, right_solutions, three_problems, write_problems

from workflow_scripts import ground_truth as step
from xft.common.errors import UserError
from xft.evaluation import call_scoring
from xft.evaluation.call_scoring import REFERENCE, USUAL, CallScorer
from xft.evaluation.judges import read_returned
from xft.evaluation.sandbox import run
from xft.evaluation.scoring import Statuses, score, work_on
from xft.hub.named_sets import RELEASED

PASS = Statuses("passed", "passed")
FAIL = Statuses("failed", "failed", "[2, 2]")


@pytest.fixture
def sums(make):
    return make(*three_problems())


def verdicts(data_set, codes, sandbox, workers=2):
    """On codes for the problems in turn."""
    scorer = CallScorer(data_set, sandbox, workers)
    solutions = list(zip(cycle(data_set.problems), codes, strict=False))
    return scorer.score(scorer.expected(), solutions)


@pytest.mark.parametrize("confined", [True, False])
def test_right_wrong_and_nearly_right(sums, bubblewrap, confined):
    sandbox = bubblewrap if confined else None
    right = right_solutions()
    nearly = [right[0].replace("a + b\n", "a * b\n"), right[2].replace("a * b\n", "a + b\n")]
    half = Statuses("passed", "failed", "[3, 5]")
    codes = [*right, nearly[0], right[1], nearly[1]]
    assert verdicts(sums, codes, sandbox) == [*[PASS] * 3, half, PASS, half]


def test_what_was_late_is_judged_again_with_no_other_at_the_same_time():
    """Beside others a right solution may be late again."""
    others = threading.Barrier(2)

    def judge(item, is_again, stop) -> tuple[str, bool]:
        if is_again:
            with suppress(threading.BrokenBarrierError):
                others.wait(1)
                return "beside another", True
        return "alone", True

    assert score([1, 2], judge, workers=2, unit="item") == ["alone", "alone"]


ORDER = """
import os, sys
def order():
    python = [name for name in os.environ if name.startswith("PYTHON")]
    return list({str(n) for n in range(99)}), sys.flags.safe_path, sys.path, python
"""


@pytest.mark.parametrize("confined", [True, False])
def test_a_program_answers_the_same_each_time(bubblewrap, confined, monkeypatch, tmp_path):
    """Sets have the same order, which is another one where the seed is. Nothing else comes in."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def answer(seed):
        asked = call_scoring.caller(ORDER, "order", "[[[]],[]]", USUAL, seed, confined)
        return run(asked, bubblewrap if confined else None).output.splitlines()[0]

    first = answer(0)
    assert answer(0) == first != answer(1)
    (_, safe, path, variables) = read_returned(json.loads(first)).value
    assert safe and variables == ["PYTHONHASHSEED"]
    assert not {str(tmp_path), str(call_scoring.DRIVER.parent)} & set(path)


NO_TRUTH = {  # values that cannot be expected of a solution, each with the message
    "list({str(n) for n in range(99)})": r"\['",
    "random()": "[0-9]",
    "Counter([random()])": "{'like': {'dict': ",
    "[random()] * 99999": "of more than 64 KiB",
    "[1, {'a': __import__('datetime').date(2000, 1, 1)}]": ".*{'other': \\['date'",
    "range(a)": "{'items': \\['range'",
    "float": "{'other': \\['type'",
    "float('nan')": "nan",
}
TRUTH = ["{str(n) for n in range(99)}", "Counter('ab').keys()", "__import__('numpy').float32(0.1)"]


def test_what_no_solution_can_repeat_is_no_ground_truth(make, bubblewrap, monkeypatch, capsys):
    imports = "    from collections import Counter; from random import random"
    rows = []
    for number, value in enumerate([*TRUTH, *NO_TRUTH]):
        solution = {"canonical_solution": f"{imports}; return {value}\n"}
        rows.append(problem("find_zero", "+", f"Own/{number}") | solution)
    rows.append(rows[0] | {"task_id": "Own/async", "prompt": "async def find_zero(a, b):\n"})
    values = [*NO_TRUTH.values(), r"{'other': \['coroutine'"]
    places = [f"line {n}, {row['task_id']}" for n, row in enumerate(rows, 1)][len(TRUTH) :]
    fault = "{}: the value {}.* does not pass in a second run; arguments: .*"
    lines = map(fault.format, places, values)
    message = "\n".join([r"9 canonical solutions of .*sums.jsonl would fail as a model's:", *lines])
    data_set = make(*rows)
    with pytest.raises(UserError, match=rf"^{message}\nA solution must return plain data"):
        CallScorer(data_set, bubblewrap, 2).expected()

    release = replace(RELEASED["mbpp"], sha256=data_set.sha256)
    monkeypatch.setitem(RELEASED, "mbpp", release)
    assert len(CallScorer(data_set, bubblewrap, 2).expected()) == len(rows)
    assert re.search(message, capsys.readouterr().err)


def test_a_program_that_floods_answers_loses_its_own_problem_only(make, bubblewrap):
    """Though no file can grow far, as on a small disk."""
    row = problem("add", "+", "Task/0") | {"plus_input": [[n, n] for n in range(500)]}
    flood = "def add(a, b):\n    return 'x' * 30_000\n"
    data_set, (right, *_) = make(row), right_solutions()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, before[1]))
    try:
        found = verdicts(data_set, [right, flood, right], bubblewrap)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == [PASS, Statuses(*["too costly to judge"] * 2), PASS]


def test_all_calls_are_made_whatever_the_answers_are(sums, bubblewrap, monkeypatch):
    """A program whose run ended at its first wrong answer knew which one that was."""
    ran = []
    monkeypatch.setattr(call_scoring.box, "run", lambda *job: ran.append(run(*job)) or ran[-1])
    scorer = CallScorer(sums, bubblewrap, 1)
    wrong = [(sums.problems[0], "def add(a, b):\n    return None\n")]
    assert scorer.score(scorer.expected(), wrong) == [FAIL]
    told = ran[-1].output.splitlines()
    assert [b"value" in line for line in told] == [True, False, True, True, False]


def test_a_late_program_runs_again_whatever_it_answered(sums, bubblewrap, monkeypatch):
    """A program that only ran again after right answers knew which answers are right."""
    scorer, ran = CallScorer(sums, bubblewrap, 2), []
    truth = scorer.expected()
    monkeypatch.setattr(call_scoring.box, "run", lambda *job: ran.append(job[0].text) or run(*job))
    monkeypatch.setattr(call_scoring, "USUAL", replace(USUAL, silence=1))
    loop = "def add(a, b):\n    while a == 3: pass\n    return "
    solutions = [(sums.problems[0], loop + answer) for answer in ("a + b", "None")]
    found = scorer.score(truth, solutions)
    assert found == [Statuses("passed", "timed out", "[3, 5]"), FAIL]
    codes = [json.loads(text.splitlines()[0])["code"] for text in ran]
    assert [codes.count(code) for _, code in solutions] == [2, 2]


def test_a_program_that_does_not_start_is_no_fault_of_the_model(sums, bubblewrap, monkeypatch):
    monkeypatch.setattr(call_scoring, "DRIVER_FILES", [Path("/nonexistent")])
    with pytest.raises(UserError, match=r"does not start on this machine, tried 3 times: .*exist"):
        verdicts(sums, right_solutions(), bubblewrap)


def test_nothing_prolongs_a_program(sums, bubblewrap, monkeypatch):
    """An answer, or the end of a set, five times a second. No pause is too long."""
    drip = "import os, time\nfor _ in range(99):\n    time.sleep(0.2)\n    os.write(3, b'%s\\n')"
    codes, ran = [drip % line for line in ('{"value":4}', '{"set":0}')], []
    monkeypatch.setattr(call_scoring.box, "run", lambda *job: ran.append(run(*job)) or ran[-1])
    monkeypatch.setattr(call_scoring, "USUAL", replace(USUAL, seconds=1))
    monkeypatch.setattr(call_scoring, "SLOWER", 0)
    found = verdicts(sums, codes, bubblewrap)
    assert {verdict.plus for verdict in found} <= {"failed", "timed out", "error"}
    assert [ended.status for ended in ran].count("timed out") == 4  # each of them twice


def test_what_is_slow_here_is_measured_against_the_reference_and_tried_again(make, bubblewrap):
    """Two seconds are too long at first, and right where the canonical solution needs half one."""
    rows = three_problems()
    rows[0]["canonical_solution"] = "    import time; time.sleep(0.5); return a + b\n"
    rows[0]["plus_input"] = []
    slow = "import time\ndef add(a, b):\n    time.sleep(2)\n    return a + b\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call_scoring, "USUAL", replace(USUAL, silence=1))
        found = verdicts(make(*rows), [slow, *right_solutions()[1:]], bubblewrap)
    assert found == [PASS] * 3


def test_an_mbpp_problem_gets_its_inputs_as_evalplus_turns_them(make, bubblewrap):
    rows = [problem("add", "+", "Mbpp/2"), problem("add", "+", "Mbpp/3")]
    rows[0] |= {"base_input": [[[1], [2]]], "plus_input": []}  # lists become tuples for Mbpp/2
    adds_tuples = "def add(a, b):\n    return a + b if type(a) is tuple else None\n"
    found = verdicts(make(*rows), [adds_tuples, right_solutions()[0]], bubblewrap, workers=1)
    assert found == [PASS, PASS]


def test_calls_that_evalplus_cannot_turn_are_named(make):
    with pytest.raises(UserError, match=r"some arguments of Mbpp/2 into tuples.*not iterable"):
        CallScorer(make(problem("add", "+", "Mbpp/2")), None, 1).expected()


def test_a_canonical_solution_that_gives_no_result_is_named(make, bubblewrap, monkeypatch):
    """At once: those that do not end are not waited for."""
    rows, late = three_problems(), r"does not end within its limits, 1 s for a call and .*"
    rows[1]["canonical_solution"] = rows[2]["canonical_solution"] = "    while True: pass\n"
    faults = {"raise KeyError": "0 raises KeyError", "import os; os._exit(0)": "0 ends its process"}
    for solution, fault in (faults | {"return a + b": rf"[12] {late}"}).items():
        if late in fault:
            monkeypatch.setattr(call_scoring, "REFERENCE", replace(REFERENCE, silence=1))
        rows[0]["canonical_solution"] = f"    {solution}\n"
        with pytest.raises(UserError, match=rf"Arithmetic/{fault}; arguments: \[2, 2\]"):
            CallScorer(make(*rows), bubblewrap, 2).expected()


ODD_MESSAGES = [
    *('{"value": {"fraction": ["0x1", "0x0"]}}', '{"value": {"decimal": "x"}}'),
    *('{"value": {"complex": [1, 2, 3]}}', '{"value": {"int": 5}}', '{"value": {"set": [[1]]}}'),
    *('{"value": {"dict": [[[], 1]]}}', '{"value": {"dict": 7}}', '{"value": {"set": 7, "a": 7}}'),
    '{"value": ' + "[" * 5000 + "]" * 5000 + "}",
    *('{"digest": 7}', '{"raised": [], "errno": {}}', '{"raised": "x", "errno": []}'),
    *('{"neither": 1}', "[1]", "no JSON", "\\xff\\xfe"),
]


def test_odd_messages_lose_their_own_problem_only(make, bubblewrap):
    """Also where what was expected is large, so that what was returned is hashed."""
    rows = [problem("add", "+", f"Task/{number}") for number in range(2)]
    rows[0]["canonical_solution"] = "    return [a + b] * 100000\n"
    code = "import os\nos.write(3, b'''{0}\\n''')\nos.write(4, b'''{0}\\n''')"
    codes = [*map(code.format, ODD_MESSAGES)]
    right = rows[0]["prompt"] + rows[0]["canonical_solution"]
    *odd, last = verdicts(make(*rows), [*codes, right], bubblewrap)
    assert len(odd) % 2 == 0 and last == PASS
    assert {verdict.base for verdict in odd} == {"failed"}


# Steps without time limits, and a model that writes endless loops.
STEP = """
import sys
import threading
from xft.cli import running
from workflow_scripts import {step} as step
from xft.evaluation import call_scoring, scorers
from xft.evaluation.prompts import TaskPrompt
from xft.evaluation.sandbox import Limits
call_scoring.REFERENCE = call_scoring.USUAL = Limits(1e6)
scorers._probe = lambda _: None  # it is a program too
TaskPrompt.solution = lambda self, text: self.head + "    while True: pass"
running.run("{step}", lambda _: step.main(sys.argv[1:]))
"""


@pytest.fixture
def start(repository):
    """Callable (step, arguments): a step that never ends by itself, and the programs that it runs,
    one of them in an endless loop.
    """
    with ExitStack() as stack:

        def start(name, *arguments):
            words = [sys.executable, "-c", STEP.format(step=name), *map(str, arguments)]
            about = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            about["env"] = os.environ | {"PYTHONPATH": str(repository)}
            process = subprocess.Popen(words, **about)
            stack.enter_context(process)
            stack.callback(process.kill)
            used = 0
            while used < 0.5:  # then the loop runs
                assert process.poll() is None
                time.sleep(0.02)
                with suppress(psutil.Error):  # one has ended meanwhile
                    children = psutil.Process(process.pid).children(recursive=True)
                    programs = [c for c in children if "driver.py" in " ".join(c.cmdline())]
                    used = max((program.cpu_times().user for program in programs), default=0)
            return process, programs

        yield start


def wait_for_the_end(programs) -> None:
    for program in programs:
        with suppress(psutil.NoSuchProcess):
            while program.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.02)


def test_what_a_program_starts_ends_with_it():
    code = "import subprocess\ndef start():\n    return subprocess.Popen(['sleep', 'infinity']).pid"
    asked = call_scoring.caller(code, "start", "[[[]],[]]", USUAL, 0, False)
    started = json.loads(run(asked, None).output.splitlines()[0])["value"]
    wait_for_the_end([process for process in psutil.process_iter() if process.pid == started])


def test_a_program_that_says_nothing_is_silent_from_its_start_on():
    """Its limit would have no effect if each look at the program counted as a word of it."""
    code, limits = "def f():\n    while True: pass", replace(USUAL, seconds=10, silence=1)
    ended = run(call_scoring.caller(code, "f", "[[[]],[]]", limits, 0, False), None)
    assert ended.status == "timed out" and ended.silence > 1


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_no_program_outlives_a_killed_step(start, tmp_path, sandbox, bubblewrap):
    rows = three_problems()
    rows[0]["canonical_solution"] = "    while True: pass\n"
    problems = write_problems(tmp_path / "sums.jsonl", rows)
    flags = ["--dataset", problems, "--sandbox", sandbox, "--out", tmp_path / "truth"]
    process, programs = start("ground_truth", *flags)
    process.kill()
    wait_for_the_end(programs)


@pytest.mark.ci
def test_a_signal_ends_the_scoring_and_keeps_generations(start, tiny_llama, tmp_path, bubblewrap):
    problems = write_problems(tmp_path / "sums.jsonl", three_problems())
    out, truth = tmp_path / "out" / "r.json", tmp_path / "truth"
    flags = ["--model", tiny_llama, "--dataset", problems, "--out", out, "--ground-truth", truth]
    flags += ["--prompt", "completion", "--max-new-tokens", 4, "--threads", 1]
    step.main(["--dataset", str(problems), "--out", str(truth)])

    process, programs = start("eval", *flags)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors and "Exception" not in errors
    wait_for_the_end(programs)
    names = {path.name for path in out.parent.iterdir()}
    assert names == {".r.generations.jsonl.part", "r.generations.jsonl"}


def test_a_signal_that_comes_just_before_a_wait_ends_the_work_too():
    """Python's handler runs in the main thread. A signal that another thread gets, as here, wakes
    no lock for which the main thread waits.
    """
    told, main = [], threading.main_thread().ident

    def work(item, stop):
        while "submit" in [f.name for f in traceback.extract_stack(sys._current_frames()[main])]:
            time.sleep(0.01)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        told.append(bool(select.select([stop], [], [], 60)[0]))

    before = signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
    try:
        with pytest.raises(SystemExit):
            work_on([1], work, workers=1, desc="work", unit="item")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told == [True]
