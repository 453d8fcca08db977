"""Other trainers tune mixtures as docs/trainers.md says, and the workflow takes what they leave.
torch.compile compiles the dense-shaped parts of a mixture, and not its routing.
"""

import copy
import sys

import pytest
import torch
from chains import Chain, run_here
from documents import ROOT, TRAINERS, blocks
from mixtures import init_example
from other_trainers import ONE_STEP, alone, balanced, gap, grads_of, learn, trainer_of, unbalanced
from processes import run_together
from project import copy_project
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, AutoTokenizer

import xft
from workflow_scripts import moe

pytestmark = pytest.mark.slow
MIXING = ["--max-steps", "1", "--per-device-train-batch-size", "4"]


def test_the_page_s_examples_come_back_into_the_workflow(tmp_path):
    project = copy_project(ROOT, tmp_path / "project")
    (project.folder / ".venv").symlink_to(sys.prefix)
    for block in blocks(ROOT / TRAINERS):
        if block.language == "sh":
            block.run(project.folder, project.environment)

    assert (project.results / "trainers/dense/lam~0.75/model.safetensors").is_file()
    other = project.folder / "other"
    for name in ("trainer", "accelerate", "fsdp", "lora"):
        words = ["--model", other / name, "--tuned-from", other / "base"]
        run_here("base", [*map(str, words), "--out", str(tmp_path / name / "moe_sft")])
        given = {"moe_sft": tmp_path / name / "moe_sft", "data": other / "tokens"}
        Chain(tmp_path / name, {"weighted_trained": MIXING}, **given)["dense"]

    names = ("moe", "trainer", "trl", "lora")
    moe, trainer, trl, lora = (load_file(other / name / "model.safetensors") for name in names)
    moved, apart = (sum((trainer[n] - end[n]).norm() for n in moe) for end in (moe, trl))
    assert apart < 0.05 * moved
    learned = {name for name in moe if "layers." in name and "norm" not in name}
    assert {name for name in moe if not lora[name].equal(moe[name])} == learned


WAYS = {"padded": {"completion_only_loss": False}, "completion": {"completion_only_loss": True}}
WAYS |= {"packing": {"packing": True, "max_length": 64}}
WAYS |= {"padding free": {"padding_free": True, "max_length": None}}


def mixture_of_the_embedded_model():
    base = AutoModelForCausalLM.from_pretrained(ROOT / "resources/base", dtype="float32")
    options = {"num_experts": 4, "num_experts_per_tok": 3, "router_noise": False}
    options["init"] = init_example("noise")
    return xft.upcycle(base, **options, balance_loss_coef=1.0).train()


@pytest.mark.parametrize("way", WAYS)
def test_a_prepared_sft_trainer_has_the_loss_and_gradients_of_a_plain_loop(tmp_path, way):
    """Row by row, without padding. SFTTrainer alone leaves the balance loss out."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.utils import create_model_from_path

    texts = ("a b c d", " e f g h i j"), ("x", " y z"), ("q w", " e r t y u i o"), ("m n", " o")
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in texts]
    about = {"bf16": False, "gradient_checkpointing": False}
    given = {"train_dataset": Dataset.from_list(rows)}
    given["processing_class"] = AutoTokenizer.from_pretrained(ROOT / "resources/base")
    trainers = []
    for model in (mixture_of_the_embedded_model(), mixture_of_the_embedded_model()):
        arguments = SFTConfig(str(tmp_path), **ONE_STEP | about | WAYS[way])
        trainers.append(SFTTrainer(model, arguments, **given))
    with unbalanced():
        plain_loss, *_ = learn(trainers[0])
    loss, gradients, batches = learn(xft.prepare(trainers[1]))
    plain = mixture_of_the_embedded_model()
    assert plain_loss == pytest.approx(alone(plain, batches, with_balance=False).item(), rel=1e-5)
    expected = alone(plain, batches)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert gap(gradients, grads_of(plain)) < 1e-4
    assert next(log for log in trainers[1].state.log_history if "loss" in log)["aux_loss"] > 0
    trainers[1].save_model(tmp_path)
    assert type(create_model_from_path(str(tmp_path))) is type(plain)


@pytest.mark.usefixtures("fork_server")
def test_two_processes_have_the_loss_and_gradients_of_a_plain_loop(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    run_together(compare_with_a_plain_loop, 2, str(tmp_path))


def compare_with_a_plain_loop(folder):
    """As one of two processes. The Trainer counts the tokens of all micro-batches. A loop takes the
    mean over the processes, whatever they have.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = trainer_of(balanced(), folder, tokenizer, rows=8)
    loss, gradients, batches = learn(trainer)
    of_all = [None, None]
    torch.distributed.all_gather_object(of_all, batches)
    plain = balanced()
    expected = alone(plain, of_all[0] + of_all[1])
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert gap(gradients, grads_of(plain)) < 1e-5

    mixture, plain = balanced(), balanced()
    (ids, labels), *_ = batches[0]
    parallel = DistributedDataParallel(mixture)
    parallel(ids[None], labels=labels[None]).loss.backward()
    for first, *_ in of_all:
        (alone(plain, [first[:1]]) / 2).backward()
    assert gap(grads_of(mixture), grads_of(plain)) < 1e-5


@pytest.mark.parametrize("experts", ["full", "lora"])
def test_a_compiled_mixture_computes_and_trains_the_same(tiny_llama, tmp_path, experts):
    moe.main(["--base", str(tiny_llama), "--experts", experts, "--out", str(tmp_path / "moe")])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "moe").eval()
    compiled = torch.compile(copy.deepcopy(plain), backend="aot_eager")
    ids = torch.randint(3, 290, (2, 24))
    for model in (plain, compiled):
        model(ids, labels=ids).loss.backward()
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-5)
    ours = dict(compiled._orig_mod.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-5, rtol=1e-4)
