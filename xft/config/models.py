"""The models that a run can make and evaluate. Each is declared once."""

from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Model:
    """A model by its name in the configuration and in the tables.

    meaning: for the description of `evaluation.models`. step: that makes it, if it is another one.
    per_lambda: it exists once for each lambda. has_experts: it is a mixture. is_untuned: it has
    seen no instructions. over_seeds: it is made from models of all seeds. is_reference: every later
    model is compared with it. is_aside: it is compared with no reference. counterpart: the model of
    the same lambda that it is compared with.
    """

    name: str
    meaning: str = ""
    step: str = ""
    per_lambda: bool = False
    has_experts: bool = False
    is_untuned: bool = False
    over_seeds: bool = False
    is_reference: bool = False
    is_aside: bool = False
    counterpart: str = ""

    @property
    def made_by(self) -> str:
        """The step that makes it."""
        return self.step or self.name


_merge = partial(Model, per_lambda=True)
# In the order of the tables: from the base to the merged models.
DECLARED = (
    Model("base", "the given model, not fine-tuned", is_untuned=True, is_reference=True),
    Model(
        "moe", "the base as a mixture of experts, not fine-tuned", is_untuned=True, has_experts=True
    ),
    Model(
        "sft",
        "plain fine-tuning: the base tuned without experts, by section sft",
        is_reference=True,
    ),
    Model("sft_flops", "sft with as many FLOPs as the mixture's tuning", "sft", is_reference=True),
    Model("soup", "the mean of the sft models of all seeds", over_seeds=True, is_reference=True),
    Model("moe_sft", "the mixture of experts, fine-tuned", has_experts=True, is_reference=True),
    _merge("uniform", "dense with equal shares, without step 6", "dense", is_aside=True),
    _merge("dense", "the merged model of each lambda", counterpart="uniform"),
)
MODEL = {model.name: model for model in DECLARED}
MODELS = tuple(MODEL)
MERGED = tuple(model.name for model in DECLARED if model.per_lambda)
UNTUNED = tuple(model.name for model in DECLARED if model.is_untuned)
MIXTURES = tuple(model.name for model in DECLARED if model.has_experts)
# Those that hold, or are made from, a tuned mixture.
OF_MIXTURE = tuple(
    model.name
    for model in DECLARED
    if model.per_lambda or (model.has_experts and not model.is_untuned)
)
# The steps that make them.
MODEL_STEPS = tuple(dict.fromkeys(model.made_by for model in DECLARED))


def family(model: str) -> str:
    """The declared name of a model: `dense` of `dense/lam~0.75`."""
    return model.partition("/")[0]
