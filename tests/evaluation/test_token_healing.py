"""Token healing: the model chooses the last token of a prompt again, and nothing else changes."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from xft.evaluation.generation import Completion, Sampling, generate
from xft.evaluation.healing import Vocabulary
from xft.evaluation.prompts import TaskPrompt, cut

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
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [PROMPT + BODY + "\n\n", PROMPT + "\ndefine g\n\n", "x re rest do dot def default dim"]
    bpe.train_from_iterator(texts * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def llama(tokenizer, hidden: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
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


@pytest.fixture
def random_model(qwen_like):
    model = llama(qwen_like, hidden=32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model


def write(model, tokenizer, prompt, token_healing=True, **options) -> Completion:
    (completion,) = generate(
        *(model, tokenizer, [prompt if isinstance(prompt, TaskPrompt) else prompt_of(prompt)]),
        **{"max_new_tokens": NEW_TOKENS, "batch_size": 1, "token_healing": token_healing},
        **options,
    )
    return completion


def allowed_by_hand(tokenizer, token: int) -> list[int]:
    """The ordinary tokens whose text begins with that of this one, by comparing all."""
    text = tokenizer.convert_ids_to_tokens(token)
    return [
        other
        for other in range(len(tokenizer))
        if other not in tokenizer.all_special_ids
        and tokenizer.convert_ids_to_tokens(other).startswith(text)
    ]


def healed_by_hand(model, tokenizer, text: str) -> tuple[str, bool]:
    """The greedy completion, one row and one token at a time, and whether its first token is not
    the prompt's last one.
    """
    ids = prompt_of(text).encode(tokenizer)
    last = ids[-1]
    allowed = allowed_by_hand(tokenizer, last)
    is_healed = len(allowed) > 1 and len(ids) > 1
    new = []
    while len(new) < NEW_TOKENS and new[-1:] != [tokenizer.eos_token_id]:
        with torch.no_grad():
            logits = model(torch.tensor([ids[: -1 if is_healed else None] + new])).logits[0, -1]
        if is_healed and not new:
            new.append(max(allowed, key=lambda token: logits[token].item()))
        else:
            new.append(int(logits.argmax()))
    whole = tokenizer.decode(ids[: -1 if is_healed else None] + new, skip_special_tokens=True)
    assert whole.startswith(text)
    return whole.removeprefix(text), is_healed and new[0] != last


def test_a_prompt_that_ends_within_a_token_is_continued_as_in_training(qwen_like):
    model = taught(qwen_like, PROMPT + BODY)
    marks, joined = (qwen_like.convert_tokens_to_ids(text) for text in ('"""', '"""Ċ'))
    assert qwen_like(PROMPT)["input_ids"][-1] == marks
    assert joined in qwen_like(PROMPT + BODY)["input_ids"]

    assert write(model, qwen_like, PROMPT, token_healing=False) == Completion("", "eos")
    assert write(model, qwen_like, PROMPT) == Completion(BODY, "eos")
    assert write(model, qwen_like, PROMPT + "\n") == Completion(BODY[1:], "eos")


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_it_equals_greedy_choices_by_hand(qwen_like, random_model, batch_size):
    expected = [healed_by_hand(random_model, qwen_like, text) for text in TEXTS]
    assert {is_other for _, is_other in expected} == {True, False}

    completions = generate(
        *(random_model, qwen_like, [prompt_of(text) for text in TEXTS]),
        **{"max_new_tokens": NEW_TOKENS, "batch_size": batch_size, "token_healing": True},
    )

    assert [completion.text for completion in completions] == [text for text, _ in expected]


def test_draws_do_not_depend_on_the_batch(qwen_like, random_model):
    prompts = [prompt_of(text) for text in TEXTS] * 2
    sampling = Sampling(temperature=1.5, top_p=0.9, seeds=range(len(prompts)))
    options = {"max_new_tokens": NEW_TOKENS, "token_healing": True, "sampling": sampling}
    alone = generate(random_model, qwen_like, prompts, batch_size=1, **options)

    assert generate(random_model, qwen_like, prompts, batch_size=3, **options) == alone
    assert len({completion.text for completion in alone}) == len(prompts)


def test_first_draws_follow_the_distribution_of_the_allowed_tokens(qwen_like, random_model):
    """1000 draws against the softmax over the allowed tokens, cut to the likeliest 80%."""
    count, temperature, top_p = 1000, 2.0, 0.8
    text = "f d"
    ids = prompt_of(text).encode(qwen_like)
    allowed = allowed_by_hand(qwen_like, ids[-1])
    with torch.no_grad():
        logits = random_model(torch.tensor([ids[:-1]])).logits[0, -1, allowed]
    shares = (logits / temperature).softmax(-1).sort(descending=True)
    kept = int((shares.values.cumsum(0) < top_p).sum()) + 1
    assert 1 < kept < len(allowed)
    expected = {
        qwen_like.decode([allowed[place]]).removeprefix(" d"): share / shares.values[:kept].sum()
        for place, share in zip(shares.indices[:kept].tolist(), shares.values[:kept], strict=True)
    }

    drawn = generate(
        *(random_model, qwen_like, [prompt_of(text)] * count),
        **{"max_new_tokens": 1, "batch_size": 500, "token_healing": True},
        sampling=Sampling(temperature, top_p, seeds=range(count)),
    )

    counts = Counter(completion.text for completion in drawn)
    assert counts.keys() == expected.keys()
    for drawn_text, share in expected.items():
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(counts[drawn_text] - count * share) < 4 * deviation + 1


@pytest.mark.parametrize(("text", "tail"), [("x =", ["</s>"]), ("x =", ["<s>"]), ("\n", [])])
def test_a_special_token_and_an_only_one_stay(qwen_like, random_model, text, tail):
    ids = qwen_like(text)["input_ids"] + qwen_like.convert_tokens_to_ids(tail)
    assert tail or Vocabulary(qwen_like).replacements(*ids)
    prompt = Encoded("Task/0", text, text, NEVER, ids=tuple(ids))
    plain = write(random_model, qwen_like, prompt, token_healing=False)
    assert write(random_model, qwen_like, prompt) == plain


def test_replacements_are_all_ordinary_tokens_with_this_beginning(qwen_like):
    vocabulary = Vocabulary(qwen_like)
    for token in range(len(qwen_like)):
        expected = allowed_by_hand(qwen_like, token)
        found = vocabulary.replacements(token)
        assert sorted(found) == (expected if len(expected) > 1 else [])
    assert vocabulary.replacements(qwen_like.convert_tokens_to_ids('"""'))


def test_special_tokens_and_single_bytes_are_left_out():
    texts = ["<", "<s>", "<0x0A>", "<0x0", "<tool>", "<end>", "▁", "▁▁"]
    added = {4: SimpleNamespace(special=False), 5: SimpleNamespace(special=True)}
    vocabulary = Vocabulary(
        SimpleNamespace(
            get_vocab=lambda: {text: number for number, text in enumerate(texts)},
            added_tokens_decoder=added,
            all_special_ids=[1],
        )
    )
    found = [sorted(vocabulary.replacements(number)) for number in range(len(texts))]
    assert found == [[0, 3, 4], [], [], [], [], [], [6, 7], []]


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


@pytest.mark.parametrize(
    ("prompt", "stop", "expected"),
    [
        # The sequence lies in the completion, and its first character is of the healed token.
        (PROMPT, "\ndefine", Completion("\ndefine", "stop")),
        (PROMPT, "\n", Completion("\n", "stop")),
        # It begins in the prompt, so that a search in the completion does not find it.
        (PROMPT + "\n", "\ndefine", Completion("define g", "eos")),
        (PROMPT + "\n", '"""\n', Completion("define g", "eos")),
        (PROMPT, '"""', Completion("\ndefine g", "eos")),
        (PROMPT, '"\n', Completion("\ndefine g", "eos")),
        (PROMPT, "g", Completion("\ndefine g", "stop")),
    ],
)
def test_a_stop_sequence_counts_if_it_lies_in_the_completion(qwen_like, prompt, stop, expected):
    text = PROMPT + "\ndefine g"
    model = taught(qwen_like, text)
    completion = write(model, qwen_like, prompt_of(prompt, (stop,)))
    assert completion == expected
    assert (cut(completion.text, (stop,)) != completion.text) == (completion.finish == "stop")
