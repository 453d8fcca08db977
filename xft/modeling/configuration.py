"""The configs of upcycled models.

Their config.json has `model_type` "xft", and under `base_config` the base's config.json: unchanged,
or as transformers writes it if a value was changed in the mixture.
"""

import copy
from functools import cache

import transformers
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

from xft.common.errors import UserError
from xft.config.section import keys
from xft.config.sections import MixtureConfig

MODEL_TYPE = "xft"
MOE_SETTINGS = keys(MixtureConfig)
# What differs from the base's config although nobody changed it.
OF_MIXTURES = {
    "_name_or_path",
    "architectures",
    "base_config",
    "dtype",
    "model_type",
    "transformers_version",
    *MOE_SETTINGS,
}


class XftConfig(PreTrainedConfig):
    """AutoConfig's class for "xft". `from_dict` returns a config of the backbone's own class."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        return cls.over(config_dict["base_config"]["model_type"]).from_dict(config_dict, **kwargs)

    @staticmethod
    @cache
    def over(base_type: str) -> type[PreTrainedConfig]:
        """The config class of upcycled models over backbones of `base_type` ("llama", ...).

        Raises UserError if transformers does not know the type.
        """
        from transformers import AutoModelForCausalLM

        from xft.modeling.upcycling import model_class

        if base_type not in CONFIG_MAPPING:
            raise UserError(f"model type {base_type!r} is unknown to the installed transformers")
        base = CONFIG_MAPPING[base_type]
        members = {"model_type": MODEL_TYPE, "__module__": __name__}
        config_class = type(f"Xft{base.__name__}", (UpcycledConfig, base), members)
        AutoModelForCausalLM.register(config_class, model_class(config_class, base))
        return config_class


def dense_config(config: dict) -> PreTrainedConfig:
    """The config of a mixture's base, of the base's own class. config: the mixture's."""
    base = copy.deepcopy(config["base_config"])
    return CONFIG_MAPPING[base.pop("model_type")].from_dict(base)


class UpcycledConfig:
    """Mixin over the backbone's config class. It adds MOE_SETTINGS to the base's attributes."""

    keys_to_ignore_at_inference = ["past_key_values", "aux_loss", "router_logits", "routing"]
    auto_map = {}  # trl asks for it
    experts = "full"
    num_routed_experts = MixtureConfig.num_routed_experts

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        if "base_config" in config_dict and config_dict.get("model_type") == MODEL_TYPE:
            config_dict = copy.deepcopy(config_dict["base_config"]) | config_dict
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict:
        """The mixture's settings, and the config of its base with all that was changed since."""
        everything = super().to_dict()
        base = dense_config(everything).to_dict()
        names = everything.keys() - OF_MIXTURES
        changed = {key: everything[key] for key in names if everything[key] != base.get(key, ...)}
        if changed:
            everything["base_config"] = base | changed
        of_all = ("architectures", "base_config", "dtype", "eos_token_id", "model_type")
        kept = (*of_all, *MOE_SETTINGS)
        return {key: everything[key] for key in kept if key in everything}

    def to_diff_dict(self) -> dict:
        return self.to_dict()


def __getattr__(name: str) -> type[PreTrainedConfig]:
    """The class of a name such as XftLlamaConfig. Unpickling asks for it before it is made."""
    base = getattr(transformers, name[3:], None) if name.startswith("Xft") else None
    if not hasattr(base, "model_type"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return XftConfig.over(base.model_type)


AutoConfig.register(MODEL_TYPE, XftConfig, exist_ok=True)
