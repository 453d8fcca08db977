"""Generation writes the same in a batch as one by one, and stops where it may stop."""

import json
import math
import re
import shutil
from collections import Counter

import pytest

from xft.common.errors import UserError
from xft.evaluation.generation import Completion, Sampling, generate
from xft.evaluation.loading import computing_dtype, load_model
from xft.evaluation.prompts import TaskPrompt

pytestmark = pytest.mark.numeric

NEW_TOKENS = 24
TEXTS = [
    "def add(a, b):\n",
    "x",
    "def multiply_three_numbers(first, second, third):\n    return",
    "import os\n",
    "é = 'ü'\n",
]
NEVER = ("\x00never",)


def prompts_of(texts, stops=NEVER):
    return [TaskPrompt(f"Task/{i}", text, text, stops) for i, text in enumerate(texts)]


def lively(model, tokenizer):
    """The model with larger random weights, so that it varies, writing nothing but ASCII."""
    import torch

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
        return generate(model, tokenizer, prompts, **options)

    return write


def test_what_cannot_be_generated_is_told(model, write):
    """Greedy decoding would choose the token whose score is NaN again and again."""
    with pytest.raises(UserError, match=r"1 prompts .*256 tokens: Task/1 .*max_new_tokens"):
        write(prompts_of(["x", "y " * 200]), max_new_tokens=100)
    model.model.norm.weight.data[0] = math.nan
    with pytest.raises(UserError, match="the logits are NaN"):
        write(prompts_of(TEXTS))


def test_the_first_batch_shows_its_tokens(write, monkeypatch, capsys):
    for name in ("SECONDS_BEFORE_FIRST", "SECONDS_BETWEEN_LINES"):
        monkeypatch.setattr(f"xft.common.progress.{name}", 0)
    write(prompts_of(TEXTS))
    line = r"^generate: 0/5 problem, .* elapsed, \? left, .*, token=7/24$"
    assert re.search(line, capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_equals_generation_one_by_one(write, tokenizer, plain, batch_size):
    expected = [Completion(tokenizer.decode(ids), "length") for ids in plain]
    assert write(prompts_of(TEXTS), batch_size=batch_size) == expected


def test_a_row_ends_with_the_token_that_completes_a_stop_sequence(write, tokenizer, plain):
    pieces = [tokenizer.decode([token]) for token in plain[0]]
    end = next(i for i in range(5, 20) if pieces[i - 1] + pieces[i] not in "".join(pieces[:i]))
    stop = pieces[end - 1] + pieces[end]
    first, *others = write(prompts_of(TEXTS[:1], (stop,)) + prompts_of(TEXTS[1:]))
    assert first == Completion("".join(pieces[: end + 1]), "stop")
    assert others == [Completion(tokenizer.decode(ids), "length") for ids in plain[1:]]


def test_a_row_ends_at_any_of_the_model_s_end_tokens(model, write, tokenizer, plain):
    end = min(plain[0], key=lambda token: sum(token in row for row in plain))
    ends = [row.index(end) + 1 if end in row else None for row in plain]
    assert None in ends
    model.generation_config.eos_token_id = [1, end]
    assert write(prompts_of(TEXTS)) == [
        Completion(tokenizer.decode(row[:length]), "eos" if length else "length")
        for row, length in zip(plain, ends, strict=True)
    ]


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
    prompts = [
        TaskPrompt("Task/0", text, text, stop) for text, stop in zip(TEXTS, stops, strict=False)
    ]
    rows, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **k: rows.append(len(k["input_ids"])) or forward(*a, **k)
    )
    completions = write(prompts)

    assert rows == [4] + [1] * (NEW_TOKENS - 1)
    texts = [tokenizer.decode(plain[0]), *firsts]
    assert [completion.text for completion in completions] == texts


@pytest.mark.parametrize(
    ("precision", "on_gpu", "on_cpu"),
    [("auto", "float16", "float32"), ("fp32", *["float32"] * 2), ("bf16", *["bfloat16"] * 2)],
)
def test_a_model_has_the_type_that_was_asked_for(tiny_llama, precision, on_gpu, on_cpu):
    """auto is the stored type on a GPU."""
    import torch

    for is_gpu, name in ((True, on_gpu), (False, on_cpu)):
        assert computing_dtype(precision, torch.float16, is_gpu) == getattr(torch, name)
    assert load_model(tiny_llama, 1, precision)[0].dtype == getattr(torch, on_cpu)


def test_draws_do_not_depend_on_the_batch(write):
    sampling = Sampling(temperature=1.0, top_p=0.9, seeds=range(10))
    alone = write(prompts_of(TEXTS) * 2, batch_size=1, sampling=sampling)
    assert write(prompts_of(TEXTS) * 2, batch_size=4, sampling=sampling) == alone
    assert len({completion.text for completion in alone}) == 10


def test_draws_follow_the_model_s_distribution(model, tokenizer):
    """First tokens of 2000 draws against softmax(logits / T) cut to the likeliest 30%."""
    import torch

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
    drawn = generate(
        *(model, tokenizer, prompts_of(TEXTS[:1]) * count),
        **{"max_new_tokens": 1, "batch_size": 500},
        sampling=Sampling(temperature, top_p, seeds=range(count)),
    )
    counts = Counter(completion.text for completion in drawn)
    assert counts.keys() <= expected.keys() and len(expected) > 5
    distance = sum((counts[text] - wanted) ** 2 / wanted for text, wanted in expected.items())
    assert distance < len(expected) + 5 * math.sqrt(2 * len(expected))
