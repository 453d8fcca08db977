"""XFT around models in memory: upcycle a dense one, mix its experts, merge them back.

Options have the names, defaults and meanings of the configuration's sections `moe`, `mixing` and
`merge` (docs/configuration.md). What comes out has memory of its own, on the device of the model
that it is made from. Each tensor has the dtype of those that it is made from. Wrong options and
models raise `xft.UserError`.
"""

import copy
import inspect
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter
from pathlib import Path
from typing import get_type_hints

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from xft.checkpoints.in_memory import LoadedModel
from xft.checkpoints.model_files import fact_of_card
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError, did_you_mean
from xft.common.user_code import codes_in
from xft.config.reading import SectionType, check_lambda, validated
from xft.config.section import Needs, Section, marked
from xft.config.sections import (
    INIT,
    MERGE,
    MergeMethod,
    MixingShape,
    MoeConfig,
    RunConfig,
    mixture_settings,
)
from xft.conversions import expert_diversity as experts
from xft.conversions import upcycle as upcycling
from xft.conversions.coefficients import alpha_shape, initial_logits
from xft.conversions.dense_models import dense_specs, soup_specs
from xft.modeling import mixing
from xft.modeling.configuration import MODEL_TYPE, XftConfig, dense_config
from xft.modeling.other_trainers import architecture, differing
from xft.modeling.other_trainers import prepare as prepare
from xft.modeling.whole_models import load_whole

LAMBDA = 0.75
ROUNDING = 1e-4  # of a sum of coefficients

CARD = Path(__file__).with_name("card.md")


def _with_keys(section: type[Section]) -> Callable[[Callable], Callable]:
    """Name a section's keys, types and defaults in the signature of a function with **options."""

    def named(function: Callable) -> Callable:
        signature = inspect.signature(function)
        types = get_type_hints(section)
        *parameters, _ = signature.parameters.values()  # the last one is **options
        for key, field in section.model_fields.items():
            parameters.append(
                Parameter(key, Parameter.KEYWORD_ONLY, default=field.default, annotation=types[key])
            )
        function.__signature__ = signature.replace(parameters=parameters)
        return function

    return named


@_with_keys(MoeConfig)
def upcycle(model: PreTrainedModel, *, seed: int = 42, **options) -> PreTrainedModel:
    """Step 1: a mixture of experts that equals the dense `model` until it is trained.

    options: keys of section `moe`, such as num_experts and experts="lora". init may also be a
    function of the weights of an MLP and a generator (docs/extending.md). The mixture is of a
    class over the model's own. Its loss, if it gets labels, includes the balance loss. Of low-rank
    experts only what `train_rest` says learns; with "lora" the products outside of the MLPs are to
    be added with PEFT.
    """
    given = _take_function(options, "init")
    settings = _options(upcycle, MoeConfig, options)
    init = given
    if given is not None:
        _check_effect_of_init(given, settings)
    elif settings.init_function is not None:
        init = settings.init_function.load(INIT)
    seed = validated(RunConfig, {"seed": seed}, "upcycle").seed
    dense = LoadedModel(model)
    specs = upcycling.upcycle(dense, settings, seed, init)
    config = upcycling.upcycled_config(dense.config, settings, upcycling.weights_dtype(dense))
    mixture = _built(XftConfig.from_dict(config), specs, model)
    if settings.experts == "lora":
        mixture.choose_trainable(freeze_rest=settings.train_rest != "full")
    known = {"init": _shown(given, settings.init), "upcycle.seed": seed}
    mixture.xft_settings = _of_mixture(mixture) | known
    return mixture


def diversity(mixture: PreTrainedModel, base: PreTrainedModel) -> dict:
    """How far the experts have moved apart, compared with how far they moved from the base.

    spread, deviation and shift of the whole model, and of each layer in `layers`. None: nothing
    moved.
    """
    source = _mixture(mixture)
    return experts.diversity(source, _base(base, source))


class Mixing(mixing.Mixing):
    """Steps 4 to 6: mixing coefficients of a mixture's experts, which can learn.

    model: the merged model at the present coefficients. Only the coefficients learn, by an
    optimiser from `build_optimizer`. They start equal, and stay so if nothing trains them. The
    mixture is not copied, and must not change meanwhile.
    """

    @_with_keys(MixingShape)
    def __init__(self, mixture: PreTrainedModel, lam: float = LAMBDA, **options):
        """options: keys of section `mixing`: granularity."""
        shape = _options(Mixing, MixingShape, options)
        source = _mixture(mixture)
        _warn_of_equal_experts(source)
        logits = _logits(source, lam, shape)
        super().__init__(source, source, logits, mixture.device, mixture.dtype)

    def take_gradients(self, max_norm: float | None = None) -> None:
        """As in the workflow. Raises UserError if a gradient is not finite."""
        super().take_gradients(max_norm)
        if not math.isfinite(self.gradient_norm):
            self.logits.zero_grad()
            raise UserError(
                f"the norm of the coefficients' gradient is {self.gradient_norm}. Nothing was "
                "changed. Leave out batches whose loss is not finite"
            )

    def merge(self) -> None:
        """As in the workflow. Raises UserError if a coefficient is not finite."""
        if not self.coefficients.isfinite().all():
            raise UserError("the coefficients are not finite any more. Lower the learning rate")
        super().merge()

    @property
    def coefficients(self) -> Tensor:
        """For `merge`, fp32 [layers or 1, projections or 1, experts]. The first is lambda."""
        return self.logits.coefficients().detach()


@_with_keys(MergeMethod)
def merge(
    mixture: PreTrainedModel,
    lam: float | None = None,
    *,
    coefficients: Tensor | None = None,
    base: PreTrainedModel | None = None,
    **options,
) -> PreTrainedModel:
    """Step 7: the dense model of the base's own class, W = sum_i c_i W_i for each tensor.

    lam: lambda, the coefficient of the shared expert, 0.75 if it is left out; the others have equal
    shares of the rest.
    coefficients: `Mixing.coefficients`, in place of both.
    options: the key method of section `merge`. It may also be a function of the tensors of
    the experts, their shares and the base's tensor (docs/extending.md).
    base: the dense model, only for methods that need it.
    """
    given = _take_function(options, "method")
    method = _options(merge, MergeMethod, options)
    source = _mixture(mixture)
    function = given
    method_name = method.method
    if given is not None:
        method_name = _name_of(given)
    elif method.function is not None:
        function = method.function.load(MERGE)
    if function is not None and base is None:
        raise UserError(f"merge: method = {method_name}: give the dense model as base, too")
    if function is None and base is not None:
        raise UserError(f"merge: method = {method_name}: leave out base")
    _warn_of_equal_experts(source)
    if coefficients is None:
        lam = LAMBDA if lam is None else lam
        weighting = {"merge.lam": lam}
        coefficients = _logits(source, lam, MixingShape()).coefficients()
    elif lam is None:
        weighting = {"merge.coefficients": coefficients}
        _check_coefficients(coefficients, source)
    else:
        raise UserError(f"merge: lam = {lam}: no effect beside coefficients. Leave out one of them")
    coefficients = coefficients.detach().to(mixture.device, torch.float32)
    base_source = None if base is None else _base(base, source)
    specs = dense_specs(source, source, coefficients, base_source, function)
    dense = _built(dense_config(source.config), specs, mixture)
    made_by = {"merge.method": _shown(given, method.method)} | weighting
    dense.xft_settings = _settings(mixture) | made_by
    return dense


def soup(models: Sequence[PreTrainedModel]) -> PreTrainedModel:
    """The mean of dense models' weights (arXiv 2203.05482), computed in fp64 and rounded once."""
    if not isinstance(models, Sequence):
        raise UserError(f"soup: models is a {type(models).__name__}. Give a list of models")
    sources = [LoadedModel(model, f"model {number}") for number, model in enumerate(models, 1)]
    mean = _built(copy.deepcopy(models[0].config), soup_specs(sources), models[0])
    mean.xft_settings = {"soup.models": len(models)}
    return mean


def save(model: PreTrainedModel, tokenizer, folder: Path | str) -> None:
    """Write a model, its tokenizer, and a card that states what is known of its base and settings.

    The settings of a merge are known of the model that `merge` returned, not of one that was loaded
    again.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    source = model.config._name_or_path or "None"  # the base, or what the model was loaded from
    facts = {key: fact_of_card(source, key) for key in ("base_model", "license")}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists():
        facts["base_model"] = source
    front = "".join(f"{key}: {value}\n" for key, value in facts.items() if value)
    lines = [_origin(model, source, facts["base_model"])]
    lines += [f"- {key}: {_text(value)}" for key, value in _settings(model).items()]
    text = CARD.read_text().format(facts=front, settings="\n".join(lines))
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")


def _origin(model: PreTrainedModel, source: str, base: str | None) -> str:
    """The line of a card that names the base, or the folder that the model was made from."""
    if base:
        return f"- base: [{base}](https://huggingface.co/{base})"
    architecture = type(model).__name__.removeprefix("Xft")
    place = f"in the folder `{Path(source).name}`" if Path(source).is_dir() else "in memory"
    return f"- made from: a {architecture} {place}"


def _shown(function: Callable | None, value: str) -> str:
    """How a card names a caller's function, or the value of a key: code without its folder."""
    if function is not None:
        return _name_of(function)
    codes = codes_in(value)
    return codes[0].label if codes else value


def _name_of(function: Callable) -> str:
    """The name of a caller's function, or of the class of a callable object."""
    return getattr(function, "__name__", type(function).__name__)


def _text(value: object) -> str:
    """A value of `xft_settings` in a card. Of coefficients the mean share of each expert."""
    if not isinstance(value, Tensor):
        return str(value)
    shares = value.detach().flatten(0, -2).mean(0).tolist()
    return f"{', '.join(f'{share:.4g}' for share in shares)} (means)"


def _settings(model: PreTrainedModel) -> dict[str, object]:
    """The known settings that made a model, by the names of arguments of this module."""
    known = getattr(model, "xft_settings", None)
    if known is not None:
        return known
    return _of_mixture(model) if model.config.model_type == MODEL_TYPE else {}


def _of_mixture(mixture: PreTrainedModel) -> dict[str, object]:
    """The settings in a mixture's config that have an effect and a value."""
    settings = mixture_settings(mixture.config.to_dict())
    return {key: value for key, value in settings.items() if value is not None}


def _options(function: Callable, section: type[SectionType], options: dict) -> SectionType:
    """Arguments of a function as an object of a section. Raises UserError with every fault."""
    known = inspect.signature(function).parameters.keys()
    for name in options.keys() - known:
        near = did_you_mean(name, known) or f": known are {', '.join(sorted(known))}"
        raise UserError(f"{function.__name__} has no argument {name}{near}")
    return validated(section, options, function.__name__)


def _take_function(options: dict[str, object], key: str) -> Callable | None:
    """Remove a function from the options and return it. None if the value is no function."""
    if callable(options.get(key)):
        return options.pop(key)
    return None


def _check_effect_of_init(function: Callable, settings: MoeConfig) -> None:
    """Raise UserError if a function for the start of the experts has no effect."""
    need = marked(MoeConfig, Needs)["init"]
    if not need.is_met(dict(settings)):
        raise UserError(
            f"upcycle: init = {_name_of(function)}: no effect with {need.key} = "
            f"{getattr(settings, need.key)}. Leave out init, or set {need} too"
        )


def _check_coefficients(coefficients: Tensor, source: LoadedModel) -> None:
    """Raise UserError if these cannot be the coefficients of a mixture's experts."""
    layers, projections, routed = alpha_shape("projection", source)
    if not isinstance(coefficients, Tensor):
        fault = f"are a {type(coefficients).__name__}"
    else:
        shape = tuple(coefficients.shape)
        shapes = set(itertools.product((1, layers), (1, projections), [1 + routed]))
        sums = coefficients.double().sum(-1).flatten()
        errors = (sums - 1).abs()
        if shape in shapes and bool((errors < ROUNDING).all()):
            return
        farthest = sums[errors.argmax()].item()
        fault = f"have the shape {list(shape)} and a sum of {farthest:.6g}"
    raise UserError(
        f"merge: coefficients {fault}. They must be a tensor [{layers} or 1, {projections} or 1, "
        f"{1 + routed}] with a sum of 1 in its last axis, such as Mixing.coefficients"
    )


def _logits(source: LoadedModel, lam: float, shape: MixingShape) -> mixing.MixingLogits:
    """The logits at the start: equal shares."""
    lam = check_lambda(str(lam), "lam")
    return mixing.MixingLogits(initial_logits(source, shape.granularity), lam)


def _mixture(model: PreTrainedModel) -> LoadedModel:
    source = LoadedModel(model)
    if source.config["model_type"] != MODEL_TYPE:
        raise UserError("the model is no mixture. Make one of it with xft.upcycle")
    return source


def _warn_of_equal_experts(source: LoadedModel) -> None:
    """Warn the caller of the calling function."""
    if experts.are_alike(source):
        text = "all routed experts are equal, so no shares differ: they did not learn"
        warnings.warn(f"{text} (docs/trainers.md)", stacklevel=3)


def _base(model: PreTrainedModel, source: LoadedModel) -> LoadedModel:
    """The base of a mixture. Raises UserError if the mixture has another one."""
    base = LoadedModel(model, "base")
    different = differing(architecture(base.config), architecture(source.config["base_config"]))
    if not different:
        return base
    names = ", ".join(different[:5])
    hint = ""
    if "vocab_size" in names:
        hint = ". Call resize_token_embeddings on both, or on neither"
    raise UserError(f"base is not what the mixture was made from: {names} differs{hint}")


@torch.no_grad()
def _built(
    config: PretrainedConfig, specs: Iterable[TensorSpec], like: PreTrainedModel
) -> PreTrainedModel:
    """The model of these tensors, with generation config, mode and device of `like`."""
    state = {spec.name: spec.tensor(like.device) for spec in specs}
    config._attn_implementation = like.config._attn_implementation
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model = load_whole(model_class, None, config=config, state_dict=state, dtype=like.dtype)
    for name, weight in revert_weight_conversion(model, dict(model.named_parameters())).items():
        weight.data = state[name].to(weight.device)  # loading rounded all to one dtype
    model.config._name_or_path = like.config._name_or_path
    model.generation_config = copy.deepcopy(like.generation_config)
    return model.train(like.training).to(like.device)
