"""Compare judging programs of tests with the plain compiler or runtime in a loop.

    python -m benchmarks.programs FILE

The canonical solutions of the problems in FILE are run, with programs of tests. Both ways use all
usable cores.
"""

import argparse
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import interleaved, speed_table
from xft.common.system import usable_cpus
from xft.evaluation.forms import load_problems
from xft.evaluation.languages import commands, find_language
from xft.evaluation.sandbox import CLEAN_ENVIRONMENT
from xft.evaluation.scorers import find_bubblewrap, open_scorer
from xft.evaluation.scoring import PASSED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    data_set = load_problems(args.file).first(args.limit)
    solutions = [(problem, problem.canonical_program) for problem in data_set.problems]
    passed = {}

    def sandboxed() -> None:
        verdicts = open_scorer(data_set, find_bubblewrap(), usable_cpus()).score({}, solutions)
        passed["sandboxed"] = sum(verdict.base == PASSED for verdict in verdicts)

    def plain() -> None:
        with ThreadPoolExecutor(usable_cpus()) as pool:
            passed["plain"] = sum(pool.map(run_plainly, *zip(*solutions, strict=True)))

    cases = {"plain": plain, "sandboxed": sandboxed}
    print(speed_table(interleaved(cases, args.repeats, warmup=1), "plain"))
    print(f"passed, of {len(solutions)}: {passed}")


def run_plainly(problem, solution: str) -> bool:
    program = problem.program(solution)
    file, compile, run = commands(find_language(problem.language), program)
    with TemporaryDirectory() as folder:
        Path(folder, file).write_text(program)
        line = " && ".join(filter(None, (compile, run)))
        options = {"cwd": folder, "env": CLEAN_ENVIRONMENT, "capture_output": True}
        done = subprocess.run(["sh", "-c", line], **options)
        return done.returncode == 0


if __name__ == "__main__":
    main()
