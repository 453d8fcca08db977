"""Mixtures in the hands of other programs: backbones called alone, Trainers, checkpointing."""

import pytest
import torch
from mixtures import random_mixture
from transformers import Trainer, TrainingArguments

import xft

IDS = torch.arange(5, 25).reshape(2, 10)
PADDED = torch.tensor([[1] * 10, [1] * 6 + [0] * 4])


def trainer_of(model, folder, **options) -> Trainer:
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    arguments = TrainingArguments(
        str(folder), use_cpu=True, report_to=[], max_steps=1, disable_tqdm=True, **options
    )
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)


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
    with pytest.warns(UserWarning, match="the balance loss is not part of this loss"):
        mixture.train().get_decoder()(IDS)


def test_only_a_training_adds_the_balance_loss(tiny_llama):
    mixture = random_mixture("llama", router_noise=False)
    trained, measured = (mixture.train(mode)(IDS, labels=IDS) for mode in (True, False))
    logits = measured.logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, IDS[:, 1:].flatten())
    torch.testing.assert_close(measured.loss, expected)
    assert measured.aux_loss > 0
    torch.testing.assert_close(trained.loss, expected + trained.aux_loss)


def test_a_trainer_computes_metrics(tmp_path):
    trainer = trainer_of(random_mixture("llama"), tmp_path)
    trainer.compute_metrics = lambda found: {"shape": found.predictions.shape}
    assert trainer.evaluate()["eval_shape"] == (2, 10, trainer.model.config.vocab_size)


def test_label_smoothing_shifts_the_labels(tmp_path):
    mixture = random_mixture("llama", router_noise=False)
    trainer = trainer_of(mixture, tmp_path, label_smoothing_factor=0.1)
    loss = trainer.compute_loss(mixture.eval(), {"input_ids": IDS, "labels": IDS.clone()})
    logits, following = mixture(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
    smoothed = torch.nn.functional.cross_entropy(logits, following, label_smoothing=0.1)
    torch.testing.assert_close(loss, smoothed)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_keeps_the_gradient_of_the_balance_loss_or_is_refused(reentrant):
    mixture = random_mixture("llama", router_noise=False).train()
    mixture(IDS, labels=IDS).loss.backward()
    expected = {name: p.grad.clone() for name, p in mixture.named_parameters()}
    mixture.zero_grad()
    mixture.activation_checkpointing_enable({"use_reentrant": reentrant})
    mixture.enable_input_require_grads()
    if reentrant:
        with pytest.raises(xft.UserError, match="use_reentrant"):
            mixture(IDS, labels=IDS)
        return
    mixture(IDS, labels=IDS).loss.backward()
    for name, parameter in mixture.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
