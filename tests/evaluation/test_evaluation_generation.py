"""Generation writes the same in a batch as one by one, and stops where it may stop. With token
healing the model chooses the last token of a prompt again, and nothing else changes.
"""

import copy
import json
import math
import re
import shutil
from collections import Counter
from itertools import pairwise
from operator import ne
from string import ascii_lowercase
from types import SimpleNamespace

import pytest
import torch
from backbones import byte_level_bpe, small_config
from evaluations import completions
from pretended_device import GPU, pretended
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from xft.common.errors import UserError
from xft.evaluation.generation import Completion, Sampling, Vocabulary
from xft.evaluation.model_loading import computing_dtype, load_model
from xft.evaluation.prompts import TaskPrompt, cut

pytestmark = pytest.mark.numeric

NEW_TOKENS = 24
LONG = "def multiply_three_numbers(first, second, third):\n    return"
TEXTS = ["def add(a, b):\n", "x", LONG, "import os\n", "é = 'ü'\n"]
NEVER = ("\x00never",)


def prompts_of(texts, stops=NEVER):
    return [TaskPrompt(f"Task/{i}", text, text, stops) for i, text in enumerate(texts)]


def lively(model, tokenizer):
    """The model with larger random weights, so that it varies, writing nothing but ASCII."""
    torch.manual_seed(0)
    silent = [i for i in range(len(tokenizer)) if i < 3 or not tokenizer.decode([i]).isascii()]
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
        model.lm_head.weight[silent] = 0
    return model


@pytest.fixture
def model(tiny_llama, tokenizer):
    return lively(load_model(tiny_llama, threads=1)[0], tokenizer)


@pytest.fixture
def plain(model, tokenizer) -> list[list[int]]:
    """The greedy continuation of each text, token ids, by transformers alone, unbatched."""
    found = []
    for text in TEXTS:
        prompt = tokenizer(f"{tokenizer.bos_token}{text}", return_tensors="pt")["input_ids"]
        settings = {"do_sample": False, "pad_token_id": 2, "eos_token_id": 1}
        output = model.generate(prompt, max_new_tokens=NEW_TOKENS, **settings)
        found.append(output[0, prompt.shape[1] :].tolist())
    return found


@pytest.fixture
def write(model, tokenizer):
    """Callable (prompts, options): what we generate."""

    def write(prompts: list[TaskPrompt], model=model, **options) -> list[Completion]:
        options = {"max_new_tokens": NEW_TOKENS, "batch_size": len(TEXTS)} | options
        return completions(model, tokenizer, prompts, **options)

    return write


def test_what_cannot_be_generated_is_told(model, write):
    """Greedy decoding would choose the token whose score is NaN again and again."""
    for words, advice in ((90, r"Lower max_new_tokens to \d+, or"), (300, "Take shorter problems")):
        with pytest.raises(UserError, match=rf"1 prompt .*256 tokens: Task/1 .*{advice}"):
            write(prompts_of(["x", "y " * words]), max_new_tokens=100)
    model.model.norm.weight.data[0] = math.nan
    with pytest.raises(UserError, match="the logits are NaN"):
        write(prompts_of(TEXTS))


def test_the_first_batch_shows_its_tokens(write, impatient, capsys):
    write(prompts_of(TEXTS))
    line = r"^generate: 0/5 problem, .* elapsed, \? left, .*, token=7/24$"
    assert re.search(line, capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_equals_generation_one_by_one(write, tokenizer, plain, batch_size):
    expected = [Completion(tokenizer.decode(ids), "length") for ids in plain]
    assert write(prompts_of(TEXTS), batch_size=batch_size) == expected


def test_a_row_ends_at_any_of_the_model_s_end_tokens(model, write, tokenizer, plain):
    end = min(plain[0], key=lambda token: sum(token in row for row in plain))
    ends = [row.index(end) + 1 if end in row else None for row in plain]
    assert None in ends
    model.generation_config.eos_token_id = [1, end]
    texts = [tokenizer.decode(row[:length]) for row, length in zip(plain, ends, strict=True)]
    finishes = ["eos" if length else "length" for length in ends]
    assert write(prompts_of(TEXTS)) == [*map(Completion, texts, finishes)]


def test_the_model_s_sampling_settings_are_replaced_without_a_warning(
    tiny_llama, tmp_path, tokenizer, write, plain, caplog, capfd, monkeypatch
):
    folder = shutil.copytree(tiny_llama, tmp_path / "sampling")
    settings = {"do_sample": True, "temperature": 1.7, "top_p": 0.8, "repetition_penalty": 1.9}
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 1}))
    monkeypatch.setattr("transformers.utils.logging._default_handler", caplog.handler)

    sampling = lively(load_model(folder, threads=1)[0], tokenizer)
    (completion,) = write(prompts_of(TEXTS[:1]), model=sampling)

    assert completion.text == tokenizer.decode(plain[0])
    assert not caplog.records
    assert "generation flags" not in capfd.readouterr().err


def test_rows_that_are_done_leave_the_batch(model, write, tokenizer, plain, monkeypatch):
    """Of four rows, three end at their first token: the fourth goes on alone."""
    firsts = [tokenizer.decode(ids[:1]) for ids in plain[1:4]]
    stops = [NEVER, *((first,) for first in firsts)]
    prompts = [TaskPrompt("Task/0", *texts) for texts in zip(TEXTS, TEXTS, stops, strict=False)]
    rows, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **k: rows.append(len(k["input_ids"])) or forward(*a, **k)
    )
    completions = write(prompts)

    assert rows == [4] + [1] * (NEW_TOKENS - 1)
    texts = [tokenizer.decode(plain[0]), *firsts]
    assert [completion.text for completion in completions] == texts


def test_a_model_has_the_type_that_was_asked_for(tiny_llama):
    """auto is the stored type on a GPU."""
    kinds = {"auto": (torch.float16, torch.float32)}
    kinds |= {"fp32": (torch.float32,) * 2, "bf16": (torch.bfloat16,) * 2}
    for precision, (on_gpu, on_cpu) in kinds.items():
        for is_gpu, dtype in ((True, on_gpu), (False, on_cpu)):
            assert computing_dtype(precision, torch.float16, is_gpu) == dtype
        assert load_model(tiny_llama, 1, precision)[0].dtype == on_cpu


def test_draws_do_not_depend_on_the_batch(write):
    sampling = Sampling(temperature=1.0, top_p=0.9, seeds=range(10))
    alone = write(prompts_of(TEXTS) * 2, batch_size=1, sampling=sampling)
    assert write(prompts_of(TEXTS) * 2, batch_size=4, sampling=sampling) == alone
    assert len({completion.text for completion in alone}) == 10


def test_draws_do_not_depend_on_rows_that_leave_the_batch(write):
    """Rows with stop sequences end early, one after the other."""
    sampling = Sampling(temperature=1.0, top_p=0.9, seeds=range(10))
    texts = [text for text in TEXTS for _ in range(2)]
    stops = [NEVER, tuple(ascii_lowercase)] * len(TEXTS)
    prompts = [TaskPrompt(f"Task/{n}", text, text, stops[n]) for n, text in enumerate(texts)]
    alone = write(prompts, batch_size=1, sampling=sampling)
    finishes = [completion.finish for completion in alone]
    assert finishes.count("stop") > 2 < finishes.count("length")
    assert write(prompts, batch_size=10, sampling=sampling) == alone


def test_draws_follow_the_model_s_distribution(model, tokenizer):
    """First tokens of 2000 draws against softmax(logits / T) cut to the likeliest 30%."""
    count, temperature, top_p = 2000, 2.0, 0.3
    ids = [tokenizer.bos_token_id, *tokenizer(TEXTS[0])["input_ids"]]
    with torch.no_grad():
        shares = (model(torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)
    ordered = shares.sort(descending=True)
    kept = ordered.indices[: int((ordered.values.cumsum(0) < top_p).sum()) + 1].tolist()
    expected = Counter()
    for token in kept:  # several may have the same text
        text = tokenizer.decode([*ids, token], skip_special_tokens=True).removeprefix(TEXTS[0])
        expected[text] += count * (shares[token] / shares[kept].sum()).item()
    options = {"max_new_tokens": 1, "batch_size": 500}
    options["sampling"] = Sampling(temperature, top_p, seeds=range(count))
    drawn = completions(model, tokenizer, prompts_of(TEXTS[:1]) * count, **options)
    counts = Counter(completion.text for completion in drawn)
    assert counts.keys() <= expected.keys() and len(expected) > 5
    distance = sum((counts[text] - wanted) ** 2 / wanted for text, wanted in expected.items())
    assert distance < len(expected) + 5 * math.sqrt(2 * len(expected))


PROMPT = 'def f(): """Go"""'
BODY = "\n    return 1"
# As in Qwen's tokenizer: newlines belong to the punctuation in front of them.
PIECES = r" ?\w+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TASKS = [PROMPT, "def", "x = 1\n", 'class A:\n    """Go', "é = 'ü'\n", PROMPT + "\n", " r", "x d"]


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


def heal(model, tokenizer, prompt: TaskPrompt, token_healing=True) -> Completion:
    options = {"max_new_tokens": 12, "batch_size": 1, "token_healing": token_healing}
    return completions(model, tokenizer, [prompt], **options)[0]


def test_a_prompt_that_ends_within_a_token_is_continued_as_in_training(qwen_like):
    model = taught(qwen_like, PROMPT + BODY)
    marks, joined = (qwen_like.convert_tokens_to_ids(text) for text in ('"""', '"""Ċ'))
    assert qwen_like(PROMPT)["input_ids"][-1] == marks
    assert joined in qwen_like(PROMPT + BODY)["input_ids"]

    (prompt,) = prompts_of([PROMPT])
    assert heal(model, qwen_like, prompt, token_healing=False) == Completion("", "eos")
    assert heal(model, qwen_like, prompt) == Completion(BODY, "eos")
    assert heal(model, qwen_like, *prompts_of([PROMPT + "\n"])) == Completion(BODY[1:], "eos")


def test_a_batch_equals_its_prompts_one_by_one(qwen_like):
    """As do draws from the likeliest of the tokens that are allowed, on a GPU too."""
    model = llama(qwen_like, hidden=32)
    for weight in model.parameters():
        weight.data.normal_(std=0.5)
    prompts = prompts_of(TASKS)
    expected = [heal(model, qwen_like, prompt) for prompt in prompts]
    plain = [heal(model, qwen_like, prompt, token_healing=False) for prompt in prompts]
    assert 0 < sum(map(ne, plain, expected)) < len(TASKS)
    options = {"max_new_tokens": 12, "batch_size": 3, "token_healing": True}
    for sampling in (None, Sampling(1.0, 1e-6, seeds=range(len(TASKS)))):
        assert completions(model, qwen_like, prompts, **options, sampling=sampling) == expected
    with pretended():
        there = copy.deepcopy(model).to(GPU)
        assert completions(there, qwen_like, prompts, **options, sampling=sampling) == expected


def test_special_tokens_and_single_bytes_are_left_out():
    texts = ["<", "<s>", "<0x0A>", "<0x0", "<tool>", "<end>", "▁", "▁▁", "x<"]
    added = {4: SimpleNamespace(special=False), 5: SimpleNamespace(special=True)}
    about = {"added_tokens_decoder": added, "all_special_ids": [1]}
    numbers = {text: number for number, text in enumerate(texts)}
    vocabulary = Vocabulary(SimpleNamespace(get_vocab=lambda: numbers, **about))
    found = [sorted(vocabulary.replacements(number)) for number in range(len(texts))]
    assert found == [[0, 3, 4], [], [], [], [], [], [6, 7], [], []]


@pytest.mark.parametrize("start", [["▁x"], ["<s>"]])
def test_blanks_are_right_with_a_sentencepiece_tokenizer(start, monkeypatch):
    """Its tokens begin with their blank, and it drops the first blank of what it decodes."""
    texts = ["</s>", "<s>", "▁x", "▁de", "▁def", "▁return", "▁", "▁▁deep"]
    words = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, "</s>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    number = {text: i for i, text in enumerate(texts)}
    follows = {start[0]: "▁def", "▁def": "▁return", "▁de": "▁x"}
    model = bigram(tokenizer, {number[one]: number[two] for one, two in follows.items()})
    monkeypatch.setattr(TaskPrompt, "encode", lambda *_: [number[start[0]], number["▁de"]])
    (prompt,) = prompts_of([""])

    assert heal(model, tokenizer, prompt) == Completion("f return", "eos")
    assert heal(model, tokenizer, prompt, token_healing=False).text.startswith(" x")


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
        completion = heal(model, qwen_like, *prompts_of([prompt], (stop,)))
        assert completion == expected
        assert (cut(completion.text, (stop,)) != completion.text) == (completion.finish == "stop")
