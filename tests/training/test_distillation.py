"""Distillation: KL of plain transformers' logits, in the loss, the metrics and any batches."""

import json
from pathlib import Path

import pytest
from chains import Chain
from mixtures import varied_mixture
from plain_losses import labelled_rows, plain_parts
from safetensors.torch import load_file
from trainings import learn, write_rows
from transformers import AutoTokenizer

from xft.artifacts.manifest import hash_file, manifest_path, read_manifest
from xft.common.errors import UserError

WEIGHT = 0.25
KL = ["--objective", "kl", "--kl-weight", WEIGHT]
KL_ALONE = ["--objective", "kl", "--kl-weight", 1]
WHOLE = ["--per-device-train-batch-size", 12]  # of the rows
TEXTS = ["def double(x):\n    return 2 * x\n" * 15, "one", "x = 1\n" * 60]
WINDOW = 200


@pytest.fixture(scope="module")
def chain(tiny_llama, tmp_path_factory):
    """A mixture whose experts differ, and what step 6 reads."""
    root = tmp_path_factory.mktemp("chain")
    varied_mixture(tiny_llama, root)
    return Chain(root, base=tiny_llama, moe_sft=root / "moe_sft", data=write_rows(root))


@pytest.fixture(scope="module")
def start(chain, tmp_path_factory):
    """What the mixing starts from, merged."""
    experts = {name: chain[name] for name in ("moe_sft", "ffn", "weighted_init")}
    return Chain(tmp_path_factory.mktemp("start"), **experts)["dense"]


def mix(chain, out: Path, *flags) -> list[dict]:
    """The metrics of step 6."""
    options = ["--max-steps", 2, "--learning-rate", 0.1, *flags]
    return learn("weighted_trained", out, *chain.words("weighted_trained"), *options)


@pytest.mark.parametrize(
    "flags",
    [
        WHOLE,
        ["--per-device-train-batch-size", 4, "--gradient-accumulation-steps", 3],
        [*WHOLE, "--batching", "packed"],
        [*WHOLE, "--batching", "by_length", "--precision", "fp32"],
    ],
    ids=["padded", "accumulated", "packed", "by_length"],
)
def test_the_loss_holds_the_divergence_of_plain_transformers(chain, start, tmp_path, flags):
    ce, kl = plain_parts(chain["moe_sft"], start, labelled_rows(chain["base"], chain["data"]))
    assert kl > 1e-3
    lines = mix(chain, tmp_path / "out", *KL, *flags)
    first = lines[0]
    assert [first["ce"], first["kl"]] == pytest.approx([ce, kl], rel=1e-5)
    for line in lines:
        loss = (1 - WEIGHT) * line["ce"] + WEIGHT * line["kl"]
        assert line["loss"] == pytest.approx(loss, rel=1e-6)


def test_the_divergence_falls_if_it_is_the_loss(chain, tmp_path):
    lines = mix(chain, tmp_path / "out", *KL_ALONE, *WHOLE, "--max-steps", 12)
    assert all(line["loss"] == line["kl"] for line in lines)
    assert lines[-1]["kl"] < lines[0]["kl"]
    assert load_file(tmp_path / "out" / "model.safetensors")["alpha"].any()


def test_equal_experts_leave_nothing_to_distil(tiny_llama, chain, tmp_path):
    """The merged model is then the mixture, with any coefficients."""
    untuned = Chain(tmp_path, base=tiny_llama, data=chain["data"])
    lines = mix(untuned, tmp_path / "out", *KL, *WHOLE)
    assert all(abs(line["kl"]) < 1e-6 for line in lines)


def test_texts_are_distilled_on_all_their_tokens(chain, start, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text, "more": 1}) + "\n" for text in TEXTS))
    tokenizer = AutoTokenizer.from_pretrained(chain["base"])
    rows = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        windows = [ids[begin : begin + WINDOW] for begin in range(0, len(ids), WINDOW)]
        rows += [(window, 1) for window in windows if len(window) > 1]
    _, kl = plain_parts(chain["moe_sft"], start, rows)
    flags = [*KL_ALONE, "--text", texts, "--max-length", WINDOW]
    out = tmp_path / "out"
    lines = mix(chain, out, *flags, "--per-device-train-batch-size", len(rows))
    assert lines[0]["loss"] == pytest.approx(kl, rel=1e-5)
    manifest = read_manifest(manifest_path(out))
    assert manifest.inputs["text"] == manifest.recipe.inputs["text"] == hash_file(texts)
    assert "text" not in manifest.parameters
    assert "mixing.text" not in manifest.recipe.options


def test_a_text_file_is_one_text(chain, tmp_path):
    (tmp_path / "one.txt").write_text(TEXTS[0])
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    plain, rows = (
        mix(chain, tmp_path / ending, *KL_ALONE, "--text", tmp_path / f"one.{ending}")
        for ending in ("txt", "jsonl")
    )
    assert plain == rows


@pytest.mark.parametrize(
    ("content", "flags", "fault"),
    [
        ('{"text": "x"}', [], r"command line: text = \S+: a text has no responses .* Set "),
        ('{"text": "x"}', KL, r"objective = kl and kl_weight = 0\.25\. Set .* kl_weight = 1, or"),
        (None, KL_ALONE, r"text: \S+ is missing"),
        ("\n", KL_ALONE, "the file holds no texts"),
        ('{"text": "x"}\n{"code": "x"}\n{"text": " "}', KL_ALONE, "line 2: no key"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(chain, tmp_path, content, flags, fault):
    file = tmp_path / "texts.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=fault):
        mix(chain, tmp_path / "out", *flags, "--text", file)
    assert not (tmp_path / "out").exists()
