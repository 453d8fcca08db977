"""Steps that run programs in sandboxes end when they are told to, and no sandbox outlives them."""

import json
import os
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest
from problem_files import three_problems, write_problems

from workflow_scripts import eval as evaluate
from workflow_scripts import ground_truth as step
from xft.common.errors import UserError
from xft.evaluation import ground_truth
from xft.evaluation.execution import Limits
from xft.evaluation.problems import load_problems
from xft.evaluation.sandbox import find_bubblewrap
from xft.evaluation.workers import work_on

ENDLESS = "    while True: pass\n"
HANGS = 300  # seconds; what does not end by then never will
# Steps without time limits, and a model that writes endless loops.
STEP = """
import sys
from xft.cli import running
from workflow_scripts import {step} as step
from xft.evaluation import ground_truth, scoring
from xft.evaluation.execution import Limits
from xft.evaluation.prompts import TaskPrompt
NEVER = Limits(loading=1e6, call=1e6, calls=1e6)
ground_truth.REFERENCE_LIMITS = NEVER
scoring.Limits = lambda **_: NEVER
TaskPrompt.solution = lambda self, text: self.head + "    while True: pass"
running.run("{step}", lambda _: step.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module", params=["bubblewrap", "none"])
def sandbox(request):
    if request.param == "bubblewrap":
        request.getfixturevalue("bubblewrap")
    return request.param


@pytest.fixture
def start(repository):
    """Callable (step, arguments): a step that never ends by itself, in a process of its own."""
    started = []

    def start(name, arguments):
        environment = os.environ | {"PYTHONPATH": str(repository)}
        process = subprocess.Popen(
            [sys.executable, "-c", STEP.format(step=name), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def runners(process) -> list[psutil.Process]:
    """The processes below this one that run a solution."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child] if "runner.py" in " ".join(child.cmdline()) else []
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def wait_for(condition):
    """What `condition` gives once it holds."""
    deadline = time.monotonic() + HANGS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def assert_ends(process, number) -> None:
    """A signal ends the step, with its exit status, no trace, and nothing left running."""
    programs = wait_for(lambda: runners(process))
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors and "Exception" not in errors
    wait_for(lambda: not any(map(is_alive, programs)))


def is_alive(program: psutil.Process) -> bool:
    try:
        return program.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def endless_problems(folder):
    rows = three_problems()
    rows[1]["canonical_solution"] = ENDLESS
    return write_problems(folder / "sums.jsonl", rows)


@pytest.fixture
def ground_truths(start, tmp_path, sandbox):
    """The step while it runs a canonical solution that does not end."""
    flags = ["--dataset", endless_problems(tmp_path), "--sandbox", sandbox]
    return start("ground_truth", [*flags, "--out", tmp_path / "truth"])


def test_a_signal_ends_the_ground_truth_at_once(ground_truths, tmp_path, sandbox):
    assert_ends(ground_truths, signal.SIGINT if sandbox == "none" else signal.SIGTERM)
    assert [path.name for path in tmp_path.iterdir()] == ["sums.jsonl"]


def test_no_program_outlives_a_killed_step(ground_truths):
    programs = wait_for(lambda: both if len(both := runners(ground_truths)) > 1 else None)
    ground_truths.kill()
    wait_for(lambda: not any(map(is_alive, programs)))


def test_a_signal_ends_the_scoring_and_the_generations_are_kept(
    start, tiny_llama, tmp_path, capsys, bubblewrap
):
    problems = write_problems(tmp_path / "sums.jsonl", three_problems())
    out = tmp_path / "out" / "r.json"
    flags = ["--model", tiny_llama, "--dataset", problems, "--out", out]
    flags += ["--prompt", "completion", "--max-new-tokens", 4, "--threads", 1]
    truth = tmp_path / "truth"
    step.main(["--dataset", str(problems), "--out", str(truth)])
    flags += ["--ground-truth", truth]

    assert_ends(start("eval", flags), signal.SIGTERM)
    names = {path.name for path in out.parent.iterdir()}
    assert names == {".r.generations.jsonl.part", "r.generations.jsonl"}

    # Snakemake removes the outputs of a job that fails, the generations too.
    (out.parent / "r.generations.jsonl").unlink()
    evaluate.main([str(flag) for flag in flags])
    assert "continuing: 3 of 3 are written" in capsys.readouterr().err
    assert json.loads(out.read_text())["passed"] == {"base": 0, "plus": 0}
    assert not list(out.parent.glob(".*.part"))


def test_a_canonical_solution_that_does_not_end_is_refused(tmp_path, monkeypatch, sandbox):
    """At once: the others are not waited for."""
    rows = three_problems()
    rows[0]["canonical_solution"] = "    raise KeyError\n"
    rows[2]["canonical_solution"] = rows[1]["canonical_solution"] = ENDLESS
    problems = load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))
    bubblewrap = find_bubblewrap() if sandbox == "bubblewrap" else None
    with pytest.raises(UserError, match="Arithmetic/0 raises KeyError"):
        ground_truth.compute(problems, sandbox=bubblewrap, workers=2)
    monkeypatch.setattr(ground_truth, "REFERENCE_LIMITS", Limits(call=1))
    fault = r"Arithmetic/[12] does not end within its limits, 1 s for a call and .*; arguments: \[2"
    rows[0]["canonical_solution"] = "    return a + b\n"
    problems = load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))
    with pytest.raises(UserError, match=fault):
        ground_truth.compute(problems, sandbox=bubblewrap, workers=2)


def test_results_come_in_order_and_the_first_error_ends_the_rest():
    options = {"workers": 3, "desc": "work", "unit": "item"}
    numbers = range(20_000)
    assert work_on(numbers, lambda n, _: -n, **options) == [-n for n in numbers]
    assert work_on([], lambda *_: pytest.fail("no item"), **options) == []

    begun = []

    def work(number, stop):
        begun.append(number)
        if number == 1:
            raise KeyError
        select.select([stop], [], [])  # for ever, unless it is told to stop

    with pytest.raises(KeyError):
        work_on(numbers, work, **options)
    assert len(begun) < 20
