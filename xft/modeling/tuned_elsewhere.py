"""Compares a model that another trainer tuned with the base that it was made from."""

from pathlib import Path

from transformers import AutoConfig

from xft.checkpoints.capacity import embedding_rows
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.sections import mixture_settings
from xft.data.tokenizers import tokenizer_identity
from xft.modeling.loading import check_fit, loading

# Keys of a config.json that do not change what a model computes. Trainers set some of them.
ASIDE = {"_name_or_path", "architectures", "dtype", "transformers_version", "use_cache"}
ASIDE |= {"bos_token_id", "eos_token_id", "pad_token_id"}


def check_tuned(folder: Path, base: Checkpoint) -> str:
    """The kind of a tuned model, moe_sft or sft. Raises UserError unless it was made of the base.

    The architecture and the tokenizer must be the base's, and the weights whole and finite. Weights
    beside LoRA experts that are not the base's are told if no tuning should have changed them.
    """
    model = Checkpoint(folder)
    own, theirs = _described(model), _described(base)
    if different := sorted(name for name in own | theirs if own.get(name) != theirs.get(name)):
        raise UserError(
            f"{folder} was not made of {base.folder}: {', '.join(different)} differs. Name its own "
            "base. Or if tokens were added, as for padding, save the model again after "
            f"model.resize_token_embeddings({embedding_rows(base.folder)}), and save the base's "
            "tokenizer into the folder. EOS can pad: tokenizer.pad_token = tokenizer.eos_token"
        )
    check_fit(folder)
    for name in model.names:
        model.get_finite(name)
    if changed := _changed(model, base):
        say(f"{len(changed)} weights that should be the base's differ: {', '.join(changed[:3])}")
    return "moe_sft" if "base_config" in model.config else "sft"


def _described(checkpoint: Checkpoint) -> dict:
    """The architecture's settings as transformers reads them, and the parts of the tokenizer."""
    with loading(checkpoint.folder):
        config = checkpoint.config.get("base_config", checkpoint.config)
        settings = AutoConfig.for_model(**config).to_dict()
    known = {key: settings[key] for key in settings.keys() - ASIDE}
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
