"""The dense baseline, and the loss on held-out rows: both against plain transformers."""

import json
import shutil
import signal

import pytest
import torch
from endings import end_by
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from workflow_scripts import moe, moe_sft, sft, tokens, validation_loss
from workflow_scripts.artifacts.artifact import create_artifact
from workflow_scripts.artifacts.manifest import manifest_path, read_manifest
from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.common.errors import UserError
from workflow_scripts.data.templates import make_template
from workflow_scripts.tools import verify

ROWS = [
    {"instruction": f"Add {n} to x.", "response": f"def add(x):\n    return x + {n}" * (1 + n % 3)}
    for n in range(12)
]
STEPS, RATE = 4, 0.01
FLAGS = ["--max-steps", STEPS, "--per-device-train-batch-size", len(ROWS), "--learning-rate", RATE]
FLAGS += ["--lr-scheduler-type", "constant_with_warmup"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def encoded(folder) -> list[tuple[list[int], int]]:
    """Each row's token ids, with BOS and EOS, and the number of those of its prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = make_template("magicoder", None)
    rows = []
    for row in ROWS:
        prompt = tokenizer(template.render(row["instruction"]), add_special_tokens=False).input_ids
        answer = tokenizer(row["response"], add_special_tokens=False).input_ids
        ids = [tokenizer.bos_token_id, *prompt, *answer, tokenizer.eos_token_id]
        rows.append((ids, 1 + len(prompt)))
    return rows


def plain_loss(model, rows) -> torch.Tensor:
    """The mean over the response tokens of all rows, one row at a time."""
    losses = []
    for ids, prompt in rows:
        logits = model(torch.tensor([ids])).logits[0, prompt - 1 : -1]
        targets = torch.tensor(ids[prompt:])
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean()


def run(step, *arguments):
    step.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=["padded", "packed"])
def tuned(request, tiny_llama, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("sft") / "sft"
    flags = [*FLAGS, "--metrics", out.with_name("metrics.jsonl"), "--batching", request.param]
    run(sft, "--base", tiny_llama, "--data", data, "--out", out, *flags)
    return out


def test_the_baseline_learns_what_a_plain_loop_learns(tuned, tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0)
    rows, losses = encoded(tiny_llama), []
    for _ in range(STEPS):
        loss = plain_loss(model, rows)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = AutoModelForCausalLM.from_pretrained(tuned)
    for name, expected in model.named_parameters():
        torch.testing.assert_close(learned.get_parameter(name), expected, atol=2e-5, rtol=1e-4)
    logged = [
        json.loads(line) for line in (tuned.parent / "metrics.jsonl").read_text().splitlines()
    ]
    assert [entry["loss"] for entry in logged] == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0] - 0.5


def test_the_baseline_is_a_model_of_the_bases_form(tuned, tiny_llama):
    before, after = Checkpoint(tiny_llama), Checkpoint(tuned)
    assert after.config == before.config
    assert [(name, after.dtype(name)) for name in after.names] == [
        (name, before.dtype(name)) for name in before.names
    ]
    manifest = read_manifest(manifest_path(tuned))
    assert (manifest.kind, manifest.parameters["template"]) == ("sft", "magicoder")
    assert "balance_loss_batch" not in manifest.parameters
    assert "learning_rate 0.01" in (tuned / "README.md").read_text()


def test_what_is_no_weight_of_the_model_stays_as_it_is(tiny_llama, data, tmp_path):
    """Llama 2 and its kin keep the frequencies of their rotary embeddings in the checkpoint."""
    old = tmp_path / "old"
    shutil.copytree(tiny_llama, old)
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights = load_file(old / "model.safetensors") | {frequencies: torch.arange(4.0)}
    save_file(weights, old / "model.safetensors", metadata={"format": "pt"})
    run(moe, "--base", old, "--num-experts", 4, "--num-experts-per-tok", 3, "--out", tmp_path / "m")
    run(moe_sft, "--moe", tmp_path / "m", "--data", data, "--out", tmp_path / "moe_sft", *FLAGS)
    run(sft, "--base", old, "--data", data, "--out", tmp_path / "sft", *FLAGS)
    for name in ("moe_sft", "sft"):
        tuned = load_file(tmp_path / name / "model.safetensors")
        assert tuned[frequencies].equal(torch.arange(4.0))
        assert not tuned["lm_head.weight"].equal(weights["lm_head.weight"])


def test_the_loss_on_held_out_rows_is_that_of_plain_transformers(tiny_llama, data, tmp_path):
    held_out, out = tmp_path / "tokens", tmp_path / "loss.json"
    run(
        tokens,
        *("--model", tiny_llama, "--data", data, "--validation-rows", 5),
        *("--report", tmp_path / "report.json", "--out", held_out),
    )
    run(validation_loss, "--model", tiny_llama, "--data", held_out, "--out", out)
    result = json.loads(out.read_text())
    from workflow_scripts.data.tokens_artifact import open_tokens

    numbers = [row["row"] for row in open_tokens(held_out, tiny_llama).tokens.validation]
    model, rows = AutoModelForCausalLM.from_pretrained(tiny_llama), encoded(tiny_llama)
    with torch.no_grad():
        expected = plain_loss(model, [rows[number - 1] for number in numbers]).item()
    assert (len(numbers), result["rows"]) == (5, 5)
    assert result["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_has_a_manifest_of_what_it_was_made_from(tiny_llama, data, tmp_path):
    with create_artifact(tmp_path / "base", "base") as draft:
        shutil.copytree(tiny_llama, draft.path, dirs_exist_ok=True)
    held_out, out = tmp_path / "tokens", tmp_path / "validation" / "base.json"
    run(
        tokens,
        *("--model", tmp_path / "base", "--data", data, "--validation-rows", 5),
        *("--report", tmp_path / "report.json", "--out", held_out),
    )
    flags = ["--model", tmp_path / "base", "--data", held_out, "--out", out]
    run(validation_loss, *flags, "--threads", 1)

    manifest = read_manifest(manifest_path(out))
    assert (manifest.kind, manifest.parameters) == ("validation", {"threads": 1})
    assert manifest.inputs == {
        "model": read_manifest(manifest_path(tmp_path / "base")).id,
        "tokens": read_manifest(manifest_path(held_out)).id,
    }
    verify.main([str(out), "--full"])
    edited = out.read_text().replace('"rows": 5', '"rows": 6')
    out.write_text(edited)
    with pytest.raises(UserError, match=r"base\.json was altered"):
        verify.main([str(out)])


def test_ctrl_c_ends_the_measurement_without_a_result(tiny_llama, data, tmp_path, fork_server):
    held_out, out = tmp_path / "tokens", tmp_path / "validation" / "base.json"
    report = ["--validation-rows", 5, "--report", tmp_path / "report.json"]
    run(tokens, "--model", tiny_llama, "--data", data, *report, "--out", held_out)
    flags = ["--model", tiny_llama, "--data", held_out, "--out", out]
    function = "workflow_scripts.training.validation._loss_and_tokens"
    end_by(signal.SIGINT, "validation_loss", function, flags)
    assert not out.parent.exists()


def test_without_held_out_rows_there_is_no_such_loss(tiny_llama, data, tmp_path):
    report = ["--report", tmp_path / "report.json"]
    run(tokens, "--model", tiny_llama, "--data", data, *report, "--out", tmp_path / "tokens")
    flags = ["--model", tiny_llama, "--data", tmp_path / "tokens", "--out", tmp_path / "loss.json"]
    with pytest.raises(UserError, match=r"holds no validation rows\. Set data\.validation_rows"):
        run(validation_loss, *flags)
