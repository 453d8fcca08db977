"""XFT around models in memory: upcycle a dense one, mix its experts, merge them back.

Options have the names, defaults and meanings of the configuration's sections `moe`, `mixing` and
`merge` (docs/configuration.md). What comes out has memory of its own, on the device of the model
that it is made from. Each tensor has the dtype of those that it is made from. Wrong options and
models raise `xft.UserError`.
"""

import copy
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from xft.checkpoints.card_facts import fact_of_card
from xft.checkpoints.in_memory import LoadedModel
from xft.checkpoints.writer import TensorPlan
from xft.common.errors import UserError
from xft.config.sections import MergeMethod, MixingShape, MoeConfig
from xft.config.validation import check_lambda, validated
from xft.conversions import upcycle as upcycling
from xft.conversions.merge import ALPHA, LAMBDA_LOGIT, initial_logits
from xft.conversions.merge_methods import dense_plans
from xft.conversions.soup import soup_plans
from xft.modeling import mixing
from xft.modeling.configuration import MODEL_TYPE, XftConfig, dense_config
from xft.modeling.loading import load_whole
from xft.modeling.trainers import prepare as prepare

CARD = """---
library_name: transformers
pipeline_tag: text-generation
{facts}tags: [xft]
---

# A model made with XFT

[XFT](https://arxiv.org/abs/2404.15247) upcycles a dense model to a mixture of experts, tunes it,
and merges it back. transformers loads a dense model alone, and a mixture after `import xft`.
"""


def upcycle(model: PreTrainedModel, *, seed: int = 42, **options) -> PreTrainedModel:
    """Step 1: a mixture of experts that equals the dense `model` until it is trained.

    options: keys of section `moe`, such as num_experts and experts="lora". The mixture is of a
    class over the model's own. Its loss, if it gets labels, includes the balance loss. Of low-rank
    experts only what `train_rest` says learns; with "lora" the products outside of the MLPs are to
    be added with PEFT.
    """
    settings = validated(MoeConfig, options, "upcycle")
    dense = LoadedModel(model)
    config = upcycling.upcycled_config(dense.config, settings, upcycling.weights_dtype(dense))
    mixture = _built(XftConfig.from_dict(config), upcycling.upcycle(dense, settings, seed), model)
    if settings.experts == "lora":
        mixture.choose_trainable(freeze_rest=settings.train_rest != "full")
    return mixture


class Mixing(mixing.Mixing):
    """Steps 4 to 6: mixing coefficients of a mixture's experts, which can learn.

    model: the merged model at the present coefficients. Only the coefficients learn, by an
    optimiser from `build_optimizer`. They start equal, and stay so if nothing trains them. The
    mixture is not copied, and must not change meanwhile.
    """

    def __init__(self, mixture: PreTrainedModel, lam: float = 0.75, **options):
        """options: keys of section `mixing`: granularity, learn_lambda."""
        source = _mixture(mixture)
        logits = _logits(source, lam, **options)
        super().__init__(source, source, logits, mixture.device, mixture.dtype)

    @property
    def coefficients(self) -> Tensor:
        """For `merge`, fp32 [layers or 1, projections or 1, experts]. The first is lambda."""
        return self.logits.coefficients().detach()


def merge(
    mixture: PreTrainedModel,
    lam: float = 0.75,
    *,
    coefficients: Tensor | None = None,
    base: PreTrainedModel | None = None,
    **options,
) -> PreTrainedModel:
    """Step 7: the dense model of the base's own class, W = c_0 W_0 + sum_i c_i W_i for each tensor.

    lam: c_0, the weight of the shared expert; the others have equal shares of the rest.
    coefficients: `Mixing.coefficients`, in place of both. options: keys of section `merge`: method,
    scale. base: the dense model, for methods that need it.
    """
    method, source = validated(MergeMethod, options, "merge"), _mixture(mixture)
    if method.needs_base and base is None:
        raise UserError(f"merge: method = {method.method}: give the dense model as base, too")
    if coefficients is None:
        coefficients = _logits(source, lam).coefficients().detach()
    known = LoadedModel(base, "base") if method.needs_base else None
    plans = dense_plans(source, source, coefficients.to(mixture.device), method, known)
    return _built(dense_config(source.config), plans, mixture)


def soup(models: Sequence[PreTrainedModel]) -> PreTrainedModel:
    """The mean of dense models' weights (arXiv 2203.05482), computed in fp64 and rounded once."""
    plans = soup_plans([LoadedModel(one, f"model {n}") for n, one in enumerate(models, 1)])
    return _built(copy.deepcopy(models[0].config), plans, models[0])


def save(model: PreTrainedModel, tokenizer, folder: Path | str) -> None:
    """Write a model, its tokenizer, and a card that states what is known of its base."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    source = model.config._name_or_path or "None"  # the base, or what the model was loaded from
    facts = {key: fact_of_card(source, key) for key in ("base_model", "license")}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists():
        facts["base_model"] = source
    stated = "".join(f"{key}: {value}\n" for key, value in facts.items() if value)
    (Path(folder) / "README.md").write_text(CARD.format(facts=stated), encoding="utf-8")


def _logits(source: LoadedModel, lam: float, **options) -> mixing.MixingLogits:
    """The logits at the start: equal shares. options: keys of section `mixing`."""
    shape = validated(MixingShape, options, "Mixing")
    lam = check_lambda(str(lam), shape, "lam")
    start = initial_logits(source, shared_expert_weight=lam, **shape.model_dump())
    return mixing.MixingLogits(start[ALPHA], start.get(LAMBDA_LOGIT), lam)


def _mixture(model: PreTrainedModel) -> LoadedModel:
    source = LoadedModel(model)
    if source.config["model_type"] != MODEL_TYPE:
        raise UserError("the model is no mixture. Make one of it with xft.upcycle")
    return source


@torch.no_grad()
def _built(
    config: PretrainedConfig, plans: Iterable[TensorPlan], like: PreTrainedModel
) -> PreTrainedModel:
    """The model of planned tensors, with generation config, mode and device of `like`."""
    state = {plan.name: plan.tensor(like.device) for plan in plans}
    config._attn_implementation = like.config._attn_implementation
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model = load_whole(model_class, None, config=config, state_dict=state, dtype=like.dtype)
    for name, weight in revert_weight_conversion(model, dict(model.named_parameters())).items():
        weight.data = state[name].to(weight.device)  # loading rounded all to one dtype
    model.config._name_or_path = like.config._name_or_path
    model.generation_config = copy.deepcopy(like.generation_config)
    return model.train(like.training).to(like.device)
