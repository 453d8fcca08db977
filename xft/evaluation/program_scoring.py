"""Judges solutions of problems whose tests are a program."""

import secrets
from collections.abc import Sequence

from xft.common.errors import counted, listed
from xft.common.progress import say
from xft.evaluation.forms.programs import Program
from xft.evaluation.judging import FAILED, PASSED
from xft.evaluation.languages import find_language, find_toolchains
from xft.evaluation.last_statement import with_word
from xft.evaluation.problems import ProblemSet
from xft.evaluation.program_runs import MEMORY_BYTES, Ended, open_toolchain, run_program
from xft.evaluation.sandbox import Bubblewrap
from xft.evaluation.scoring import NO_CODE, TIMED_OUT, Verdict, is_empty
from xft.evaluation.workers import Stop, work_on

SECONDS = 15.0  # to compile and run a program
MOST_TEXT = 200  # of a program's output, in a message
STOPPED = "it ended with status 0 before the end of its tests, or ended itself there"


class ProgramScorer:
    """Runs the programs of a set of problems.

    versions: of the languages, as their compilers or runtimes say. Raises UserError if one does not
    run on this machine.
    """

    def __init__(self, problem_set: ProblemSet, sandbox: Bubblewrap | None, workers: int):
        self.problem_set, self.sandbox, self.workers = problem_set, sandbox, workers
        parts = find_toolchains((p.language, p.prompt + p.tests) for p in problem_set.problems)
        self.toolchains = {
            name: open_toolchain(find_language(name), known, sandbox)
            for name, known in parts.items()
        }
        self.versions = {name: chain.version for name, chain in self.toolchains.items()}
        of_all = ", and of all of a program" if sandbox else ""
        self.memory_bound = f"{MEMORY_BYTES // 2**30} GiB of data of each process{of_all}"

    def expected(self) -> dict[str, str]:
        """No results, since none are needed. Tells which canonical solutions do not pass."""
        known = [p for p in self.problem_set.problems if p.canonical_solution is not None]
        ends = self._ends([(p.language, p.program(p.canonical_program)) for p in known])
        faults = [
            f"line {self.problem_set.lines[problem.task_id]}, {problem.task_id}: {ended.status}: "
            f"{_reason(ended.text)}"
            for problem, ended in zip(known, ends, strict=True)
            if ended.status != PASSED
        ]
        if faults:
            solutions = counted(len(faults), "canonical solution")
            say(f"{solutions} of {self.problem_set.file} would fail:\n{listed(faults)}")
        return {}

    def score(
        self, expected: dict[str, str], solutions: Sequence[tuple[Program, str]]
    ) -> list[Verdict]:
        """A verdict for each solution, in order. Both sets of tests are the problem's one.

        Equal programs run once. One that takes too long is tried again, alone.
        """
        filled = [(p, code) for p, code in solutions if not is_empty(p, code)]
        programs = [(problem.language, problem.program(code)) for problem, code in filled]
        ends = dict(zip(programs, self._ends(programs), strict=True))
        verdicts = []
        for problem, code in solutions:
            is_none = is_empty(problem, code)
            status = NO_CODE if is_none else ends[problem.language, problem.program(code)].status
            verdicts.append(Verdict(status, status))
        return verdicts

    def _ends(self, programs: Sequence[tuple[str, str]]) -> list[Ended]:
        """How each program ends, in order. programs: language and text."""

        def run(program: tuple[str, str], stop: Stop) -> Ended:
            chain, word = self.toolchains[program[0]], secrets.token_hex()
            text = with_word(chain.language, program[1], word)
            ended = run_program(chain, text, sandbox=self.sandbox, seconds=SECONDS, stop=stop)
            if ended.status == PASSED and word.encode() not in ended.printed:
                return Ended(FAILED, STOPPED)
            return ended

        todo = list(dict.fromkeys(programs))
        shown = {"desc": "score", "unit": "program"}
        ends = dict(zip(todo, work_on(todo, run, workers=self.workers, **shown), strict=True))
        late = [program for program, ended in ends.items() if ended.status == TIMED_OUT]
        shown["desc"] = "score again, alone"
        ends |= zip(late, work_on(late, run, workers=1, **shown), strict=True)
        return [ends[program] for program in programs]


def _reason(text: str) -> str:
    """The first line of a program's output that speaks of an error, or else the last line."""
    lines = text.strip().splitlines() or [""]
    return next((line for line in lines if "rror" in line), lines[-1])[:MOST_TEXT]
