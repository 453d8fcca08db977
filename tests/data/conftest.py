"""A tokenizer with a chat template."""

import copy

import pytest

# As in the ChatML form, with marks around what the assistant says.
CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<pad>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '</s>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '</s>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<pad>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def with_template(tokenizer):
    """Callable (jinja): the tests' tokenizer with this chat template; by default CHATML."""

    def with_template(jinja=CHATML):
        chatty = copy.deepcopy(tokenizer)
        chatty.chat_template = jinja
        return chatty

    return with_template


@pytest.fixture(scope="session")
def chatty(with_template):
    """The tests' tokenizer with the template CHATML."""
    return with_template()
