"""A tokenizer with a chat template."""

import copy
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).with_name("templates")


@pytest.fixture(scope="session")
def with_template(tokenizer):
    """Callable (jinja): the tests' tokenizer with this chat template, or that of a file there."""

    def with_template(jinja: str):
        chatty = copy.deepcopy(tokenizer)
        file = TEMPLATES / f"{jinja}.jinja"
        chatty.chat_template = file.read_text() if jinja.isalpha() else jinja
        return chatty

    return with_template


@pytest.fixture(scope="session")
def chatty(with_template):
    return with_template("chatml")
