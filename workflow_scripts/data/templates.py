"""Prompt templates for training and evaluation.

The identity of a template is "magicoder", "chat", or the text of a template file. Manifests hold
the identity: a path would not show what the template was.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.common.errors import UserError, did_you_mean
from workflow_scripts.config.sections import TokensConfig

SLOT = "{instruction}"
# The template of the paper and of Magicoder. The response follows directly.
MAGICODER = """\
You are an exceptionally intelligent coding assistant that consistently delivers accurate and \
reliable responses to user instructions.

@@ Instruction
{instruction}

@@ Response
"""
CHAT = "chat"
TEXTS = {"magicoder": MAGICODER}
NAMES = (*TEXTS, CHAT)
# Goes before a chat template that uses today's date, so that tokens are the same every day.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}{{ '' }}"


def read_template(name_or_file: str, names: tuple[str, ...] = NAMES) -> str:
    """The identity of a template. names: templates that are not files.

    Raises UserError if a file is missing, is not text, or does not hold {instruction} exactly once.
    """
    if name_or_file in names:
        return name_or_file
    file = Path(name_or_file)
    if not file.is_file():
        raise UserError(
            f"{file} is neither a template ({', '.join(names)}) nor a file"
            f"{did_you_mean(name_or_file, names)}"
        )
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from None
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
    return TextTemplate(*TEXTS.get(identity, identity).split(SLOT), identity)


@dataclass(frozen=True)
class TextTemplate:
    """Text around an instruction. BOS comes first if the tokenizer has one."""

    head: str
    tail: str
    identity: str

    def render(self, instruction: str) -> str:
        """The text in front of the response."""
        return self.head + instruction + self.tail

    def encode(self, tokenizer, instructions: list[str]) -> list[list[int]]:
        """Token ids of each prompt. Special tokens in the template's own text stay special."""
        if has_special(tokenizer, self.head + self.tail):
            # JSON strings are valid Jinja strings, so Jinja runs no command in them.
            head, tail = (json.dumps(text, ensure_ascii=False) for text in (self.head, self.tail))
            jinja = f"{{{{ {head} }}}}{{{{ messages[0].content }}}}{{{{ {tail} }}}}"
            prompts = _encode_chats(tokenizer, jinja, instructions)
        else:
            prompts = encode_literally(tokenizer, [self.render(text) for text in instructions])
        bos = tokenizer.bos_token
        if bos is None or self.head.startswith(bos):
            return prompts
        return [[tokenizer.bos_token_id, *prompt] for prompt in prompts]


# The prompt is the problem's own text, and the model completes it.
COMPLETION = TextTemplate("", "", "completion")
PROMPT_NAMES = (COMPLETION.identity, *NAMES)


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
        return _apply(self.tokenizer, self._jinja, _chat(instruction), tokenize=False)

    def encode(self, tokenizer, instructions: list[str]) -> list[list[int]]:
        """Token ids of each prompt. Special tokens in the chat template stay special."""
        return _encode_chats(tokenizer, self._jinja, instructions)

    @property
    def _jinja(self) -> str:
        jinja = self.tokenizer.get_chat_template()
        return FIXED_DATE + jinja if "strftime_now" in jinja else jinja


def encode_literally(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of texts. Names of special tokens in them are plain text."""
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return tokenizer(texts, **options)["input_ids"]


def has_special(tokenizer, text: str) -> bool:
    """Whether a text names special tokens of a tokenizer."""
    added = tokenizer.added_tokens_decoder.values()
    return any(token.special and token.content in text for token in added)


def _encode_chats(tokenizer, jinja: str, instructions: list[str]) -> list[list[int]]:
    """Token ids of chats. Only special tokens in the template are special."""
    chats = [_chat(instruction) for instruction in instructions]
    options = {"return_dict": False, "tokenizer_kwargs": {"verbose": False}}
    return _apply(tokenizer, jinja, chats, sanitize_control_tokens=True, **options)


def _apply(tokenizer, jinja: str, chats: list, **options):
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            chats, chat_template=jinja, add_generation_prompt=True, **options
        )
    except TemplateError as error:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} fails on an instruction: {error}"
        ) from None


def _chat(instruction: str) -> list[dict]:
    return [{"role": "user", "content": instruction}]
