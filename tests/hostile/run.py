"""Runs every attack of this folder in the sandbox, and prints the status of each.

    python tests/hostile/run.py

Each file is an attack. Its first line says the expected status. Behind prelude.py it is a solution
of `add`, and a right one only if the attack succeeds. Correct solutions run between the attacks and
must pass. A program in programs/ is an attack in another language, which ends with status 0 if it
succeeds. The output is JSON: the status of each attack by name, and of the correct solutions.
"""

import json
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER.parent)]
sys.dont_write_bytecode = True

import psutil
from problem_files import problem, right_solutions, write_problems

from xft.common.system import usable_cpus
from xft.evaluation import call_scoring
from xft.evaluation.forms import load_problems
from xft.evaluation.languages import commands, find_executable, find_language, find_toolchains
from xft.evaluation.program_scoring import open_toolchain
from xft.evaluation.sandbox import run
from xft.evaluation.scorers import find_bubblewrap

PRELUDE = FOLDER / "prelude.py"
NOT_ATTACKS = {"run.py", PRELUDE.name}
BETWEEN = 4  # attacks between two correct solutions


def attacks() -> dict[str, str]:
    """The text of each attack by name."""
    files = sorted(path for path in FOLDER.glob("*.py") if path.name not in NOT_ATTACKS)
    return {path.stem: path.read_text() for path in files}


def programs() -> dict[str, str]:
    """The text of each attack in another language by its file's name."""
    return {path.name: path.read_text() for path in sorted((FOLDER / "programs").iterdir())}


def expected(code: str) -> str:
    """The status in the attack's first line."""
    return code.splitlines()[0].partition(" expect: ")[2]


def run_programs(sandbox) -> dict[str, str]:
    """The status of each attack in a language of this machine."""
    statuses = {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name, code in programs().items():
            language = find_language(name.partition(".")[2])
            if find_executable(language.version.split()[0]) is None:
                continue
            code = code.replace("PORT", str(server.getsockname()[1]))
            code = code.replace("PROJECT", str(FOLDER.parents[1]))
            (found,) = find_toolchains([(language.name, "")]).values()
            toolchain = open_toolchain(language, found, sandbox)
            file, *steps = commands(language, code)
            statuses[name] = run(toolchain.command(*steps, 60, file, code), sandbox).status
    return statuses


def main() -> None:
    call_scoring.USUAL = replace(call_scoring.USUAL, seconds=16, silence=2)
    codes = attacks()
    solutions = [f"{PRELUDE.read_text()}\n{code}" for code in codes.values()]
    for place in range(0, len(codes) + len(codes) // BETWEEN, BETWEEN + 1):
        solutions.insert(place, right_solutions()[0])
    with tempfile.TemporaryDirectory() as folder:
        file = write_problems(Path(folder) / "add.jsonl", [problem("add", "+", "Task/0")])
        problems = load_problems(str(file))
    sandbox, workers = find_bubblewrap(), usable_cpus()
    scorer = call_scoring.CallScorer(problems, sandbox, workers)
    pairs = [(*problems.problems, solution) for solution in solutions]
    verdicts = scorer.score(scorer.expected(), pairs)
    statuses = [verdict.plus for verdict in verdicts]
    neighbours = statuses[:: BETWEEN + 1]
    del statuses[:: BETWEEN + 1]
    found = {"statuses": dict(zip(codes, statuses, strict=True)), "neighbours": neighbours}
    found["programs"] = run_programs(sandbox)
    lines = (process.info["cmdline"] for process in psutil.process_iter(["cmdline"]))
    found["left"] = [line for line in lines if line and "stays_behind" in line]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
