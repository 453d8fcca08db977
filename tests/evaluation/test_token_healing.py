"""Token healing: the model chooses the last token of a prompt again, and nothing else changes."""

import copy
from dataclasses import dataclass
from itertools import pairwise
from operator import ne
from types import SimpleNamespace

import pytest
import torch
from backbones import byte_level_bpe, small_config
from pretended_device import GPU, pretended
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from xft.evaluation.generation import Completion, Sampling, generate
from xft.evaluation.healing import Vocabulary
from xft.evaluation.prompts import TaskPrompt, cut

pytestmark = pytest.mark.numeric

PROMPT = 'def f(): """Go"""'
BODY = "\n    return 1"
NEVER = ("\x00never",)
NEW_TOKENS = 12
# As in Qwen's tokenizer: newlines belong to the punctuation in front of them.
PIECES = r" ?\w+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [PROMPT, "def", "x = 1\n", 'class A:\n    """Go', "é = 'ü'\n", PROMPT + "\n", " r", "x d"]


@dataclass(frozen=True)
class Encoded(TaskPrompt):
    """A prompt with token ids of its own."""

    ids: tuple[int, ...] = ()

    def encode(self, tokenizer) -> list[int]:
        return list(self.ids)


def prompt_of(text, stops=NEVER):
    return TaskPrompt("Task/0", text, text, stops)


@pytest.fixture(scope="module")
def qwen_like():
    """A byte-level BPE (<s> 0, </s> 1) in which three quotation marks and a newline are a token."""
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    both = pre_tokenizers.Sequence([split, level])
    texts = [PROMPT + BODY + "\n\n", PROMPT + "\ndefine g\n\n", "x re rest do dot def default dim"]
    bpe = byte_level_bpe(both, texts * 9, vocab_size=320, special_tokens=["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def llama(tokenizer, hidden: int) -> LlamaForCausalLM:
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    config = small_config("llama", vocab_size=len(tokenizer), hidden_size=hidden, head_dim=8, **ids)
    return LlamaForCausalLM(config).eval()


def bigram(tokenizer, follows: dict[int, int]) -> LlamaForCausalLM:
    """A model that writes `follows[token]` after a token, and </s> after all others."""
    count = len(tokenizer)
    model = llama(tokenizer, hidden=-(-count // 8) * 8)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(count, model.config.hidden_size))
        model.lm_head.weight.zero_()
        for token in range(count):
            model.lm_head.weight[follows.get(token, tokenizer.eos_token_id), token] = 1
    return model


def taught(tokenizer, text: str) -> LlamaForCausalLM:
    """A model that writes the end of a text. No token of its last four may come twice in it."""
    ids = tokenizer(text)["input_ids"]
    follows = dict(pairwise(ids)) | {ids[-1]: tokenizer.eos_token_id}
    assert all(ids.count(token) == 1 for token in ids[-4:])
    return bigram(tokenizer, follows)


def write(model, tokenizer, prompt: TaskPrompt, token_healing=True) -> Completion:
    options = {"max_new_tokens": NEW_TOKENS, "batch_size": 1, "token_healing": token_healing}
    return generate(model, tokenizer, [prompt], **options)[0]


def test_a_prompt_that_ends_within_a_token_is_continued_as_in_training(qwen_like):
    model = taught(qwen_like, PROMPT + BODY)
    marks, joined = (qwen_like.convert_tokens_to_ids(text) for text in ('"""', '"""Ċ'))
    assert qwen_like(PROMPT)["input_ids"][-1] == marks
    assert joined in qwen_like(PROMPT + BODY)["input_ids"]

    prompt = prompt_of(PROMPT)
    assert write(model, qwen_like, prompt, token_healing=False) == Completion("", "eos")
    assert write(model, qwen_like, prompt) == Completion(BODY, "eos")
    assert write(model, qwen_like, prompt_of(PROMPT + "\n")) == Completion(BODY[1:], "eos")


def test_a_batch_equals_its_prompts_one_by_one(qwen_like):
    """As do draws from the likeliest of the tokens that are allowed, on a GPU too."""
    model = llama(qwen_like, hidden=32)
    for weight in model.parameters():
        weight.data.normal_(std=0.5)
    prompts = [prompt_of(text) for text in TEXTS]
    expected = [write(model, qwen_like, prompt) for prompt in prompts]
    plain = [write(model, qwen_like, prompt, token_healing=False) for prompt in prompts]
    assert 0 < sum(map(ne, plain, expected)) < len(TEXTS)
    options = {"max_new_tokens": NEW_TOKENS, "batch_size": 3, "token_healing": True}
    for sampling in (None, Sampling(1.0, 1e-6, seeds=range(len(TEXTS)))):
        assert generate(model, qwen_like, prompts, **options, sampling=sampling) == expected
    with pretended():
        there = copy.deepcopy(model).to(GPU)
        assert generate(there, qwen_like, prompts, **options, sampling=sampling) == expected


def test_special_tokens_and_single_bytes_are_left_out():
    texts = ["<", "<s>", "<0x0A>", "<0x0", "<tool>", "<end>", "▁", "▁▁", "x<"]
    added = {4: SimpleNamespace(special=False), 5: SimpleNamespace(special=True)}
    vocabulary = Vocabulary(
        SimpleNamespace(
            get_vocab=lambda: {text: number for number, text in enumerate(texts)},
            added_tokens_decoder=added,
            all_special_ids=[1],
        )
    )
    found = [sorted(vocabulary.replacements(number)) for number in range(len(texts))]
    assert found == [[0, 3, 4], [], [], [], [], [], [6, 7], [], []]


@pytest.mark.parametrize("start", [["▁x"], ["<s>"]])
def test_blanks_are_right_with_a_sentencepiece_tokenizer(start):
    """Its tokens begin with their blank, and it drops the first blank of what it decodes."""
    texts = ["</s>", "<s>", "▁x", "▁de", "▁def", "▁return", "▁", "▁▁deep"]
    words = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, "</s>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    number = {text: i for i, text in enumerate(texts)}
    follows = {start[0]: "▁def", "▁def": "▁return", "▁de": "▁x"}
    model = bigram(tokenizer, {number[one]: number[two] for one, two in follows.items()})
    prompt = Encoded("Task/0", "", "", NEVER, ids=(number[start[0]], number["▁de"]))

    assert write(model, tokenizer, prompt) == Completion("f return", "eos")
    assert write(model, tokenizer, prompt, token_healing=False).text.startswith(" x")


def test_a_stop_sequence_counts_if_it_lies_in_the_completion(qwen_like):
    model = taught(qwen_like, PROMPT + "\ndefine g")
    for prompt, stop, expected in (
        # The sequence lies in the completion, and its first character is of the healed token.
        (PROMPT, "\ndefine", Completion("\ndefine", "stop")),
        (PROMPT, "\n", Completion("\n", "stop")),
        # It begins in the prompt, so that a search in the completion does not find it.
        (PROMPT + "\n", "\ndefine", Completion("define g", "eos")),
        (PROMPT + "\n", '"""\n', Completion("define g", "eos")),
        (PROMPT, '"""', Completion("\ndefine g", "eos")),
        (PROMPT, '"\n', Completion("\ndefine g", "eos")),
        (PROMPT, "g", Completion("\ndefine g", "stop")),
    ):
        completion = write(model, qwen_like, prompt_of(prompt, (stop,)))
        assert completion == expected
        assert (cut(completion.text, (stop,)) != completion.text) == (completion.finish == "stop")
