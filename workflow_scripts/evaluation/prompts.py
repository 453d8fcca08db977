"""What a model is asked for a problem, and how a solution is taken out of what it writes."""

import hashlib
from dataclasses import dataclass
from functools import partial

from workflow_scripts.data.prompts import format_prompt
from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.problems import Problem, ProblemSet

FENCE = "```"
# Where a base model has left the function that it was to complete.
HUMANEVAL_STOPS = (
    *("\ndef ", "\nasync def ", "\nclass ", "\n@", "\nimport ", "\nfrom ", "\nif ", "\nassert "),
    *("\nprint(", "\n#", '\n"""', FENCE),
)
# An MBPP prompt has no function yet: helpers and imports at the top level belong to the solution.
MBPP_STOPS = ("\nif ", "\nassert ", "\nprint(", '\n"""', FENCE)


@dataclass(frozen=True)
class TaskPrompt:
    """The text that a model continues.

    stops: the solution ends before the first of these. head: the code in front of the completion.
    """

    task_id: str
    text: str
    head: str
    stops: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def solution(self, completion: str) -> str:
        """The program that EvalPlus judges."""
        return self.head + cut(completion, self.stops)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """`text` up to the first occurrence of any of `stops`."""
    return text[: min((i for stop in stops if (i := text.find(stop)) >= 0), default=len(text))]


def task_prompts(problem_set: ProblemSet, style: str) -> list[TaskPrompt]:
    """A prompt for each problem, in order. `style` is "magicoder" or "completion"."""
    build = BUILDERS[style, problem_set.form]
    return [build(problem) for problem in problem_set.problems]


def _humaneval_magicoder(problem: Problem) -> TaskPrompt:
    code = problem.prompt.strip()
    instruction = f"Write a solution to the following problem:\n```python\n{code}\n```"
    text = format_prompt(instruction) + f"```python\n{code}"
    return TaskPrompt(problem.task_id, text, head=code, stops=(FENCE,))


def _mbpp_magicoder(problem: Problem) -> TaskPrompt:
    request, assertion = _split_mbpp(problem)
    instruction = (
        f"{request} Your code should satisfy the following assertion:\n```python\n{assertion}\n```"
    )
    return TaskPrompt(
        problem.task_id, format_prompt(instruction) + "```python", head="", stops=(FENCE,)
    )


def _split_mbpp(problem: Problem) -> tuple[str, str]:
    """The request, ending in a full stop, and the assertion of an MBPP prompt's docstring."""
    text = problem.prompt
    docstring = text[text.find('"""') + 3 : text.rfind('"""')]
    request, keyword, rest = docstring.partition("assert")
    if text.count('"""') < 2 or not keyword:
        raise UserError(f"{problem.task_id}: the prompt is no docstring with an assertion")
    request = request.strip()
    return request if request.endswith(".") else request + ".", (keyword + rest).strip()


def _completion(problem: Problem, stops: tuple[str, ...]) -> TaskPrompt:
    return TaskPrompt(problem.task_id, problem.prompt, problem.prompt, stops)


BUILDERS = {
    ("magicoder", "humaneval"): _humaneval_magicoder,
    ("magicoder", "mbpp"): _mbpp_magicoder,
    ("completion", "humaneval"): partial(_completion, stops=HUMANEVAL_STOPS),
    ("completion", "mbpp"): partial(_completion, stops=MBPP_STOPS),
}
