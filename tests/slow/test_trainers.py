"""Other trainers tune mixtures as docs/trainers.md says, and the workflow takes what they leave."""

import subprocess
import sys

import pytest
from chains import Chain, run_here
from documents import ROOT, TRAINERS, blocks
from project import copy_project
from safetensors.torch import load_file

import xft  # noqa: F401 (registers the model type)

pytestmark = pytest.mark.slow
IDS = [*range(5, 25)]
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
    learned = {name for name in moe if "layers.3." in name and "norm" not in name}
    learned |= {name for name in moe if "self_attn" in name}
    assert {name for name in moe if not lora[name].equal(moe[name])} == learned


def test_the_loss_of_trl_alone_lacks_the_balance_loss(tiny_llama, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
    from trl import SFTConfig, SFTTrainer

    settings = ["--num-experts", "4", "--num-experts-per-tok", "3", "--balance-loss-coef", "10"]
    folder = Chain(tmp_path, {"moe": settings}, base=tiny_llama)["moe"]
    options = SFTConfig(str(tmp_path / "out"), bf16=False, use_cpu=True, report_to=[])
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(folder),
        options,
        train_dataset=Dataset.from_list([{"input_ids": IDS, "labels": IDS}]),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    model, batch = trainer.model.eval(), next(iter(trainer.get_train_dataloader()))
    balance = model(**batch).aux_loss.item()
    own, whole = (kind.compute_loss(trainer, model, {**batch}) for kind in (SFTTrainer, Trainer))
    assert balance > 0.05 and whole.item() - own.item() == pytest.approx(balance, rel=1e-2)
