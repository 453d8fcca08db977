"""Other trainers tune mixtures as docs/trainers.md says, and the workflow takes what they leave."""

import subprocess
import sys

import pytest
import torch
from chains import Chain, run_here
from documents import ROOT, TRAINERS, blocks
from project import copy_project
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import xft

pytestmark = pytest.mark.slow
MIXING = ["--max-steps", "1", "--per-device-train-batch-size", "4"]


def test_the_page_s_examples_come_back_into_the_workflow(tmp_path):
    project = copy_project(ROOT, tmp_path / "project")
    (project.folder / ".venv").symlink_to(sys.prefix)
    for block in blocks(ROOT / TRAINERS):
        if block.language == "sh":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=project.folder,
                env=project.environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{block.where}:\n{done.stdout}{done.stderr}"

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


WAYS = {
    "plain": {},
    "completion only": {"completion_only_loss": True},
    "packing": {"packing": True, "max_length": 64},
    "padding free": {"padding_free": True, "max_length": None},
}


def mixture_of_the_embedded_model():
    base = AutoModelForCausalLM.from_pretrained(ROOT / "resources/base", dtype="float32")
    options = {"num_experts": 4, "num_experts_per_tok": 3, "router_noise": False, "init": "noise"}
    return xft.upcycle(base, **options, balance_loss_coef=1.0).train()


@pytest.mark.parametrize("way", WAYS)
def test_a_prepared_sft_trainer_has_the_loss_and_gradients_of_a_plain_loop(tmp_path, way):
    """Row by row, without padding. SFTTrainer alone leaves the balance loss out."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.utils import create_model_from_path

    texts = ("a b c d", " e f g h i j"), ("x", " y z"), ("q w", " e r t y u i o"), ("m n", " o")
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in texts]
    options = SFTConfig(
        *[str(tmp_path)],
        **{"bf16": False, "use_cpu": True, "report_to": [], "gradient_checkpointing": False},
        **{"max_steps": 1, "learning_rate": 1e-9, "per_device_train_batch_size": 2},
        **{"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True},
        **WAYS[way],
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "resources/base")
    data = Dataset.from_list(rows)
    trainer = SFTTrainer(
        mixture_of_the_embedded_model(), options, train_dataset=data, processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    with pytest.warns(UserWarning, match="the balance loss is not part of this loss"):
        alone = trainer.compute_loss(trainer.model, dict(batch))
    loss = xft.prepare(trainer).compute_loss(trainer.model, dict(batch))
    loss.backward()

    plain, total, count = mixture_of_the_embedded_model(), 0.0, 0
    for ids, labels in sequences(batch):
        logits = plain(ids[None], output_router_logits=True).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")
        count += (labels[1:] != -100).sum()
    whole = {key: batch[key] for key in ("attention_mask", "position_ids") if key in batch}
    whole |= {"use_cache": False, "output_router_logits": True}
    balance = plain(batch["input_ids"], **whole).aux_loss
    torch.testing.assert_close(loss, total / count + balance)
    torch.testing.assert_close(alone, total / count)
    (total / count + balance).backward()
    for (name, learned), parameter in zip(
        trainer.model.named_parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(learned.grad, parameter.grad, atol=1e-4, rtol=1e-3, msg=name)
    trainer.model.zero_grad()
    trainer.train()
    assert next(log for log in trainer.state.log_history if "loss" in log)["aux_loss"] > 0
    trainer.save_model(tmp_path)
    assert type(create_model_from_path(str(tmp_path))) is type(plain)


def sequences(batch):
    """The ids and labels of the rows of a batch, padded or packed."""
    if "attention_mask" in batch:
        counts = batch["attention_mask"].sum(dim=1)
        rows = zip(batch["input_ids"], batch["labels"], counts, strict=True)
        return [(ids[:count], labels[:count]) for ids, labels, count in rows]
    starts = (batch["position_ids"][0] == 0).nonzero()[:, 0].tolist()
    sizes = torch.tensor([*starts[1:], batch["input_ids"].shape[1]]) - torch.tensor(starts)
    parts = (batch[key][0].split(sizes.tolist()) for key in ("input_ids", "labels"))
    return list(zip(*parts, strict=True))
