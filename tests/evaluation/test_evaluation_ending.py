"""Steps that run programs in sandboxes end when they are told to, and no sandbox outlives them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import psutil
import pytest
from problem_files import three_problems, write_problems

from workflow_scripts import eval as evaluate
from workflow_scripts import ground_truth as step

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


@pytest.fixture
def start(repository):
    """Callable (step, arguments): a step that never ends by itself, and the programs that it runs,
    the runner and its child.
    """
    with ExitStack() as stack:

        def start(name, *arguments):
            process = subprocess.Popen(
                [sys.executable, "-c", STEP.format(step=name), *map(str, arguments)],
                env=os.environ | {"PYTHONPATH": str(repository)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            programs = []
            while len(programs) < 2:
                assert process.poll() is None
                time.sleep(0.02)
                with suppress(psutil.Error):  # one has ended meanwhile
                    children = psutil.Process(process.pid).children(recursive=True)
                    programs = [c for c in children if "runner.py" in " ".join(c.cmdline())]
            return process, programs

        yield start


def wait_for_the_end(programs) -> None:
    while programs := [program for program in programs if is_alive(program)]:
        time.sleep(0.02)


def is_alive(program: psutil.Process) -> bool:
    try:
        return program.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_no_program_outlives_a_killed_step(start, tmp_path, sandbox, bubblewrap):
    rows = three_problems()
    rows[1]["canonical_solution"] = "    while True: pass\n"
    problems = write_problems(tmp_path / "sums.jsonl", rows)
    flags = ["--dataset", problems, "--sandbox", sandbox, "--out", tmp_path / "truth"]
    process, programs = start("ground_truth", *flags)
    process.kill()
    wait_for_the_end(programs)


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

    process, programs = start("eval", *flags)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors and "Exception" not in errors
    wait_for_the_end(programs)
    names = {path.name for path in out.parent.iterdir()}
    assert names == {".r.generations.jsonl.part", "r.generations.jsonl"}

    # Snakemake removes the outputs of a job that fails, the generations too.
    (out.parent / "r.generations.jsonl").unlink()
    evaluate.main([str(flag) for flag in flags])
    assert "continuing: 3 of 3 are written" in capsys.readouterr().err
    assert json.loads(out.read_text())["passed"] == {"base": 0, "plus": 0}
    assert not list(out.parent.glob(".*.part"))
