"""Distillation: KL of plain transformers' logits, in the loss, the metrics and any batches."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from chains import Chain
from mixtures import varied_mixture
from plain_losses import labelled_rows, plain_parts
from safetensors.torch import load_file
from transformers import AutoTokenizer

from workflow_scripts import weighted_trained
from xft.artifacts.manifest import hash_file, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.training.callbacks import ProgressCallback

WEIGHT = 0.25
KL = ["--objective", "kl", "--kl-weight", WEIGHT]
KL_ALONE = ["--objective", "kl", "--kl-weight", 1]
ROWS = [
    {"instruction": f"Add {n} to x.", "response": f"def add(x):\n    return x + {n}" * (1 + n % 3)}
    for n in range(12)
]
MIXING = ["--max-steps", 4, "--learning-rate", 0.1]
WHOLE = ["--per-device-train-batch-size", 12]  # of ROWS
TEXTS = ["def double(x):\n    return 2 * x\n" * 15, "one", "x = 1\n" * 60]
WINDOW = 200


@pytest.fixture(scope="module")
def chain(tiny_llama, tmp_path_factory):
    """A mixture whose experts differ, and what step 6 reads."""
    root = tmp_path_factory.mktemp("chain")
    rows = root / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    varied_mixture(tiny_llama, root)
    return Chain(root, base=tiny_llama, moe_sft=root / "moe_sft", data=rows)


def learn(chain, out: Path, *flags) -> tuple[list[dict], dict]:
    """The metrics and the logits of step 6."""
    metrics = out.with_suffix(".jsonl")
    words = [*chain.words("weighted_trained"), *MIXING, *flags, "--metrics", metrics, "--out", out]
    weighted_trained.main([str(word) for word in words])
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return lines, load_file(out / "model.safetensors")


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
def test_the_loss_holds_the_divergence_of_plain_transformers(chain, tmp_path, flags):
    experts = {name: chain[name] for name in ("moe_sft", "ffn", "weighted_init")}
    start = Chain(tmp_path, **experts)["dense"]
    ce, kl = plain_parts(chain["moe_sft"], start, labelled_rows(chain["base"], chain["data"]))
    assert kl > 1e-3
    lines, _ = learn(chain, tmp_path / "out", *KL, *flags)
    first = lines[0]
    assert [first["ce"], first["kl"]] == pytest.approx([ce, kl], rel=1e-5)
    for line in lines:
        loss = (1 - WEIGHT) * line["ce"] + WEIGHT * line["kl"]
        assert line["loss"] == pytest.approx(loss, rel=1e-6)


def test_the_divergence_falls_if_it_is_the_loss(chain, tmp_path):
    lines, logits = learn(chain, tmp_path / "out", *KL_ALONE, *WHOLE, "--max-steps", 12)
    assert all(line["loss"] == line["kl"] for line in lines)
    assert lines[-1]["kl"] < lines[0]["kl"]
    assert logits["alpha"].any()


def test_equal_experts_leave_nothing_to_distil(tiny_llama, chain, tmp_path):
    """The merged model is then the mixture, with any coefficients."""
    untuned = Chain(tmp_path, base=tiny_llama, data=chain["data"])
    lines, _ = learn(untuned, tmp_path / "out", *KL, *WHOLE)
    assert all(abs(line["kl"]) < 1e-6 for line in lines)


def test_without_it_the_weight_changes_no_byte(chain, tmp_path):
    lines, logits = learn(chain, tmp_path / "default", *WHOLE)
    others, same = learn(chain, tmp_path / "weight", *WHOLE, "--kl-weight", 1)
    assert lines == others and "kl" not in lines[0]
    assert torch.equal(logits["alpha"], same["alpha"])


@pytest.fixture
def texts(tmp_path) -> Path:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text, "more": 1}) + "\n" for text in TEXTS))
    return file


def test_texts_are_distilled_on_all_their_tokens(chain, texts, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(chain["base"])
    rows = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        windows = [ids[begin : begin + WINDOW] for begin in range(0, len(ids), WINDOW)]
        rows += [(window, 1) for window in windows if len(window) > 1]
    experts = {name: chain[name] for name in ("moe_sft", "ffn", "weighted_init")}
    start = Chain(tmp_path, **experts)["dense"]
    _, kl = plain_parts(chain["moe_sft"], start, rows)
    flags = [*KL_ALONE, "--text", texts, "--max-length", WINDOW]
    out = tmp_path / "out"
    lines, _ = learn(chain, out, *flags, "--per-device-train-batch-size", len(rows))
    assert lines[0]["loss"] == pytest.approx(kl, rel=1e-5)
    manifest = read_manifest(manifest_path(out))
    assert manifest.inputs["text"] == manifest.recipe.inputs["text"] == hash_file(texts)
    assert "text" not in manifest.parameters
    assert "mixing.text" not in manifest.recipe.options


def test_a_text_file_is_one_text(chain, tmp_path):
    (tmp_path / "one.txt").write_text(TEXTS[0])
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    learned = [
        learn(chain, tmp_path / ending, *KL_ALONE, "--text", tmp_path / f"one.{ending}")
        for ending in ("txt", "jsonl")
    ]
    assert learned[0][0] == learned[1][0]


WAYS = {
    "rows": [*KL, "--gradient-accumulation-steps", 2],
    "texts": [*KL_ALONE, "--batching", "packed", "--max-length", WINDOW],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_training_goes_on_to_the_same_bytes(way, chain, texts, tmp_path, monkeypatch):
    flags = [*WAYS[way], "--per-device-train-batch-size", 2]
    flags += ["--text", texts] if way == "texts" else []
    lines, whole = learn(chain, tmp_path / "whole", *flags)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(ProgressCallback, "on_step_begin", on_step_begin)
        learn(chain, tmp_path / "out", *flags)
    assert list(tmp_path.glob(".out.training/*/checkpoint-3"))
    again, learned = learn(chain, tmp_path / "out", *flags)
    assert again == lines
    assert torch.equal(learned["alpha"], whole["alpha"])


@pytest.mark.parametrize(
    ("content", "flags", "fault"),
    [
        ('{"text": "x"}', [], r"command line: text = \S+: a text has no responses .* Set "),
        ('{"text": "x"}', KL, r"objective = kl and kl_weight = 0\.25\. Set .* kl_weight = 1, or"),
        (None, KL_ALONE, r"text = \S+: there is no such file"),
        ("\n", KL_ALONE, "the file holds no texts"),
        ('{"text": "x"}\n{"code": "x"}\n{"text": " "}', KL_ALONE, "2 bad rows:\n.*line 2: no key"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(chain, tmp_path, content, flags, fault):
    file = tmp_path / "texts.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=fault):
        learn(chain, tmp_path / "out", *flags, "--text", file)
    assert not (tmp_path / "out").exists()
