"""Prompt templates, shared by training and evaluation."""

# The template of the paper (and of Magicoder, on which it builds). The response follows directly.
MAGICODER = """\
You are an exceptionally intelligent coding assistant that consistently delivers accurate and \
reliable responses to user instructions.

@@ Instruction
{instruction}

@@ Response
"""

TEMPLATES = {"magicoder": MAGICODER}


def format_prompt(instruction: str, template: str = "magicoder") -> str:
    """The text in front of the response. BOS is the tokenizer's business, EOS the response's."""
    head, tail = TEMPLATES[template].split("{instruction}")
    return head + instruction + tail


def encode_prompt(tokenizer, text: str) -> list[int]:
    """Token ids of a prompt, with BOS in front where the tokenizer has one."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + tokenizer(text, add_special_tokens=False)["input_ids"]
