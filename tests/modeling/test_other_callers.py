"""Mixtures in the hands of other programs: backbones called alone, Trainers, PEFT."""

import copy
from contextlib import nullcontext

import pytest
import torch
from mixtures import random_mixture
from other_trainers import alone, balanced, gap, grads_of, learn, sequences, trainer_of, unbalanced
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import DataCollatorWithFlattening

import xft

IDS = torch.arange(5, 25).reshape(2, 10)
PADDED = torch.tensor([[1] * 10, [1] * 6 + [0] * 4])


def test_the_backbone_alone_has_the_padding_of_its_own_arguments():
    """Right after a pass with another padding, as in a trainer with a fused head."""
    mixture = random_mixture("llama").eval()
    alone = [mixture.get_decoder()(row[None])[0] for row in (IDS[0], IDS[1, :6])]
    mixture(IDS, attention_mask=PADDED)
    torch.testing.assert_close(mixture.get_decoder()(IDS)[0][:1], alone[0])
    padded = mixture.get_decoder()(IDS, PADDED)[0]
    torch.testing.assert_close(padded[:1], alone[0])
    torch.testing.assert_close(padded[1:, :6], alone[1])


def test_a_training_of_the_backbone_alone_is_told(recwarn):
    mixture = random_mixture("llama").train()
    mixture(IDS, labels=IDS)
    mixture.eval().get_decoder()(IDS)
    assert not recwarn
    with unbalanced():
        mixture.train().get_decoder()(IDS)


def test_a_loop_has_the_balance_loss_and_an_evaluation_has_not():
    """Of rows one by one, without padding, in a formula."""
    mixture, plain = balanced(), balanced()
    labels = IDS.masked_fill(PADDED == 0, -100)
    batch = {"input_ids": IDS, "attention_mask": PADDED, "labels": labels}
    loss, expected = mixture(**batch).loss, alone(plain, [sequences(batch)])
    loss.backward(), expected.backward()
    torch.testing.assert_close(loss, expected)
    assert gap(grads_of(mixture), grads_of(plain)) < 1e-5
    entropy = alone(plain, [sequences(batch)], with_balance=False)
    torch.testing.assert_close(mixture.eval()(**batch).loss, entropy)


def test_a_trainer_computes_metrics(tmp_path, tokenizer):
    trainer = trainer_of(random_mixture("llama"), tmp_path, tokenizer)
    trainer.compute_metrics = lambda found: {"shape": found.predictions.shape}
    assert trainer.evaluate()["eval_shape"] == (4, 10, trainer.model.config.vocab_size)


# Options of the Trainer, and how far its gradients may be from those of rows that are alone.
MODES = {
    "whole batch": ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}, 1e-5),
    "two micro-batches": ({}, 1e-5),
    "checkpointing": ({"activation_checkpointing": True}, 1e-5),
    "label smoothing": ({"label_smoothing_factor": 0.1}, 1e-5),
    "autocast": ({"bf16": True}, 0.05),
    "LoRA experts": ({}, 1e-5),
    "packed, prepared": ({"use_cache": True}, 1e-5),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_trainer_has_the_loss_and_gradients_of_a_plain_loop(tmp_path, tokenizer, mode):
    """With label smoothing it has no balance loss, and the mixture warns."""
    options, tolerance = MODES[mode]
    smoothing = options.get("label_smoothing_factor", 0.0)
    mixture, plain = (balanced("lora" if "LoRA" in mode else "full") for _ in range(2))
    with unbalanced() if smoothing else nullcontext():
        trainer = trainer_of(mixture, tmp_path, tokenizer, **options)
        if "prepared" in mode:
            trainer.data_collator = DataCollatorWithFlattening()
            assert xft.prepare(trainer) is trainer
        loss, gradients, batches = learn(trainer)
    assert len(batches) == (1 if mode == "whole batch" else 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        expected = alone(plain, batches, smoothing, with_balance=not smoothing)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=tolerance)
    assert gap(gradients, grads_of(plain)) < tolerance


def test_adapters_of_peft_have_the_gradients_of_the_weights_that_they_change(tmp_path, tokenizer):
    """Which are those of a plain loop over the merged model. Routers learn beside them."""
    mixture = balanced()
    names = {id(parameter): name for name, parameter in mixture.named_parameters()}
    targets = {"target_modules": ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]}
    targets["target_parameters"] = ["experts.gate_up_proj", "experts.down_proj"]
    adapted = get_peft_model(mixture, LoraConfig(r=2, init_lora_weights=False, **targets))
    plain = copy.deepcopy(adapted).merge_and_unload().requires_grad_(True)
    for block in mixture.moe_blocks:
        block.router.requires_grad_(True)
    loss, gradients, batches = learn(trainer_of(adapted, tmp_path, tokenizer))
    expected = alone(plain, batches)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    whole = grads_of(plain)
    adapted.zero_grad()
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            layer = module.get_base_layer()
            changed = module.get_param() if hasattr(module, "get_param") else layer.weight
            (module.get_delta_weight("default") * whole[names[id(changed)]]).sum().backward()
    of_routers = {f"base_model.model.{name}": whole[name] for name in whole if "router" in name}
    assert gap(gradients, grads_of(adapted) | of_routers) < 1e-4


def test_reentrant_checkpointing_is_refused(tmp_path, tokenizer):
    mixture = random_mixture("llama")
    options = {"activation_checkpointing_kwargs": {"use_reentrant": True}}
    trainer = trainer_of(mixture, tmp_path, tokenizer, activation_checkpointing=True, **options)
    with pytest.raises(xft.UserError, match="use_reentrant"):
        trainer.train()
