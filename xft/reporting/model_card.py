"""Writes the model cards of mixtures and of the tuned dense model."""

import json

from xft.artifacts.artifact import Artifact
from xft.artifacts.manifest import short
from xft.checkpoints.layout import model_name
from xft.config.section import keys
from xft.config.sections import MixtureConfig, effective

HUB_KEYS = ("model", "revision")
XFT = "[XFT](https://arxiv.org/abs/2404.15247)"
SFT = """\
# A dense model tuned on instructions

The plain baseline beside a mixture of experts ({xft}): the base model, all of its weights tuned on
the same instructions. It loads with plain transformers.

- base: {base}
{flops}{tuning}"""
SOUP = """\
# A mean of {count} dense models

The plain mean of the weights of models with one architecture
([model soup](https://arxiv.org/abs/2203.05482)). It loads with plain transformers.

- base: {base}
- models: the artifacts {ids}
{tuning}"""
FLOPS = """\
- equal FLOPs: {ratio:.4g} times the optimiser steps, as many FLOPs as the mixture's tuning takes
"""
HEAL = """\
# A dense model made with XFT, tuned after the merge

A mixture of experts was merged to a dense model of the base's architecture and config ({xft}). Then
all weights of this model were tuned on a share of the instructions. It loads with plain
transformers.

- base: {base}
- merged model: artifact {merged}, {merge}
- loss: {loss}
{tuning}"""
HEAD = """\
---
library_name: transformers
{base_model}tags: [code, xft]
---

"""
MIXTURE = """\
# A mixture of experts made with XFT

{done}

- base: {base}
- experts: {num_experts}; {num_experts_per_tok} compute each token{shared}{form}
- upcycling: {upcycling}
{tuning}
It loads where the package `xft` of the XFT pipeline, which made it, can be imported:

```python
import xft  # registers the model type
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
```
"""


def origin(base: Artifact) -> dict:
    """A base's entry in the manifests of its descendants: its id, and its place on the hub."""
    known = base.manifest.parameters
    return {"id": base.id} | {key: known[key] for key in HUB_KEYS if key in known}


def moe_card(config: dict, parameters: dict) -> str:
    """The card of an upcycled model, from its config and its manifest's parameters."""
    init = init_settings(parameters)
    experts = "experts that differ" if init else "identical experts"
    if config["experts"] == "lora":
        experts = "low-rank experts"
    computes = "does not compute" if init else "computes"
    done = (
        f"Each FFN of a dense model became a mixture of {experts} with a fresh router\n"
        f"({XFT}, step 1). It {computes} what the base computes: the start of the tuning."
    )
    return _mixture_card(config, parameters["base"], done, seed=parameters["seed"], **init)


def moe_sft_card(config: dict, parameters: dict, data_hash: str, init: dict) -> str:
    """The card of a tuned mixture, from its config and its manifest's parameters.

    init: the `init_settings` of the mixture before its tuning.
    """
    done = f"A dense model was upcycled, and the mixture tuned on instructions ({XFT}, steps 1, 2)."
    return _mixture_card(config, parameters["base"], done, _tuning(parameters, data_hash), **init)


def init_settings(parameters: dict) -> dict:
    """How the experts of a mixture began, from its manifest's parameters; empty for copies."""
    init = parameters.get("init", "copy")
    names = () if init == "copy" else ("init", f"init_{init}")
    return {name: parameters[name] for name in names}


def sft_card(config: dict, parameters: dict, data_hash: str) -> str:
    """The card of the tuned dense model, from its config and its manifest's parameters."""
    base = parameters["base"]
    words = base_words({"base_config": config}, base)
    ratio = parameters.get("flops_ratio")
    flops = "" if ratio is None else FLOPS.format(ratio=ratio)
    tuning = _tuning(parameters, data_hash)
    return card_head(base) + SFT.format(xft=XFT, base=words, flops=flops, tuning=tuning)


def soup_card(config: dict, common: dict, ids: list[str]) -> str:
    """The card of a mean of models. common: the parameters that all their manifests state."""
    base = common.get("base", {})
    return card_head(base) + SOUP.format(
        count=len(ids),
        base=base_words({"base_config": config}, base),
        ids=", ".join(map(short, ids)),
        tuning=f"- tuning of each: {tuning}\n" if (tuning := listed(common)) else "",
    )


def heal_card(dense: Artifact, config: dict, parameters: dict, data_hash: str) -> str:
    """The card of a merged model that was tuned. dense: the artifact before the tuning."""
    base, weight = parameters["base"], parameters["kl_weight"]
    loss = "the cross-entropy of the responses"
    if parameters["objective"] == "kl":
        divergence = "KL divergence from the mixture's distribution over their tokens"
        loss = f"{1 - weight:g} x {loss} + {weight:g} x the {divergence}"
    return card_head(base) + HEAL.format(
        xft=XFT,
        base=base_words({"base_config": config}, base),
        merged=short(dense.id),
        merge=listed(dense.manifest.parameters),
        loss=loss,
        tuning=_tuning(parameters, data_hash),
    )


def _tuning(parameters: dict, data_hash: str) -> str:
    return f"- tuning: {listed(parameters)}\n- instructions: a file with SHA-256 `{data_hash}`\n"


def imported_card(config: dict) -> str:
    """The card of a mixture that was imported from the published code's format."""
    done = f"A mixture that the published code of {XFT} made, in the format of the XFT pipeline."
    return _mixture_card(config, {}, done)


def exported_card(config: dict, parameters: dict, low_rank: str) -> str:
    """The card of a mixture whose experts were written out. low_rank: the id of its artifact."""
    done = (
        f"A mixture with low-rank experts ({XFT}), artifact {short(low_rank)}, whose experts were\n"
        "written out as full ones. It computes the same."
    )
    return _mixture_card(config, parameters.get("base", {}), done)


def _mixture_card(config: dict, base: dict, done: str, tuning: str = "", **upcycling) -> str:
    settings = effective({key: config.get(key) for key in keys(MixtureConfig)})
    return card_head(base) + MIXTURE.format(
        done=done,
        base=base_words(config, base),
        num_experts=config["num_experts"],
        num_experts_per_tok=config["num_experts_per_tok"],
        shared=", the shared one always" if config["shared_expert"] else "",
        form=expert_form(config),
        upcycling=listed(settings | upcycling),
        tuning=tuning,
    )


def expert_form(config: dict) -> str:
    """What to add to the number of experts if they are of low rank."""
    if config.get("experts") != "lora":
        return ""
    return f", each the base's FFN plus products of rank {config['rank']}"


def card_head(base: dict) -> str:
    """The card's metadata for the hub."""
    return HEAD.format(base_model=f"base_model: {base['model']}\n" if "model" in base else "")


def base_words(config: dict, base: dict) -> str:
    """The base in words: its place on the hub, or its architecture and the artifact's short id."""
    if "model" in base:
        return f"[{base['model']}](https://huggingface.co/{base['model']}), {base['revision']}"
    architecture = f"a {model_name(config['base_config'])}"
    return f"{architecture}, artifact {short(base['id'])}" if "id" in base else architecture


def listed(parameters: dict) -> str:
    """Parameters in one line, as in the config. Parameters without a value are left out."""
    set_ones = {k: v for k, v in parameters.items() if v is not None and not isinstance(v, dict)}
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in sorted(set_ones.items()))
