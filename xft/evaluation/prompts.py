"""Builds a model's prompt for each problem, and extracts the solution from its completion."""

import hashlib
from dataclasses import dataclass

from xft.data.templates import COMPLETION, ChatTemplate, Template, encode_literally
from xft.evaluation.problems import Problem, ProblemSet, split_mbpp

FENCE = "```"
# A base model's completion ends before these. An MBPP prompt holds no function, so helpers and
# imports at the top level are part of the solution.
COMPLETION_STOPS = {
    "humaneval": (
        *("\ndef ", "\nasync def ", "\nclass ", "\n@", "\nimport ", "\nfrom ", "\nif "),
        *("\nassert ", "\nprint(", "\n#", '\n"""', FENCE),
    ),
    "mbpp": ("\nif ", "\nassert ", "\nprint(", '\n"""', FENCE),
}


@dataclass(frozen=True)
class TaskPrompt:
    """The text that a model continues: an instruction in its template, and the response's start.

    stops: the solution ends before the first of these.
    head: the code in front of the completion.
    """

    task_id: str
    instruction: str
    head: str
    stops: tuple[str, ...]
    template: Template = COMPLETION
    start: str = ""

    @property
    def text(self) -> str:
        return self.template.render(self.instruction) + self.start

    def encode(self, tokenizer) -> list[int]:
        """The token ids as in training: first the prompt, then the start of the response."""
        prompts = self.template.encode(tokenizer, [self.instruction])
        return prompts[0] + encode_literally(tokenizer, [self.start])[0]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def solution(self, completion: str) -> str:
        """The program to judge."""
        return self.head + cut(completion, self.stops)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """`text` up to the first occurrence of any of `stops`."""
    return text[: min((i for stop in stops if (i := text.find(stop)) >= 0), default=len(text))]


def task_prompts(problem_set: ProblemSet, template: Template) -> list[TaskPrompt]:
    """A prompt for each problem, in order."""
    return [task_prompt(p, problem_set.form, template) for p in problem_set.problems]


def task_prompt(problem: Problem, form: str, template: Template) -> TaskPrompt:
    """The prompt for a problem of a set of this form."""
    task_id, code = problem.task_id, problem.prompt
    if template == COMPLETION:
        return TaskPrompt(task_id, code, code, COMPLETION_STOPS[form], template)
    # The response ends at the first fence, as in the published evaluation. No evaluation with chats
    # is published. There it ends at the first fence at the start of a line, as in EvalPlus, because
    # docstrings and strings may hold other fences.
    stops = ("\n" + FENCE,) if isinstance(template, ChatTemplate) else (FENCE,)
    if form == "mbpp":
        request, assertion = split_mbpp(problem)
        lines = f"{request} Your code should satisfy the following assertion:", assertion
        return TaskPrompt(task_id, _with_code(*lines), "", stops, template, start="```python")
    code = code.strip()
    instruction = _with_code("Write a solution to the following problem:", code)
    return TaskPrompt(task_id, instruction, code, stops, template, start=f"```python\n{code}")


def _with_code(request: str, code: str) -> str:
    return f"{request}\n```python\n{code}\n```"
