"""Low-rank tunings of mixtures and of the dense base: what learns, what stays, and resumption."""

import json
import os
import signal

import pytest
import torch
from mixtures import low_rank_mixture
from peft.tuners.lora import LoraLayer
from processes import run_for
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from workflow_scripts import moe_sft, sft
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.data.templates import make_template
from xft.training import trainer
from xft.training.callbacks import ProgressCallback
from xft.training.low_rank import adapt_all

ROWS = [
    {"instruction": f"Add {n} to x.", "response": f"def add(x):\n    return x + {n}" * (1 + n % 3)}
    for n in range(6)
]
STEPS, RATE, RANK, ALPHA = 4, 0.01, 4, 6.0
FLAGS = ["--max-steps", STEPS, "--learning-rate", RATE, "--per-device-train-batch-size", len(ROWS)]
FLAGS += ["--lr-scheduler-type", "constant_with_warmup", "--optim", "adamw_torch"]
LORA = ["--lora-rank", RANK, "--lora-alpha", ALPHA]
PLAIN = {"router_noise": False, "balance_loss_coef": 0.0, "lora_alpha": ALPHA}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def run(step, *arguments):
    step.main([str(argument) for argument in arguments])


def plain_loss(model, folder) -> torch.Tensor:
    """The mean cross-entropy over the response tokens of all rows, one row at a time."""
    tokenizer, template = AutoTokenizer.from_pretrained(folder), make_template("magicoder", None)
    losses = []
    for row in ROWS:
        prompt = tokenizer(template.render(row["instruction"]), add_special_tokens=False).input_ids
        answer = tokenizer(row["response"], add_special_tokens=False).input_ids
        ids = [tokenizer.bos_token_id, *prompt, *answer, tokenizer.eos_token_id]
        logits = model(torch.tensor([ids])).logits[0, len(prompt) : -1]
        target = torch.tensor(ids[1 + len(prompt) :])
        losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
    return torch.cat(losses).mean()


def plain_loop(model, parameters, folder):
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        plain_loss(model, folder).backward()
        optimizer.step()


def assert_learned(after, expected, before) -> None:
    """Compare what was learned by its norm: AdamW makes much of the rounding of small gradients."""
    learned = expected - before
    assert torch.linalg.vector_norm(learned) > RATE
    assert torch.linalg.vector_norm(after - expected) < 0.01 * torch.linalg.vector_norm(learned)


def is_factor(name: str) -> bool:
    return ".lora_" in name or ".router." in name


def test_frozen_rest_learns_factors_and_router_as_a_plain_loop_does(tiny_llama, data, tmp_path):
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", **PLAIN)
    run(moe_sft, "--moe", mixture, "--data", data, "--out", tmp_path / "out", *FLAGS)
    model = AutoModelForCausalLM.from_pretrained(mixture)
    plain_loop(model, [p for name, p in model.named_parameters() if is_factor(name)], mixture)
    before, after = (load_file(path / "model.safetensors") for path in (mixture, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        if is_factor(name):
            assert_learned(tensor, model.get_parameter(name).detach(), before[name])
        else:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("rest", ["full", "lora"])
def test_the_rest_learns_as_asked_and_the_mlps_of_the_base_never(tiny_llama, data, tmp_path, rest):
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest=rest, **PLAIN)
    metrics = tmp_path / "metrics.jsonl"
    flags = [*FLAGS, "--metrics", metrics]
    run(moe_sft, "--moe", mixture, "--data", data, "--out", tmp_path / "out", *flags)
    before, after = (load_file(path / "model.safetensors") for path in (mixture, tmp_path / "out"))
    assert before.keys() == after.keys()
    changes = {name: after[name] - before[name] for name in before}
    changed = {name for name, change in changes.items() if change.any()}
    if rest == "full":
        assert changed == {name for name in before if ".mlp.dense." not in name}
    else:
        attention = {name for name in before if ".self_attn." in name}
        assert changed == {name for name in before if is_factor(name)} | attention
        assert {torch.linalg.matrix_rank(changes[name], tol=1e-5).item() for name in attention} == {
            4
        }
    first, *_, last = map(json.loads, metrics.read_text().splitlines())
    assert last["loss"] < first["loss"]
    with torch.no_grad():  # what was written is what the training ended with
        loss = plain_loss(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), mixture).item()
    assert loss < last["loss"]


def test_the_baseline_learns_the_products_that_a_plain_loop_learns(
    tiny_llama, data, tmp_path, monkeypatch
):
    def start(tensor, **_):
        generator = torch.Generator().manual_seed(tensor.shape[1])
        return tensor.data.copy_(0.2 * torch.randn(tensor.shape, generator=generator))

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", start)
    run(sft, "--base", tiny_llama, "--data", data, "--out", tmp_path / "out", *FLAGS, *LORA)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).requires_grad_(False)
    learned = []
    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            reduce = torch.nn.Parameter(start(torch.empty(RANK, layer.in_features)))
            expand = torch.nn.Parameter(torch.zeros(layer.out_features, RANK))
            learned += [reduce, expand]
            change = Product(reduce, expand)
            torch.nn.utils.parametrize.register_parametrization(layer, "weight", change)
    plain_loop(model, learned, tiny_llama)
    after, before = Checkpoint(tmp_path / "out"), Checkpoint(tiny_llama)
    assert after.config == before.config
    assert after.names == before.names
    for name in after.names:
        layer = model.get_submodule(name.removesuffix(".weight"))
        if torch.nn.utils.parametrize.is_parametrized(layer):
            assert_learned(after.get(name), layer.weight.detach(), before.get(name))
        else:
            assert torch.equal(after.get(name), before.get(name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_merged_as_peft_merges_them(tiny_llama, dtype):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=dtype)
    adapters = adapt_all(model, RANK, ALPHA)
    learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    for tensor in learned.values():
        tensor.normal_()
    expected = {
        f"{name}.weight": layer.get_base_layer().weight + layer.get_delta_weight("default")
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    torch.testing.assert_close(adapters.merged(learned), expected)


class Product(torch.nn.Module):
    def __init__(self, reduce, expand):
        super().__init__()
        self.factors = torch.nn.ParameterList([reduce, expand])

    def forward(self, weight):
        reduce, expand = self.factors
        return weight + ALPHA / RANK * expand @ reduce


def stop_in_step(monkeypatch, number: int) -> None:
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == number - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ProgressCallback, "on_step_begin", on_step_begin)


@pytest.mark.parametrize("how", ["factors", "factors and adapters", "adapters", "average"])
def test_a_stopped_training_ends_in_the_same_bytes_and_keeps_only_what_learns(
    how, tiny_llama, data, tmp_path
):
    rest = "lora" if how == "factors and adapters" else "frozen"
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest=rest)
    step, words = moe_sft, ["--moe", mixture, "--data", data, *FLAGS]
    if how == "adapters":
        step, words = sft, ["--base", tiny_llama, "--data", data, *FLAGS, *LORA]
    if how == "average":
        words += ["--ema-decay", "0.5"]
    run(step, *words, "--out", tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, 2)
        with pytest.raises(SystemExit):
            run(step, *words, "--out", tmp_path / "out")
    (checkpoint,) = tmp_path.glob(".out.training/*/checkpoint-2")
    kept = load_file(checkpoint / "learned.safetensors")
    assert all(is_factor(name) for name in kept)
    if how == "average":
        assert load_file(checkpoint / "average.safetensors").keys() == kept.keys()
    run(step, *words, "--out", tmp_path / "out")
    whole, again = ((tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert whole.read_bytes() == again.read_bytes()


def test_the_best_weights_are_those_of_the_lowest_validation_loss(
    tiny_llama, data, tmp_path, monkeypatch
):
    losses = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(trainer, "validation_loss", lambda *_, **__: next(losses))
    words = ["--base", tiny_llama, "--data", data, *FLAGS, *LORA, "--validation-rows", 2]
    run(sft, *words, "--eval-steps", 1, "--keep", "best", "--out", tmp_path / "best")
    losses = iter([3.0])
    run(sft, *words, "--max-steps", 2, "--out", tmp_path / "short")
    ours, expected = ((tmp_path / name / "model.safetensors") for name in ("best", "short"))
    assert ours.read_bytes() == expected.read_bytes()


def test_low_rank_experts_are_not_averaged(tiny_llama, data, tmp_path):
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe")
    words = ["--moe", mixture, "--data", data, "--out", tmp_path / "out", *FLAGS]
    with pytest.raises(UserError, match=r"low-rank experts .*expert_averaging = 0\.1 .*to 0"):
        run(moe_sft, *words, "--expert-averaging", "0.1")


def test_a_rank_that_does_not_fit_is_refused_before_the_training(tiny_llama, data, tmp_path):
    words = ["--base", tiny_llama, "--data", data, "--out", tmp_path / "out", *FLAGS]
    with pytest.raises(UserError, match=r"rank 17: the smaller size of .*k_proj is 16.*Lower"):
        run(sft, *words, "--lora-rank", 17)


def test_two_processes_learn_what_one_learns(tiny_llama, data, tmp_path):
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest="lora", **PLAIN)
    # At a higher rate AdamW makes more of the rounding of sums in another order.
    words = ["--moe", mixture, "--data", data, *FLAGS, "--learning-rate", RATE / 5]
    words += ["--per-device-train-batch-size"]
    run(moe_sft, *words, 6, "--out", tmp_path / "one")
    ddp = [*words, 3, "--launch", "ddp", "--processes", 2, "--out", tmp_path / "two"]
    assert run_for("moe_sft", [str(word) for word in ddp], count=2)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-5, rtol=1e-4)
