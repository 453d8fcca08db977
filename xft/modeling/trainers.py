"""Lets a trainer of another library learn a mixture's own loss, which has the balance loss."""

from functools import wraps

import torch
from transformers import PreTrainedModel, Trainer

from xft.common.errors import UserError
from xft.modeling.upcycling import UpcycledModel


def prepare(trainer: Trainer) -> Trainer:
    """Let transformers' Trainer, or a subclass such as TRL's SFTTrainer, train a mixture.

    Its loss becomes the mixture's own: the cross-entropy plus the balance loss, weighted as the
    cross-entropy of a micro-batch. Its logs get `aux_loss`, the mean balance loss. Returns the
    trainer. Raises UserError for a model that is no mixture, and for losses that leave the balance
    loss out.
    """
    _check(trainer)
    measured: list[torch.Tensor] = []
    log = trainer.log

    def compute_loss(model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = inputs | {"use_cache": False}  # with a cache, packed rows see each other
        loss, outputs = Trainer.compute_loss(trainer, model, inputs, True, num_items_in_batch)
        if model.training:
            measured.append(outputs["aux_loss"].detach())
        return (loss, outputs) if return_outputs else loss

    @wraps(log)
    def log_with_balance(logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and measured:
            logs["aux_loss"] = round(torch.stack(measured).mean().item(), 6)
            measured.clear()
        log(logs, *args, **kwargs)

    trainer.compute_loss, trainer.log = compute_loss, log_with_balance
    return trainer


def _check(trainer: Trainer) -> None:
    model: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, UpcycledModel):
        raise UserError(f"prepare: {type(base).__name__} is no mixture. Make one with xft.upcycle")
    losses = {
        "compute_loss_func": trainer.compute_loss_func,
        "label_smoothing_factor": trainer.args.label_smoothing_factor,
        "loss_type = dft": getattr(trainer.args, "loss_type", "nll") == "dft",
    }
    for name, is_set in losses.items():
        if is_set:
            raise UserError(f"prepare: {name} leaves the balance loss out. Leave it out")
