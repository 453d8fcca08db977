"""Models in the hands of other trainers: lets one learn a mixture's own loss, and compares what one
has tuned with the base.
"""

from functools import wraps
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from xft.checkpoints.model_files import IDLE_KEYS, embedding_size, read_model_config
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.sections import mixture_settings
from xft.conversions.expert_diversity import are_alike
from xft.data.tokenizers import GENERATION_CONFIG, stated_ends, tokenizer_identity
from xft.modeling.upcycling import UpcycledModel
from xft.modeling.whole_models import check_fit, loading

ASIDE = IDLE_KEYS | {"bos_token_id", "eos_token_id", "pad_token_id"}  # trainers set them too


def kind_of_tuned(folder: Path, base: Checkpoint) -> str:
    """The kind of a tuned model, moe_sft or sft. Raises UserError unless it was made of the base.

    It must pass `check_made_of`, and its weights be finite. Another EOS is told, and weights beside
    LoRA experts that are not the base's, if no tuning should have changed them.
    """
    check_made_of(folder, base.folder)
    model = Checkpoint(folder)
    for name in model.names:
        model.get_finite(name)
    ends = _stated_ends_in_words(folder)
    ends_of_base = _stated_ends_in_words(base.folder)
    if ends != ends_of_base:
        say(
            f"WARNING: eos_token_id in config.json and {GENERATION_CONFIG} is {ends}, in the "
            f"base's {ends_of_base}. Evaluations end texts at the tokens of {GENERATION_CONFIG}: "
            "correct them if the tuning had others"
        )
    changed = _changed(model, base)
    if changed:
        say(f"{len(changed)} weights that should be the base's differ: {', '.join(changed[:3])}")
    if "base_config" not in model.config:
        return "sft"
    if are_alike(model):
        say("all routed experts are equal: they did not learn (docs/trainers.md)")
    return "moe_sft"


def _stated_ends_in_words(folder: Path) -> str:
    return " and ".join(str(end) for end in stated_ends(folder))


def architecture(config: dict) -> dict:
    """The settings of a config.json that decide what a model computes, as transformers reads it."""
    settings = AutoConfig.for_model(**config).to_dict()
    return {key: settings[key] for key in settings.keys() - ASIDE}


def differing(first: dict, second: dict) -> list[str]:
    """The names of values that are not the same in both. The type of the model comes first."""
    names = [name for name in first | second if first.get(name) != second.get(name)]
    return sorted(names, key=lambda name: (name != "model_type", name))


def check_made_of(folder: Path, base: Path) -> None:
    """Raise UserError unless a tuned model may be one of the base, by all but its weights' values.

    The architecture and the tokenizer must be the base's, and the weights those of its config.json.
    """
    different = differing(_described(folder), _described(base))
    if different:
        raise UserError(
            f"{folder} was not made of {base}: {', '.join(different)} differs. Name its own base. "
            "Or if tokens were added, as for padding, save the model again after "
            f"model.resize_token_embeddings({embedding_size(base)}), and save the base's tokenizer "
            "into the folder. EOS can pad: tokenizer.pad_token = tokenizer.eos_token"
        )
    check_fit(folder, reads_all=True)


def _described(folder: Path) -> dict:
    """The architecture's settings as transformers reads them, and the parts of the tokenizer."""
    config = read_model_config(folder / "config.json")
    with loading(folder):
        known = architecture(config.get("base_config", config))
    parts = tokenizer_identity(folder).items()
    return known | {f"tokenizer ({name})": value for name, value in parts}


def _changed(model: Checkpoint, base: Checkpoint) -> list[str]:
    """The weights that no tuning of LoRA experts changes, and that are not the base's.

    They are compared in the model's dtype.
    """
    names_in_base = {
        name.replace(".mlp.", ".mlp.dense."): name for name in base.names if ".mlp." in name
    }
    if mixture_settings(model.config).get("train_rest") == "frozen":  # with LoRA experts alone
        names_in_base |= {name: name for name in base.names}
    changed = []
    for name, name_in_base in names_in_base.items():
        if name in model:
            held = model.get(name)
            if not held.equal(base.get(name_in_base).to(held.dtype)):
                changed.append(name)
    return changed


def prepare(trainer):
    """Let transformers' Trainer, or a subclass such as TRL's SFTTrainer, train a mixture.

    Its loss becomes the mixture's own: the cross-entropy plus the balance loss, weighted as the
    cross-entropy of a micro-batch. Its logs get `aux_loss`, the mean balance loss. Returns the
    trainer. Raises UserError for a model that is no mixture, and for losses that leave the balance
    loss out.
    """
    from transformers import Trainer  # what only loads models needs none of its imports

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


def _check(trainer) -> None:
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
