"""EvalPlus's verdicts through the sandbox, and what hostile code achieves: no pass, no hang."""

import io
import json
import time

import pytest
from problem_files import problem, right_solutions, three_problems, write_problems

from workflow_scripts.errors import UserError
from workflow_scripts.evaluation import scoring
from workflow_scripts.evaluation.problems import load_problems
from workflow_scripts.evaluation.process import Ended, run_child
from workflow_scripts.evaluation.sandbox import find_bubblewrap
from workflow_scripts.evaluation.scoring import Verdict, score

PASS = Verdict("pass", "pass")
FAIL = Verdict("fail", "fail")


@pytest.fixture(scope="module", params=["bubblewrap", "none"])
def any_sandbox(request):
    return None if request.param == "none" else _bubblewrap()


@pytest.fixture(scope="module")
def bubblewrap():
    return _bubblewrap()


def _bubblewrap():
    try:
        return find_bubblewrap()
    except UserError as error:
        pytest.skip(f"no sandbox can run here: {error}")


@pytest.fixture
def sums(tmp_path):
    return load_problems(str(write_problems(tmp_path / "sums.jsonl", three_problems())))


def test_right_wrong_and_nearly_right(sums, any_sandbox):
    right = right_solutions()
    nearly = [right[0].replace("a + b\n", "a * b\n"), right[2].replace("a * b\n", "a + b\n")]

    assert score(sums, right, sandbox=any_sandbox, workers=2) == [PASS] * 3
    assert score(sums, [nearly[0], right[1], nearly[1]], sandbox=any_sandbox, workers=2) == [
        Verdict("pass", "fail"),
        PASS,
        Verdict("pass", "fail"),
    ]


def test_code_that_raises_or_does_not_parse_fails(sums, bubblewrap):
    broken = ["def add(a, b):\n    return a +", "raise SystemExit", "x = 1"]

    assert score(sums, broken, sandbox=bubblewrap, workers=2) == [FAIL] * 3


@pytest.fixture
def short_limits(monkeypatch, tmp_path):
    """A driver with a time limit of one second per input."""
    driver = tmp_path / "driver.py"
    text = scoring.DRIVER.read_text()
    assert "MIN_TIME_LIMIT = 10.0" in text
    driver.write_text(text.replace("MIN_TIME_LIMIT = 10.0", "MIN_TIME_LIMIT = 1.0"))
    monkeypatch.setattr(scoring, "DRIVER", driver)


def test_loops_end_and_cost_only_their_own_problem(tmp_path, bubblewrap, short_limits):
    rows = three_problems()
    for row in rows:
        row["plus_input"] = []
    sums = load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))
    loop = "def add(a, b):\n    while True: pass\n"
    stubborn = (
        "import signal\n"
        "def subtract(a, b):\n"
        "    for number in (signal.SIGALRM, signal.SIGTERM):\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "    while True: pass\n"
    )

    verdicts = score(sums, [loop, stubborn, right_solutions()[2]], sandbox=bubblewrap, workers=2)

    assert verdicts == [FAIL, Verdict("timeout", "timeout"), PASS]


HOSTILE = {
    "import os\nos._exit(0)": "timeout",
    "import io\nio.open('/usr/planted', 'w')": "fail",
    "import socket\nsocket.create_connection(('127.0.0.1', 80))": "fail",
    "import posix\nposix.fork() or posix._exit(0)\nraise SystemExit": "fail",
    "x = 'a' * 2**40": "fail",
}


def test_hostile_code_loses_its_own_problem_only(tmp_path, bubblewrap):
    rows = [problem("add", "+", f"Task/{i}") for i in range(len(HOSTILE) + 2)]
    problems = load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))
    right = right_solutions()[0]

    verdicts = score(problems, [right, *HOSTILE, right], sandbox=bubblewrap, workers=2)

    assert verdicts == [PASS, *(Verdict(status, status) for status in HOSTILE.values()), PASS]


FORGED_FILE = """
import glob, io
for samples in glob.glob('/tmp/*/samples.jsonl'):
    with io.open(samples.replace('.jsonl', '_eval_results.json'), 'w') as file:
        file.write('{"eval": {}}')
"""


@pytest.mark.parametrize(
    "attack",
    [
        "import os, posix\nposix.kill(os.getppid(), 9)",
        "import posix\nposix.kill(-1, 9)",
        FORGED_FILE,
    ],
)
def test_an_attack_on_evalplus_ends_in_an_error_at_once(sums, bubblewrap, attack):
    right = right_solutions()
    start = time.monotonic()

    with pytest.raises(UserError, match="EvalPlus failed"):
        score(sums, [right[0], attack, right[2]], sandbox=bubblewrap, workers=2)
    assert time.monotonic() - start < 30


def test_the_result_s_descriptor_is_closed_to_the_code_under_test(sums, bubblewrap):
    """Whatever descriptor the code writes to, it is not the one from which verdicts are read."""
    attack = (
        "import os\n"
        "links = [os.readlink(link.path) for link in os.scandir('/proc/self/fd')]\n"
        "files = [link for link in links if 'deleted' in link and '/pym' not in link]\n"
        "if files: raise SystemExit\n"
    )
    solutions = right_solutions()
    solutions[1] = attack + solutions[1]

    assert score(sums, solutions, sandbox=bubblewrap, workers=2) == [PASS] * 3


def test_an_mbpp_problem_gets_its_inputs_as_evalplus_turns_them(tmp_path, bubblewrap):
    rows = [problem("add", "+", "Mbpp/2"), problem("add", "+", "Mbpp/3")]
    rows[0] |= {"base_input": [[[1], [2]]], "plus_input": []}  # lists become tuples for Mbpp/2
    problems = load_problems(str(write_problems(tmp_path / "own.jsonl", rows)))
    tuples_only = "def add(a, b):\n    return (*a, 2) if type(a) is tuple else None\n"

    verdicts = score(problems, [tuples_only, right_solutions()[0]], sandbox=bubblewrap, workers=1)

    assert verdicts == [PASS, PASS]


def test_a_crash_shows_the_end_of_the_output(tmp_path, bubblewrap):
    rows = three_problems()
    rows[1]["canonical_solution"] = "    return undefined_name\n"
    problems = load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))

    with pytest.raises(UserError, match=r"(?s)EvalPlus failed .*undefined_name"):
        score(problems, right_solutions(), sandbox=bubblewrap, workers=1)


def test_the_overall_time_limit_ends_all(sums, bubblewrap, monkeypatch):
    monkeypatch.setattr(scoring, "time_limit", lambda *_: 2)
    loop = "def add(a, b):\n    while True: pass\n"
    start = time.monotonic()

    with pytest.raises(UserError, match="ran out of time"):
        score(sums, [loop, *right_solutions()[1:]], sandbox=bubblewrap, workers=1)
    assert time.monotonic() - start < 8


def test_of_a_flood_of_output_only_the_end_is_kept(tmp_path):
    with tempfile_for(tmp_path) as result:
        ended = run_child(
            ["/bin/sh", "-c", "head -c 50000000 /dev/zero; echo the end"],
            environment={},
            seconds=30,
            inherited=result.fileno(),
            on_output=lambda chunk: None,
        )

    assert ended.status == 0
    assert len(ended.log) < 10_000
    assert ended.log.endswith("the end\n")


def test_a_process_left_behind_neither_delays_nor_survives(tmp_path):
    with tempfile_for(tmp_path) as result:
        start = time.monotonic()
        run_child(
            ["/bin/sh", "-c", f"(sleep 1; touch {tmp_path}/survived) & exit 0"],
            environment={"PATH": "/usr/bin:/bin"},
            seconds=30,
            inherited=result.fileno(),
            on_output=lambda chunk: None,
        )
    assert time.monotonic() - start < 0.9
    time.sleep(1.2)
    assert not (tmp_path / "survived").exists()


def tempfile_for(tmp_path):
    return (tmp_path / "result").open("w+b")


RIGHT_RESULT = {f"Arithmetic/{i}": ["pass", "pass"] for i in range(3)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        (json.dumps({"Arithmetic/0": ["pass", "pass"]}), "does not fit the problems: Arithmetic/1"),
        (json.dumps(RIGHT_RESULT | {"x": ["pass", "pass"]}), "does not fit the problems: x"),
        (json.dumps(RIGHT_RESULT | {"Arithmetic/2": ["pass", None]}), "Arithmetic/2 is"),
        (json.dumps(RIGHT_RESULT | {"Arithmetic/2": "pass"}), "Arithmetic/2 is"),
        (json.dumps(RIGHT_RESULT | {"Arithmetic/2": ["pass", "won"]}), "Arithmetic/2 is"),
    ],
)
def test_a_result_that_is_not_whole_is_refused(sums, content, message):
    with pytest.raises(UserError, match=message):
        scoring._read_verdicts(io.BytesIO(content.encode()), Ended(0, ""), sums)


def test_plus_needs_the_base_tests_too(sums):
    content = json.dumps(RIGHT_RESULT | {"Arithmetic/1": ["timeout", "pass"]})

    verdicts = scoring._read_verdicts(io.BytesIO(content.encode()), Ended(0, ""), sums)

    assert verdicts == [PASS, Verdict("timeout", "timeout"), PASS]
