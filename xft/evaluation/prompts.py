"""Builds a model's prompt for each problem, and extracts the solution from its completion."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from xft.common.errors import UserError, counted
from xft.data.prompt_templates import COMPLETION, ChatTemplate, Template, encode_literally
from xft.evaluation.problems import DataSet

FENCE = "```"


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
    places = [text.find(stop) for stop in stops]
    end = min((place for place in places if place >= 0), default=len(text))
    return text[:end]


def is_empty(problem, code: str) -> bool:
    """Whether the model added no code: only blanks and code fences."""
    added = code.strip().removeprefix(problem.prompt.strip())
    return not re.sub(rf"{FENCE}\w*", "", added).strip()


def check_fit(lengths: Mapping[str, int], window: float, max_new_tokens: int) -> None:
    """Raise UserError if prompts plus `max_new_tokens` do not fit into a model's window.

    lengths: the tokens of each prompt, by the problem's task id.
    """
    long = {name: n for name, n in lengths.items() if n + max_new_tokens > window}
    if long:
        left = window - max(long.values())
        advice = f"Lower max_new_tokens to {left}" if left > 0 else "Take shorter problems"
        names = ", ".join(f"{name} ({n} tokens)" for name, n in [*long.items()][:5])
        raise UserError(
            f"{counted(len(long), 'prompt')} and max_new_tokens = {max_new_tokens} do not fit into "
            f"the model's window of {window} tokens: {names}. {advice}, or set evaluation.too_long "
            "to skip, which leaves such problems out"
        )


def task_prompts(data_set: DataSet, template: Template) -> list[TaskPrompt]:
    """A prompt for each problem, in order."""
    return [data_set.form.prompt(problem, template) for problem in data_set.problems]


def instructed(
    problem, template: Template, language: str, stops: tuple[str, ...] = ()
) -> TaskPrompt:
    """The prompt of a template, in which the response begins with the problem's own text.

    language: behind the code fence.
    stops: the solution also ends before these.
    """
    code = problem.prompt.strip()
    instruction = with_code("Write a solution to the following problem:", language, code)
    start = f"{FENCE}{language}\n{code}"
    stops = (*ends_of_code(template), *stops)
    return TaskPrompt(problem.task_id, instruction, code, stops, template, start)


def ends_of_code(template: Template) -> tuple[str]:
    """The texts before which the code in a response ends.

    It ends at the first fence, as in the published evaluation. No evaluation with chats is
    published. There it ends at the first fence at the start of a line, as in EvalPlus, because
    docstrings and strings may hold other fences.
    """
    if isinstance(template, ChatTemplate):
        return ("\n" + FENCE,)
    return (FENCE,)


def with_code(request: str, language: str, code: str) -> str:
    return f"{request}\n{FENCE}{language}\n{code}\n{FENCE}"
