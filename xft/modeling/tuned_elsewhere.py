"""Compares a model that another trainer tuned with the base that it was made from."""

from pathlib import Path

from transformers import AutoConfig

from xft.checkpoints.model_config import IDLE_KEYS
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.sections import mixture_settings
from xft.conversions.diversity import are_alike
from xft.data.tokenizers import tokenizer_identity
from xft.modeling.loading import check_fit, loading

ASIDE = IDLE_KEYS | {"bos_token_id", "eos_token_id", "pad_token_id"}  # trainers set them too


def check_tuned(folder: Path, base: Checkpoint) -> str:
    """The kind of a tuned model, moe_sft or sft. Raises UserError unless it was made of the base.

    The architecture and the tokenizer must be the base's, and the weights whole and finite. Weights
    beside LoRA experts that are not the base's are told if no tuning should have changed them.
    """
    model = Checkpoint(folder)
    if different := differing(_described(model), _described(base)):
        raise UserError(
            f"{folder} was not made of {base.folder}: {', '.join(different)} differs. Name its own "
            "base. If only the tokenizer differs, save the base's into the folder"
        )
    check_fit(folder)
    for name in model.names:
        model.get_finite(name)
    if changed := _changed(model, base):
        say(f"{len(changed)} weights that should be the base's differ: {', '.join(changed[:3])}")
    if "base_config" not in model.config:
        return "sft"
    if are_alike(model):
        say("all routed experts are equal: they did not learn (docs/trainers.md)")
    return "moe_sft"


def architecture(config: dict) -> dict:
    """What a config.json says of what a model computes, as transformers reads it."""
    settings = AutoConfig.for_model(**config).to_dict()
    return {key: settings[key] for key in settings.keys() - ASIDE}


def differing(own: dict, theirs: dict) -> list[str]:
    """The names of values that are not the same in both. The type of the model comes first."""
    names = [name for name in own | theirs if own.get(name) != theirs.get(name)]
    return sorted(names, key=lambda name: (name != "model_type", name))


def _described(checkpoint: Checkpoint) -> dict:
    """The architecture's settings as transformers reads them, and the parts of the tokenizer."""
    with loading(checkpoint.folder):
        known = architecture(checkpoint.config.get("base_config", checkpoint.config))
    parts = tokenizer_identity(checkpoint.folder).items()
    return known | {f"tokenizer ({name})": value for name, value in parts}


def _changed(model: Checkpoint, base: Checkpoint) -> list[str]:
    """The weights that no tuning of LoRA experts changes, and that are not the base's.

    They are compared in the model's dtype.
    """
    kept = {name.replace(".mlp.", ".mlp.dense."): name for name in base.names if ".mlp." in name}
    if mixture_settings(model.config).get("train_rest") == "frozen":  # with LoRA experts alone
        kept |= {name: name for name in base.names}
    return [
        own
        for own, name in kept.items()
        if own in model and not (tensor := model.get(own)).equal(base.get(name).to(tensor.dtype))
    ]
