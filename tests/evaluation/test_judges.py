"""Programs may answer anything: their answers are judged within limits."""

import socket
import tempfile

import pytest
from evalplus.eval import untrusted_check
from interpreter import python

from xft.common.errors import UserError
from xft.evaluation import judges
from xft.evaluation.judges import Judges, Outcome, Returned, Rules, read_returned, write_trial
from xft.evaluation.plain_data import dumps, encode, value_hash
from xft.evaluation.scoring import FAILED

MANY = 16_000
RIGHT, WRONG, TOO_COSTLY = Outcome(2, 0, None), Outcome(0, 0, FAILED), None
LONG_TEXTS = ["A" * 60_000, *[""] * MANY]
COLLISIONS = {"set": [n * (2**61 - 1) for n in range(5000)]}  # all have the hash 0
CALLS = 20
# What the program answers, what is right, and the outcome.
ANSWERS = {
    "right": (5, encode(5), RIGHT),
    "an array of texts": ({"numpy": ["U", 1, LONG_TEXTS]}, encode([1.0]), WRONG),
    "texts for numbers": (LONG_TEXTS, encode([1.0] * len(LONG_TEXTS)), WRONG),
    "decimals": ([{"decimal": "1E4000"}] * 5000, None, WRONG),
    "a square of numbers": ([[1.0]] * MANY, encode([1.0] * MANY), TOO_COSTLY),
    "numbers of one hash": (COLLISIONS, COLLISIONS, TOO_COSTLY),
    "a long line": ([COLLISIONS] * 2, encode(5), Outcome(0, 0, None)),
    "nested lists": ("[" * 60_000 + "]" * 60_000, encode(5), WRONG),
}


def outcome(opened: Judges, answer, expected: dict) -> Outcome | None:
    """Of a program whose calls are all to return `expected`, and which answers so."""
    truth = dumps({"base": [expected] * CALLS, "plus": []})
    line = answer if isinstance(answer, str) else dumps(answer)
    with tempfile.TemporaryFile() as file:
        write_trial(file, "Own/1", "f", 1e-6, dumps([[[1]] * CALLS, []]), truth)
        values = f'{{"value":{line}}}\n' * CALLS
        file.write(f'{values}{{"set":0}}\n{{"set":0}}\n'.encode())
        with socket.socket(type=socket.SOCK_DGRAM) as stop:  # it never becomes readable
            return opened.outcome(file, stop)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_costs_little_or_its_own_trial(name, bubblewrap, monkeypatch):
    monkeypatch.setattr(judges, "SECONDS", 1)
    answer, right, wanted = ANSWERS[name]
    expected = {"value": right} if right else {"digest": value_hash([1] * 10**5).sha256}
    with Judges(confined=True) as opened:
        assert outcome(opened, answer, expected) == wanted
        assert outcome(opened, 7, {"value": 7}) == RIGHT


NUMBER = ("humaneval", "f", 0, [1])
NUMPY_S = ("float32(0.1)", "array([0.1])", "float64(0.1000001)", "ones(2)")
CASES = [  # the form, the function, its tolerance and arguments; what it returns; what is right
    *[(*NUMBER, value, 1.0) for value in ("1.0000009", "1.00001", "1", "True", "'1'", "None")],
    (*NUMBER, "type('Own', (float,), {})(1.0000009)", 1.0),
    *[(*NUMBER, f"__import__('numpy').{value}", 0.1) for value in NUMPY_S],
    *[(*NUMBER, value, [1.0, 2.0]) for value in ("[1.0, 2.0000001]", "(1.0, 2.0)", "[1.0]")],
    *[(*NUMBER, value, [1, 2]) for value in ("[1.0, 2]", "(1, 2)", "[1, 2.0000001]")],
    *[("humaneval", "f", 0.1, [1], value, [1, 2]) for value in ("[1, 2.05]", "[1, 2.5]")],
    *[("humaneval", "f", 0.1, [1], value, 1.0) for value in ("1.05", "1.5")],
    *[("mbpp", "are_equivalent", 0, [1, 2], "None", True)],
    *[("mbpp", "sum_div", 0, [8], value, 7) for value in ("0", "1", "7")],
    *[("mbpp", "digit_distance_nums", 0, [123, 256], value, 6) for value in ("6", "7", "8")],
    *[("mbpp", "similar_elements", 0, [[1], [2]], value, (1, 2)) for value in ("[2, 1]", "[1]")],
]


def test_values_are_judged_as_by_evalplus(monkeypatch):
    monkeypatch.setenv("EVALPLUS_MAX_MEMORY_BYTES", str(8 * 2**30))
    seen = set()
    for form, name, atol, arguments, value, right in CASES:
        code = f"def {name}(*_):\n    return {value}\n"
        status, _ = untrusted_check(form, code, [arguments], name, [right], atol, [60.0])
        judge = Rules("Mbpp/2" if form == "mbpp" else "Own/1", name, atol)
        returned = read_returned({"value": encode(eval(value))})
        accepts = judge.accepts(arguments, returned, Returned(right))
        assert accepts == (status == "pass"), (name, value, right)
        seen.add(accepts)
    assert seen == {True, False}


@pytest.mark.parametrize("name", ["find_zero", "are_equivalent", "sum_div", "Diff"])
def test_an_oracle_is_for_its_own_problem_alone(name):
    for value, accepts in (([7, 8], True), ([8, 7], False), (0, False)):
        judge = Rules("Mbpp/9999", name, 0)
        assert judge.accepts([1, 2], Returned(value), Returned([7, 8])) == accepts


def test_a_trial_s_process_opens_no_file_and_no_socket():
    attempts = """
import socket, sys
from xft.evaluation import judges
judges.limit(int(sys.argv[1]), 2**31, 60)
for attempt in (lambda: open("/dev/null"), socket.socket, socket.socketpair):
    try: attempt()
    except OSError as error: print(error.strerror)
"""
    for confined in "01":
        refused = python("-c", attempts, confined).stdout.splitlines()
        assert len(refused) == 3 and refused[0] == "Too many open files"


def test_the_end_of_the_server_is_no_fault_of_a_program():
    with Judges(confined=False) as opened:
        opened._server.kill()
        opened._server.wait()
        with pytest.raises(UserError, match="the process that judges solutions has ended"):
            outcome(opened, 7, {"value": 7})
