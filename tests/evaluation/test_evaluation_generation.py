"""Generation: the same as one by one, stopped where it may stop, and clear about broken models."""

import json
import math
import shutil
from collections import Counter

import pytest

from xft.common.errors import UserError
from xft.evaluation.generation import Sampling, generate
from xft.evaluation.loading import artifact_id, load_model
from xft.evaluation.prompts import TaskPrompt

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
def plain(model, tokenizer):
    """Callable (text): the greedy continuation, token ids, by transformers alone, unbatched."""

    import torch

    def continue_text(text: str) -> list[int]:
        prompt = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=2,
            eos_token_id=1,
        )
        return output[0, prompt.shape[1] :].tolist()

    return continue_text


def test_a_model_that_computes_nan_is_refused(model, tokenizer):
    """Greedy decoding would choose the token whose score is NaN again and again."""
    model.model.norm.weight.data[0] = math.nan

    with pytest.raises(UserError, match="the logits are NaN"):
        generate(model, tokenizer, prompts_of(TEXTS), max_new_tokens=NEW_TOKENS, batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_equals_generation_one_by_one(model, tokenizer, plain, batch_size):
    expected = [tokenizer.decode(plain(text), skip_special_tokens=True) for text in TEXTS]

    completions = generate(
        model, tokenizer, prompts_of(TEXTS), max_new_tokens=NEW_TOKENS, batch_size=batch_size
    )

    assert [completion.text for completion in completions] == expected
    assert {completion.finish for completion in completions} == {"length"}


def test_a_row_ends_with_the_token_that_completes_a_stop_sequence(model, tokenizer, plain):
    tokens = plain(TEXTS[0])
    pieces = [tokenizer.decode([token]) for token in tokens]
    end = next(i for i in range(5, 20) if pieces[i - 1] + pieces[i] not in "".join(pieces[:i]))
    stop = pieces[end - 1] + pieces[end]
    prompts = prompts_of(TEXTS[:1], (stop,)) + prompts_of(TEXTS[1:])

    completions = generate(
        model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=len(TEXTS)
    )

    assert completions[0].text == "".join(pieces[: end + 1])
    assert completions[0].finish == "stop"
    assert [completion.finish for completion in completions[1:]] == ["length"] * 4
    for text, completion in zip(TEXTS[1:], completions[1:], strict=True):
        assert completion.text == tokenizer.decode(plain(text), skip_special_tokens=True)


def test_a_row_ends_at_any_of_the_model_s_end_tokens(model, tokenizer, plain):
    continuations = [plain(text) for text in TEXTS]
    end = min(continuations[0], key=lambda token: sum(token in row for row in continuations))
    ends = [row.index(end) + 1 if end in row else None for row in continuations]
    assert None in ends
    model.generation_config.eos_token_id = [1, end]

    completions = generate(
        model, tokenizer, prompts_of(TEXTS), max_new_tokens=NEW_TOKENS, batch_size=len(TEXTS)
    )

    assert [c.text for c in completions] == [
        tokenizer.decode(row[:length]) for row, length in zip(continuations, ends, strict=True)
    ]
    assert [c.finish for c in completions] == ["eos" if length else "length" for length in ends]


def test_generation_ends_once_all_rows_do(model, tokenizer, plain):
    model.generation_config.eos_token_id = plain(TEXTS[0])[2]
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))

    generate(model, tokenizer, prompts_of(TEXTS[:1]), max_new_tokens=NEW_TOKENS, batch_size=1)

    assert len(calls) <= 3


def test_the_model_s_sampling_settings_are_replaced_without_a_warning(
    tiny_llama, tmp_path, tokenizer, plain, caplog, capfd, monkeypatch
):
    folder = shutil.copytree(tiny_llama, tmp_path / "sampling")
    settings = {"do_sample": True, "temperature": 1.7, "top_p": 0.8, "repetition_penalty": 1.9}
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 1}))
    monkeypatch.setattr("transformers.utils.logging._default_handler", caplog.handler)

    sampling_model, _ = load_model(folder, threads=1)
    (completion,) = generate(
        lively(sampling_model, tokenizer),
        tokenizer,
        prompts_of(TEXTS[:1]),
        max_new_tokens=NEW_TOKENS,
        batch_size=1,
    )

    assert completion.text == tokenizer.decode(plain(TEXTS[0]), skip_special_tokens=True)
    assert not caplog.records
    assert "generation flags" not in capfd.readouterr().err


def test_the_leading_blanks_of_a_continuation_are_kept(model):
    """A SentencePiece tokenizer drops the first blank of what it decodes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["</s>", "▁def", "▁return", *(f"▁w{i}" for i in range(297))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    assert wrapped.decode([2]) == "return"

    (completion,) = generate(
        model, wrapped, prompts_of(["def return"]), max_new_tokens=2, batch_size=1
    )

    assert completion.text.startswith(" w")


def test_a_prompt_that_does_not_fit_the_window_is_named(model, tokenizer):
    prompts = prompts_of(["x", "y " * 200])

    with pytest.raises(UserError, match=r"1 prompts .*256 tokens: Task/1 .*max_new_tokens"):
        generate(model, tokenizer, prompts, max_new_tokens=100, batch_size=2)


def remove_config(folder):
    (folder / "config.json").unlink()


def break_config(folder):
    (folder / "config.json").write_text("{")


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def drop_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shrink_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:5]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def remove_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        remove_config,
        break_config,
        remove_weights,
        cut_weights,
        drop_a_tensor,
        shrink_a_tensor,
        remove_tokenizer,
        shutil.rmtree,
    ],
)
def test_a_broken_model_folder_is_named(tiny_llama, tmp_path, damage):
    folder = shutil.copytree(tiny_llama, tmp_path / "broken")
    damage(folder)

    with pytest.raises(UserError) as refusal:
        load_model(folder, threads=1)
    assert str(folder) in str(refusal.value)


def test_the_id_is_the_manifest_s_and_the_folder_must_fit_it(tiny_llama, tmp_path):
    from xft.artifacts.manifest import Manifest, describe_files, manifest_path

    folder = shutil.copytree(tiny_llama, tmp_path / "dense")
    assert artifact_id(folder) is None

    manifest = Manifest("dense", describe_files(folder))
    manifest_path(folder).write_text(manifest.to_json())
    assert artifact_id(folder) == manifest.id

    cut_weights(folder)
    with pytest.raises(UserError, match=r"model\.safetensors has .* bytes"):
        artifact_id(folder)


def test_rows_that_are_done_leave_the_batch(model, tokenizer, plain, monkeypatch):
    """Of four rows, three end at their first token: the fourth goes on alone."""
    firsts = [tokenizer.decode(plain(text)[:1]) for text in TEXTS]
    prompts = [
        TaskPrompt(f"Task/{i}", text, text, NEVER if i == 0 else (firsts[i],))
        for i, text in enumerate(TEXTS[:4])
    ]
    rows = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **k: rows.append(len(k["input_ids"])) or forward(*a, **k)
    )
    completions = generate(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=4)

    assert rows == [4] + [1] * (NEW_TOKENS - 1)
    assert completions[0].text == tokenizer.decode(plain(TEXTS[0]), skip_special_tokens=True)
    assert [completion.text for completion in completions[1:]] == firsts[1:4]


@pytest.mark.parametrize("batch_size", [2, 16])
def test_draws_do_not_depend_on_the_batch(model, tokenizer, batch_size):
    sampling = Sampling(temperature=1.0, top_p=0.9, seeds=range(10))
    options = {"max_new_tokens": NEW_TOKENS, "sampling": sampling}
    prompts = prompts_of(TEXTS) * 2
    alone = generate(model, tokenizer, prompts, batch_size=1, **options)

    assert generate(model, tokenizer, prompts, batch_size=batch_size, **options) == alone
    assert len({completion.text for completion in alone}) == 10


def test_draws_follow_the_model_s_distribution(model, tokenizer):
    """First tokens of 2000 draws against softmax(logits / T) cut to the likeliest 30%."""
    import torch

    count, temperature, top_p = 2000, 2.0, 0.3
    sampling = Sampling(temperature, top_p, seeds=range(count))
    prompt = torch.tensor([[tokenizer.bos_token_id, *tokenizer(TEXTS[0])["input_ids"]]])
    with torch.no_grad():
        shares = (model(prompt).logits[0, -1] / temperature).softmax(-1)
    ordered = shares.sort(descending=True)
    kept = ordered.indices[: int((ordered.values.cumsum(0) < top_p).sum()) + 1]
    expected = Counter()
    for token in kept.tolist():  # several may have the same text
        whole = tokenizer.decode([*prompt[0].tolist(), token], skip_special_tokens=True)
        expected[whole.removeprefix(TEXTS[0])] += shares[token].item()
    whole = expected.total()

    drawn = generate(
        *(model, tokenizer, prompts_of(TEXTS[:1]) * count),
        **{"max_new_tokens": 1, "batch_size": 500, "sampling": sampling},
    )
    counts = Counter(completion.text for completion in drawn)
    assert counts.keys() <= expected.keys()
    distance = sum(
        (counts[text] - count * share / whole) ** 2 / (count * share / whole)
        for text, share in expected.items()
    )
    assert len(expected) > 5
    assert distance < len(expected) + 5 * math.sqrt(2 * len(expected))
