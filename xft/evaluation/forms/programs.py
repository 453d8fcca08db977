"""Problems whose tests are a program, such as MultiPL-E's.

The program is the prompt, the completion, a newline and the tests. It passes if it ends with
status 0 in time.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from xft.common.errors import UserError, counted, listed
from xft.common.progress import say
from xft.data.templates import COMPLETION, Template
from xft.evaluation.judging import PASSED
from xft.evaluation.languages import ENDS_ITSELF, class_path, find_language
from xft.evaluation.problems import ProblemSet, validated_row
from xft.evaluation.program_runs import (
    FOLDER_BYTES,
    MEMORY_BYTES,
    Ended,
    open_toolchain,
    run_program,
)
from xft.evaluation.prompts import FENCE, TaskPrompt, instructed
from xft.evaluation.sandbox import Bubblewrap
from xft.evaluation.scoring import NO_CODE, TIMED_OUT, Verdict, is_empty
from xft.evaluation.workers import Stop, work_on

KEYS = "prompt, tests, language and stop_tokens"
SECONDS = 15.0  # to compile and run a program
SECONDS_ALONE = 30.0  # if that was too short
# HumanEval's and MBPP's problems in MultiPL-E's names, such as mbpp_3_is_not_prime.
ORIGINAL = re.compile(r"(HumanEval|mbpp)_(\d+)_")


def _problem_of(original: str) -> str:
    """The task id of HumanEval or MBPP that MultiPL-E translated, if there is one."""
    found = ORIGINAL.search(original)
    return f"{found[1].replace('mbpp', 'Mbpp')}/{found[2]}" if found else original


class Program(BaseModel):
    """A problem. unit: the problem that several rows share, such as one in several languages."""

    model_config = ConfigDict(frozen=True, strict=True)

    task_id: str = Field(validation_alias=AliasChoices("task_id", "name"))
    prompt: str
    tests: Annotated[str, Field(pattern=r"\S")]
    language: Annotated[str, AfterValidator(lambda name: find_language(name).name)]
    stop_tokens: list[Annotated[str, Field(min_length=1)]]
    canonical_solution: str | None = None
    unit: Annotated[str, AfterValidator(_problem_of)] | None = Field(
        None, validation_alias=AliasChoices("unit", "original")
    )

    @property
    def canonical_program(self) -> str:
        return self.prompt + (self.canonical_solution or "")

    def program(self, solution: str) -> str:
        """The program that judges a solution."""
        return f"{solution}\n{self.tests}"


def fits(fields: object) -> bool:
    """Whether a row is of this form."""
    return isinstance(fields, dict) and "tests" in fields


def parse(fields: object, place: str) -> Program:
    """The problem of a row. Raises UserError."""
    return validated_row(Program, fields, place)


def prompt(problem: Program, template: Template) -> TaskPrompt:
    """The prompt for a problem. A tuned model's response begins with the problem's own text."""
    stops = tuple(problem.stop_tokens)
    if template == COMPLETION:
        code = problem.prompt
        return TaskPrompt(problem.task_id, code, code, (*stops, FENCE), template)
    return instructed(problem, template, find_language(problem.language).fence, stops)


def texts(problem: Program) -> dict[str, str]:
    """What no training row may hold, by kind."""
    solution = problem.canonical_solution
    return {"prompt": problem.prompt} | ({"solution": solution} if solution else {})


class Scorer:
    """Runs the programs of a set of problems.

    versions: of the languages, as their compilers or runtimes say. Raises UserError if one does not
    run on this machine.
    """

    def __init__(self, problem_set: ProblemSet, sandbox: Bubblewrap | None, workers: int):
        self.problem_set, self.sandbox, self.workers = problem_set, sandbox, workers
        names = dict.fromkeys(problem.language for problem in problem_set.problems)
        java = [p.prompt + p.tests for p in problem_set.problems if p.language == "java"]
        jars = tuple(class_path("".join(java))) if java else ()
        self.toolchains = {
            name: open_toolchain(find_language(name), jars if name == "java" else (), sandbox)
            for name in names
        }
        self.versions = {name: chain.version for name, chain in self.toolchains.items()}
        memory = f"{MEMORY_BYTES // 2**30} GiB of data for each process"
        inside = f", and for all of a program; {FOLDER_BYTES // 2**20} MiB of files"
        self.memory_bound = memory + inside if sandbox else memory

    def expected(self) -> dict[str, str]:
        """No results, since none are needed. Tells which canonical solutions do not pass."""
        known = [p for p in self.problem_set.problems if p.canonical_solution is not None]
        ends = self._ends([(p.language, p.program(p.canonical_program)) for p in known])
        faults = [
            f"line {self.problem_set.lines[problem.task_id]}, {problem.task_id}: {ended.status}: "
            f"{ended.text.strip()[-200:]}"
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
            ended = ends.get((problem.language, problem.program(code)))
            status = ended.status if ended and not is_empty(problem, code) else NO_CODE
            added = code.removeprefix(problem.prompt.strip())
            verdicts.append(Verdict(status, status, ends_itself=bool(ENDS_ITSELF.search(added))))
        return verdicts

    def _ends(self, programs: Sequence[tuple[str, str]]) -> list[Ended]:
        """How each program ends, in order. programs: language and text."""
        seconds = SECONDS

        def run(program: tuple[str, str], stop: Stop) -> Ended:
            name, text = program
            chain = self.toolchains[name]
            return run_program(chain, text, sandbox=self.sandbox, seconds=seconds, stop=stop)

        todo = list(dict.fromkeys(programs))
        shown = {"desc": "score", "unit": "program"}
        ends = dict(zip(todo, work_on(todo, run, workers=self.workers, **shown), strict=True))
        late = [program for program, ended in ends.items() if ended.status == TIMED_OUT]
        shown["desc"], seconds = "score again, alone", SECONDS_ALONE
        ends |= zip(late, work_on(late, run, workers=1, **shown), strict=True)
        return [ends[program] for program in programs]
