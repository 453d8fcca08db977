"""Prompt templates for training and evaluation.

The identity of a template is "magicoder", "chat", or the text of a template file. Manifests hold
the identity: a path would not show what the template was.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from xft.common.errors import UserError, did_you_mean
from xft.common.file_access import read_text
from xft.common.system import limited
from xft.config.sections import TokensConfig
from xft.data.instruction_rows import Conversation, Row, Turn

SLOT = "{instruction}"
MOST_BYTES = 2**20  # of a template's file
# The template of the paper and of Magicoder. The response follows directly.
MAGICODER = Path(__file__).with_name("magicoder.txt").read_text()
CHAT = "chat"
# With "completion" the prompt is the problem's own text, and the model completes it.
TEXTS = {"completion": SLOT, "magicoder": MAGICODER}
NAMES = ("magicoder", CHAT)
PROMPT_NAMES = (*TEXTS, CHAT)
SAMPLE = Conversation((Turn("user", "Hello."), Turn("assistant", "Hello.")), 0)
# For one conversation by a chat template: seconds of the CPU, and MiB of memory.
MOST_SECONDS, MOST_MEMORY = 10, 1024
MOST_ADDED = 2**16  # characters, besides four times those of the conversation
BATCH = 100  # texts that are tokenised at a time; a token takes up to 250 bytes meanwhile
# What to do about a chat template that cannot be used.
ANOTHER = "Put another one into chat_template.jinja in the model's folder: docs/data.md shows one"
# The token ids of a row, and the parts of them that are responses, each [begin, end).
Encoded = tuple[list[int], list[tuple[int, int]]]
# Goes before a chat template that uses today's date, so that tokens are the same every day.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}{{ '' }}"


def read_template(name_or_file: str, names: tuple[str, ...] = NAMES) -> str:
    """The identity of a template.

    Raises UserError if a file is missing, is not text, or does not hold {instruction} exactly once.

    names: templates that are not files.
    """
    if name_or_file in names:
        return name_or_file
    file = Path(name_or_file)
    if not file.is_file():
        raise UserError(
            f"{file} is neither a template ({', '.join(names)}) nor a file"
            f"{did_you_mean(name_or_file, names)}"
        )
    text = read_text(file, MOST_BYTES)
    if text.count(SLOT) != 1:
        raise UserError(
            f"{file} holds {SLOT} {text.count(SLOT)} times; a template holds it exactly once"
        )
    return text


def with_template_read(options: TokensConfig) -> TokensConfig:
    """The options with their template by its identity. Raises UserError as `read_template`."""
    return options.model_copy(update={"template": read_template(options.template)})


def make_template(identity: str, tokenizer) -> "TextTemplate | ChatTemplate":
    """The template with this identity.

    Raises UserError if it is the chat template and the tokenizer has none.
    """
    if identity == CHAT:
        return ChatTemplate(tokenizer)
    head, tail = TEXTS.get(identity, identity).split(SLOT)
    return TextTemplate(head, tail, identity)


@dataclass(frozen=True)
class TextTemplate:
    """Text around an instruction. BOS comes first if the tokenizer has one."""

    head: str
    tail: str
    identity: str
    end_of_turn = None

    def render(self, instruction: str) -> str:
        """The text in front of the response."""
        return self.head + instruction + self.tail

    def encode(self, tokenizer, instructions: list[str]) -> list[list[int]]:
        """Token ids of each prompt. Special tokens in the template's own text stay special."""
        added = tokenizer.added_tokens_decoder.values()
        text = self.head + self.tail
        if any(token.special and token.content in text for token in added):
            # JSON strings are valid Jinja strings, so Jinja runs no command in them.
            head = json.dumps(self.head, ensure_ascii=False)
            tail = json.dumps(self.tail, ensure_ascii=False)
            jinja = f"{{{{ {head} }}}}{{{{ messages[0].content }}}}{{{{ {tail} }}}}"
            chats = [_chat(instruction) for instruction in instructions]
            prompts = _encode_chats(tokenizer, jinja, chats)
        else:
            texts = [self.render(instruction) for instruction in instructions]
            prompts = encode_literally(tokenizer, texts)
        bos = tokenizer.bos_token
        if bos is None or self.head.startswith(bos):
            return prompts
        return [[tokenizer.bos_token_id, *prompt] for prompt in prompts]

    def accept(self, conversation: Conversation) -> Row | str:
        """The conversation as a row, or the reason why it cannot be a row."""
        if [turn.role for turn in conversation.turns] != ["user", "assistant"]:
            return (
                "this template takes one turn of the user and the assistant's answer, and nothing "
                "else: set data.template: chat"
            )
        question, answer = conversation.turns
        return Row(question.content, answer.content, conversation.number)


COMPLETION = TextTemplate("", "", "completion")


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, with the instruction as the user's message.

    The chat template decides about BOS. Raises UserError if the tokenizer has no chat template.
    """

    tokenizer: object
    identity = CHAT

    def __post_init__(self):
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the tokenizer of {self.tokenizer.name_or_path} has no chat template. Use the "
                "template magicoder, or a file"
            )

    def render(self, instruction: str) -> str:
        """The text in front of the response."""
        return _render(self.tokenizer, self._jinja, _chat(instruction))

    def encode(self, tokenizer, instructions: list[str]) -> list[list[int]]:
        """Token ids of each prompt. Special tokens in the chat template stay special."""
        chats = [_chat(instruction) for instruction in instructions]
        return _encode_chats(tokenizer, self._jinja, chats)

    def accept(self, conversation: Conversation) -> Conversation | str:
        """The conversation, or why the chat template refuses it.

        Raises UserError if the chat template cannot mark turns: the text up to a response, and up
        to its end, must be the beginning of the whole text.
        """
        texts = self._growing_texts(conversation)
        try:
            are_growing = all(later.startswith(earlier) for earlier, later in pairwise(texts))
        except TemplateFault as fault:
            return str(fault)
        if not are_growing:
            self._cannot_mark("it writes earlier turns in another way when later ones follow")
        return conversation

    def _growing_texts(self, conversation: Conversation) -> Iterator[str]:
        """The texts up to each response, and up to its end. Raises as `_render`."""
        messages = conversation.messages
        for place in conversation.responses:
            up_to_response = messages[:place]
            with_response = messages[: place + 1]
            yield _render(self.tokenizer, self._jinja, up_to_response)
            yield _render(self.tokenizer, self._jinja, with_response, add_generation_prompt=False)

    def encode_conversation(self, conversation: Conversation, max_length: int) -> Encoded:
        """Token ids up to the end of the last response, and the parts that are responses.

        What follows the first response that ends beyond `max_length` tokens is left out.

        A part is a turn of the assistant with its end-of-turn token: the last special token that
        the template writes for the turn. The ids are those of the whole conversation, so a token
        that a response shares with the text in front of it is in the part. Raises UserError if the
        template ends such a turn with no special token.
        """
        messages = conversation.messages
        parts = []
        ids = []
        encode = partial(_encode_chats, self.tokenizer, self._jinja)
        for place in conversation.responses:
            (prompt,) = encode([messages[:place]])
            (whole,) = encode([messages[: place + 1]], add_generation_prompt=False)
            begin, end = self._part(prompt, whole)
            parts.append((begin, end))
            ids = whole[:end]
            if end > max_length:
                break
        return ids, parts

    @cached_property
    def end_of_turn(self) -> str | None:
        """The token that ends a turn of the assistant; None if the template cannot mark turns."""
        try:
            ids, _ = self.encode_conversation(SAMPLE, max_length=0)
        except UserError:
            return None
        return self.tokenizer.convert_ids_to_tokens(ids[-1])

    def _part(self, prompt: list[int], whole: list[int]) -> tuple[int, int]:
        """The part of `whole` that is a response.

        prompt: the token ids of the text in front.
        """
        begin = _shared_length(prompt, whole)
        end = len(whole)
        while end > begin and whole[end - 1] not in self._special:
            end -= 1
        if end == begin or self.tokenizer.decode(whole[end:]).strip():
            self._cannot_mark(
                "it ends the assistant's turns with no special token, such as {{ eos_token }}"
            )
        return begin, end

    def _cannot_mark(self, reason: str) -> NoReturn:
        raise UserError(
            f"the tokenizer of {self.tokenizer.name_or_path} has a chat template that cannot mark "
            f"turns: {reason}, and the rows are conversations. {ANOTHER}"
        )

    @cached_property
    def _special(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return {number for number, token in added if token.special}

    @property
    def _jinja(self) -> str:
        jinja = self.tokenizer.get_chat_template()
        return FIXED_DATE + jinja if "strftime_now" in jinja else jinja


Template = TextTemplate | ChatTemplate


def _shared_length(first: list[int], second: list[int]) -> int:
    """The number of token ids that both begin with; the length of `first` if `second` ends."""
    for place, (first_id, second_id) in enumerate(zip(first, second, strict=False)):
        if first_id != second_id:
            return place
    return len(first)


def encode_literally(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of texts. Names of special tokens in them are plain text."""
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return tokenizer(texts, **options)["input_ids"]


class TemplateFault(UserError):
    """A chat template does not write a conversation, for a reason in its own or Python's words."""


def _encode_chats(
    tokenizer, jinja: str, chats: list[list[dict]], add_generation_prompt: bool = True
) -> list[list[int]]:
    """Token ids of chats. Only special tokens in the template are special.

    Raises UserError if the template fails, or goes beyond a limit of `_render`.
    """
    texts = [
        _render(tokenizer, jinja, chat, add_generation_prompt, is_marked=True) for chat in chats
    ]
    options = {"add_special_tokens": False, "sanitize_control_tokens": True, "verbose": False}
    token_ids = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        token_ids += tokenizer(batch, **options)["input_ids"]
    return token_ids


def _render(
    tokenizer, jinja: str, chat: list, add_generation_prompt: bool = True, is_marked: bool = False
) -> str:
    """The text that a chat template makes of a chat.

    Raises TemplateFault if the template fails, and UserError if it takes too much time or memory or
    writes too much.

    is_marked: names of special tokens in the chat are marked, for the tokenizer, as plain text.
    """
    name = tokenizer.name_or_path
    try:
        with limited(MOST_SECONDS, MOST_MEMORY * 2**20):
            if is_marked:  # by transformers' own function: it would tokenise within the limits too
                marked, *_ = tokenizer._mark_chat_inputs(
                    jinja, [chat], None, None, {}, tokenize=True, assistant_mask=False
                )
                (chat,) = marked
            options = {"add_generation_prompt": add_generation_prompt, "tokenize": False}
            text = tokenizer.apply_chat_template(chat, chat_template=jinja, **options)
    except TimeoutError:
        fault = f"takes more than {MOST_SECONDS} s"
    except MemoryError:
        fault = f"takes more than {MOST_MEMORY} MiB of memory"
    except Exception as error:
        raise TemplateFault(f"the chat template of {name} refuses a row: {error}") from None
    else:
        if len(text) <= MOST_ADDED + 4 * len(str(chat)):
            return text
        fault = f"writes {len(text):,} characters"
    raise UserError(f"the chat template of {name} {fault} for one conversation. {ANOTHER}")


def _chat(instruction: str) -> list[dict]:
    return [{"role": "user", "content": instruction}]
