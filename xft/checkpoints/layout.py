"""The names of FFN tensors in dense and in upcycled models.

P stands for a prefix such as `model.layers.<n>.mlp`, E for the number of experts, R for that of the
routed ones, I and H for the intermediate and the hidden size, K and N for the inputs and outputs of
a projection, r for the rank.

- Dense: a linear layer for each projection of the backbone's MLP, `P.<projection>.weight` and
  perhaps `P.<projection>.bias`.
- Upcycled: the shared expert has the same names under `P.shared_expert`, the routed experts are
  fused under `P.experts`, and the router is under `P.router`. Fused weights: `gate_up_proj`
  [R, 2I, H], or `up_proj` [R, I, H] if the MLP has no gate, and `down_proj` [R, H, I]. Fused
  biases: the same names with `_bias`, without the last axis.
- Upcycled with LoRA experts: the base's MLP is under `P.dense`, which no expert changes. The
  factors of all experts, the shared one first, are `P.experts.<projection>.lora_A` [E, r, K] and
  `lora_B` [E, N, r]. The router has the same names.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from xft.checkpoints.reader import TensorTable
from xft.common.errors import UserError

MLP_TENSOR = re.compile(r"(?P<prefix>.*\blayers\.(?P<index>\d+)\.mlp)\.(?P<rest>.+)")
LAYER = re.compile(r"\blayers\.(\d+)\.")
FACTOR = re.compile(r"experts\.(?P<projection>\w+)\.lora_[AB]")
PARTS = ("weight", "bias")
FACTOR_SETTINGS = ("experts", "rank", "lora_alpha")  # what a reader of factors needs


@dataclass(frozen=True)
class MlpForm:
    """The names of the linear layers in the MLP of a family of backbones.

    inputs: from hidden to intermediate size, the gate before the up projection.
    output: from intermediate to hidden size.
    gated: whether the activation is of a gate.
    """

    inputs: tuple[str, ...]
    output: str
    gated: bool

    @property
    def projections(self) -> tuple[str, ...]:
        return (*self.inputs, self.output)


MLP_FORMS = (
    MlpForm(("gate_proj", "up_proj"), "down_proj", gated=True),  # Llama and most others
    MlpForm(("gate_up_proj",), "down_proj", gated=True),  # Phi-3, GLM-4
    MlpForm(("up_proj",), "down_proj", gated=False),  # Nemotron
    MlpForm(("c_fc",), "c_proj", gated=False),  # Starcoder2
    MlpForm(("dense_h_to_4h",), "dense_4h_to_h", gated=False),  # GPT-NeoX
    MlpForm(("fc1",), "fc2", gated=False),  # Phi-2
)


def find_form(projections: Iterable[str]) -> MlpForm | None:
    """The form that has exactly these linear layers; None if no form fits."""
    held = set(projections)
    return next((form for form in MLP_FORMS if set(form.projections) == held), None)


@dataclass(frozen=True)
class FfnLayer:
    """Tensor names of the FFN of one decoder layer.

    prefix: of all of them; it ends in `.mlp`.
    index: of the layer.
    form: of the MLP.
    parts: "weight", and "bias" if the projections have biases.
    low_rank: whether the experts are products of low rank, which share the base's tensors.
    """

    prefix: str
    index: int
    form: MlpForm = MLP_FORMS[0]
    parts: tuple[str, ...] = ("weight",)
    low_rank: bool = False

    @property
    def tensors(self) -> list[tuple[str, str]]:
        """The MLP's tensors as (projection, part), weights before biases."""
        return [(projection, part) for part in self.parts for projection in self.form.projections]

    @property
    def merged(self) -> list[tuple[str, str]]:
        """Those of `tensors` that the experts have each for themselves."""
        return [tensor for tensor in self.tensors if not self.low_rank or tensor[1] == "weight"]

    def dense(self, projection: str, part: str = "weight") -> str:
        return f"{self.prefix}.{projection}.{part}"

    def shared(self, projection: str, part: str = "weight") -> str:
        return f"{self.prefix}.shared_expert.{projection}.{part}"

    def frozen(self, projection: str, part: str = "weight") -> str:
        """A tensor of the base's MLP in a mixture with LoRA experts."""
        return f"{self.prefix}.dense.{projection}.{part}"

    def factor(self, projection: str, letter: str) -> str:
        """The factor "A" or "B" of all LoRA experts."""
        return f"{self.prefix}.experts.{projection}.lora_{letter}"

    def fused(self, part: str = "weight") -> list[tuple[str, tuple[str, ...]]]:
        """The fused tensors of the routed experts, each with the projections that it holds."""
        first = "gate_up_proj" if self.form.gated else "up_proj"
        end = "_bias" if part == "bias" else ""
        return [
            (f"{self.prefix}.experts.{first}{end}", self.form.inputs),
            (f"{self.prefix}.experts.down_proj{end}", (self.form.output,)),
        ]

    def router(self, part: str) -> str:
        return f"{self.prefix}.router.{part}.weight"


@dataclass(frozen=True)
class Mlp:
    """The tensors that the MLP of one layer holds, in a dense model or a mixture.

    prefix, index: as in `FfnLayer`.
    held: the names behind the prefix.
    """

    prefix: str
    index: int
    held: set[str] = field(default_factory=set)


def dense_layers(names: Iterable[str], config: dict) -> list[FfnLayer]:
    """The layers of a dense model, first to last.

    Raises UserError if the form of an MLP cannot be upcycled, or if a layer has no MLP.
    """
    model = model_name(config)
    if "text_config" in config:
        raise UserError(
            f"{model} holds more than a language model (its config has a text_config). Only causal "
            "language models can be upcycled: save its language model alone"
        )
    names = list(names)
    if any(".experts." in name for name in names):
        raise UserError(f"{model} is a mixture of experts already; only dense models are upcycled")
    expected = config.get("num_hidden_layers")
    matches = [LAYER.search(name) for name in names]
    present = {int(match[1]) for match in matches if match is not None}
    if present and len(present) != expected:
        raise UserError(
            f"{model}: its config.json says num_hidden_layers = {expected!r:.40}, but the weights "
            f"hold {len(present)} layers. One of the two belongs to another model"
        )
    layers = [_dense_layer(mlp, model) for mlp in _mlps(names)]
    if not layers or len(layers) != expected:
        number = f"{len(layers)} of {expected}" if layers else "none of its"
        raise UserError(
            f"{model}: {number} layers have an MLP named `layers.<n>.mlp`. "
            f"Models whose MLPs hold one of these can be upcycled: {forms()}"
        )
    return layers


def moe_layers(names: Iterable[str]) -> list[FfnLayer]:
    """The upcycled layers of a mixture with shared experts, or of its FFN weights, in order.

    FFN weights of LoRA experts do not say whether the MLP has biases; `parts` is then without
    them. Raises UserError if there are no such layers, or if full experts lack a shared one.
    """
    upcycled = [mlp for mlp in _mlps(names) if _holds_experts(mlp)]
    if not upcycled:
        raise UserError("no layer holds experts: not an upcycled model")
    return [_moe_layer(mlp) for mlp in upcycled]


def no_shared_expert(index: int) -> str:
    """The message for a layer whose experts cannot be merged."""
    return f"layer {index} has no shared expert (vanilla upcycling): its experts cannot be merged"


def outside(names: Iterable[str], layers: list[FfnLayer]) -> list[str]:
    """The tensor names that belong to none of these MLPs."""
    prefixes = tuple(f"{layer.prefix}." for layer in layers)
    return [name for name in names if not name.startswith(prefixes)]


def _mlps(names: Iterable[str]) -> list[Mlp]:
    """The MLPs of a model with these tensors, first layer first."""
    mlps: dict[str, Mlp] = {}
    for name in names:
        match = MLP_TENSOR.fullmatch(name)
        if match is None:
            continue
        prefix = match["prefix"]
        if prefix not in mlps:
            mlps[prefix] = Mlp(prefix, int(match["index"]))
        mlps[prefix].held.add(match["rest"])
    return sorted(mlps.values(), key=lambda mlp: mlp.index)


def _dense_layer(mlp: Mlp, model: str) -> FfnLayer:
    """The layer of a dense model. Raises UserError if the form of its MLP cannot be upcycled."""
    linear = _linear_layers(mlp.held)
    form = find_form(linear)
    holds_nothing_else = len(mlp.held) == sum(len(parts) for parts in linear.values())
    has_equal_parts = len(set(linear.values())) == 1
    if form is not None and holds_nothing_else and has_equal_parts:
        return FfnLayer(mlp.prefix, mlp.index, form, linear[form.output])
    raise UserError(
        f"{model}: the MLP of layer {mlp.index} holds {', '.join(sorted(mlp.held))}. It can be "
        "upcycled if it holds the weights, and perhaps all biases, of one of these: "
        f"{forms()}"
    )


def _holds_experts(mlp: Mlp) -> bool:
    return "experts.down_proj" in mlp.held or bool(_factored(mlp.held))


def _moe_layer(mlp: Mlp) -> FfnLayer:
    """The layer of an MLP with experts. Raises UserError if full experts lack a shared one."""
    factored = _factored(mlp.held)
    if factored:
        form = find_form(factored)
        base_parts = _linear_layers(mlp.held, "dense")
        parts = base_parts.get(form.output, ("weight",))
        return FfnLayer(mlp.prefix, mlp.index, form, parts, low_rank=True)
    shared = _linear_layers(mlp.held, "shared_expert")
    form = find_form(shared)
    if form is None:
        raise UserError(no_shared_expert(mlp.index))
    return FfnLayer(mlp.prefix, mlp.index, form, shared[form.output])


def _factored(held: set[str]) -> set[str]:
    """The projections that have factors of LoRA experts."""
    matches = [FACTOR.fullmatch(name) for name in held]
    return {match["projection"] for match in matches if match is not None}


def _linear_layers(held: Iterable[str], module: str = "") -> dict[str, tuple[str, ...]]:
    """The parts, weight and bias, of each linear layer in a module of the MLP, by its name."""
    layers: dict[str, set[str]] = {}
    for name in held:
        place, _, part = name.rpartition(".")
        owner, _, layer = place.rpartition(".")
        if part in PARTS and owner == module:
            layers.setdefault(layer, set()).add(part)
    return {layer: tuple(sorted(parts, key=PARTS.index)) for layer, parts in layers.items()}


def forms() -> str:
    """The linear layers of each form, for messages."""
    return "; ".join(", ".join(form.projections) for form in MLP_FORMS)


def model_name(config: dict) -> str:
    """The model's class, or its type if the config names no class."""
    names = config.get("architectures") or [config.get("model_type", "unknown model")]
    return names[0]


def ffn_names(moe: TensorTable) -> list[str]:
    """The names of the FFN tensors of all experts; of LoRA experts, of their factors.

    Raises UserError if the model has no shared expert: the merge needs one.
    """
    return [name for layer in moe_layers(moe.names) for name in _expert_names(moe, layer)]


def _expert_names(moe: TensorTable, layer: FfnLayer) -> list[str]:
    if not layer.low_rank:
        names = [layer.shared(projection, part) for projection, part in layer.tensors]
        for part in layer.parts:
            names += [name for name, _ in layer.fused(part)]
        return names
    experts = moe.shape(layer.factor(layer.form.output, "A"))[0]
    if moe.shape(layer.router("input"))[0] == experts:  # the router chooses among all
        raise UserError(no_shared_expert(layer.index))
    return [layer.factor(name, letter) for name in layer.form.projections for letter in "AB"]
