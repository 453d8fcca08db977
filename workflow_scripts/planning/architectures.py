"""The tensors of a dense backbone, from its config.json alone.

Names and sizes follow transformers' classes (`modeling_<type>.py`). Sizes are exact for the types
in ARCHITECTURES; projections that a type fuses count apart here, which changes no sum.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from workflow_scripts.checkpoints.layout import MLP_FORMS, MlpForm

GATED, FUSED, UNGATED, STARCODER, NEOX, PHI = MLP_FORMS
PRE_NORMS = ("input_layernorm", "post_attention_layernorm")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
SANDWICH_NORMS = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Setting:
    """A yes or no that a key of config.json gives. default: where the config lacks the key."""

    key: str
    default: bool = False

    def value(self, config: dict) -> bool:
        value = config.get(self.key)
        return self.default if value is None else bool(value)


NO, YES = Setting("", False), Setting("", True)
ATTENTION_BIAS, MLP_BIAS = Setting("attention_bias"), Setting("mlp_bias")


@dataclass(frozen=True)
class Architecture:
    """How a family of backbones differs from others in its parameters.

    query_norm: a norm of the queries and one of the keys; over_heads: of all heads together or of
    one head's size. head_bias: of the output layer. Tensors of norms with bias count twice.
    """

    form: MlpForm = GATED
    norms: tuple[str, ...] = PRE_NORMS
    final_norm: bool = True
    norm_bias: bool = False
    query_bias: Setting = ATTENTION_BIAS
    output_bias: Setting = ATTENTION_BIAS
    mlp_bias: Setting = MLP_BIAS
    query_norm: Setting = NO
    over_heads: bool = False
    head_bias: bool = False
    tied: bool = False


LLAMA = Architecture()
PLAIN = Architecture(query_bias=NO, output_bias=NO, mlp_bias=NO)
GEMMA = Architecture(mlp_bias=NO, tied=True)
USE_BIAS, ALWAYS_BIASED = Setting("use_bias"), Setting("use_bias", True)
ARCHITECTURES = {
    "llama": LLAMA,
    "mistral": PLAIN,
    "qwen2": Architecture(query_bias=YES, output_bias=NO, mlp_bias=NO),
    "qwen3": Architecture(mlp_bias=NO, query_norm=YES),
    "stablelm": Architecture(
        norm_bias=True, query_bias=Setting("use_qkv_bias"), output_bias=NO, mlp_bias=NO
    ),
    "gemma": GEMMA,
    "gemma2": Architecture(mlp_bias=NO, norms=SANDWICH_NORMS, tied=True),
    "gemma3_text": Architecture(mlp_bias=NO, norms=SANDWICH_NORMS, query_norm=YES, tied=True),
    "olmo": Architecture(mlp_bias=NO, norms=(), final_norm=False),
    "olmo2": Architecture(mlp_bias=NO, norms=POST_NORMS, query_norm=YES, over_heads=True),
    "smollm3": Architecture(tied=True),
    "granite": LLAMA,
    "cohere": Architecture(
        mlp_bias=NO,
        norms=("input_layernorm",),
        query_norm=Setting("use_qk_norm"),
        over_heads=True,
        tied=True,
    ),
    "cohere2": Architecture(mlp_bias=NO, norms=("input_layernorm",), tied=True),
    "ernie4_5": Architecture(
        query_bias=USE_BIAS, output_bias=USE_BIAS, mlp_bias=USE_BIAS, tied=True
    ),
    "exaone4": Architecture(
        query_bias=NO, output_bias=NO, mlp_bias=NO, norms=POST_NORMS, query_norm=YES
    ),
    "helium": Architecture(output_bias=NO),
    "hunyuan_v1_dense": Architecture(mlp_bias=NO, query_norm=YES),
    "phi3": Architecture(FUSED, query_bias=NO, output_bias=NO, mlp_bias=NO),
    "glm": Architecture(
        FUSED, query_bias=Setting("attention_bias", True), output_bias=NO, mlp_bias=NO
    ),
    "glm4": Architecture(
        FUSED,
        norms=SANDWICH_NORMS,
        query_bias=Setting("attention_bias", True),
        output_bias=NO,
        mlp_bias=NO,
    ),
    "nemotron": Architecture(UNGATED, norm_bias=True),
    "arcee": Architecture(UNGATED),
    "starcoder2": Architecture(
        STARCODER,
        norm_bias=True,
        query_bias=ALWAYS_BIASED,
        output_bias=ALWAYS_BIASED,
        mlp_bias=ALWAYS_BIASED,
        tied=True,
    ),
    "gpt_neox": Architecture(
        NEOX,
        norm_bias=True,
        query_bias=Setting("attention_bias", True),
        output_bias=Setting("attention_bias", True),
        mlp_bias=YES,
    ),
    "persimmon": Architecture(
        NEOX,
        norm_bias=True,
        query_bias=YES,
        output_bias=YES,
        mlp_bias=YES,
        query_norm=Setting("qk_layernorm", True),
    ),
    "phi": Architecture(
        PHI,
        norms=("input_layernorm",),
        norm_bias=True,
        query_bias=YES,
        output_bias=YES,
        mlp_bias=YES,
        head_bias=True,
    ),
}
# These have a key and a value for each query, whatever their config says.
WITHOUT_KV_HEADS = ("gpt_neox", "persimmon")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Heads:
    """The heads of the attention: their numbers and their size."""

    query: int
    key: int
    size: int


def read_heads(config: dict) -> Heads:
    """The attention's heads, from a backbone's config.json."""
    query = config["num_attention_heads"]
    key = config.get("num_key_value_heads") or query
    if config.get("model_type") in WITHOUT_KV_HEADS:
        key = query
    return Heads(query, key, config.get("head_dim") or config["hidden_size"] // query)


def is_known(config: dict) -> bool:
    """Whether the sizes of this model type are exact; others are taken for a Llama's."""
    return config.get("model_type") in ARCHITECTURES


def is_tied(config: dict) -> bool:
    """Whether the output layer's weight is the embedding's."""
    architecture = ARCHITECTURES.get(config.get("model_type"), LLAMA)
    return Setting("tie_word_embeddings", architecture.tied).value(config)


def tensor_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a backbone."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    architecture = ARCHITECTURES.get(config.get("model_type"), LLAMA)
    shapes = {EMBEDDING: (vocabulary, hidden)}
    for index in range(config["num_hidden_layers"]):
        shapes |= dict(_layer(architecture, config, f"model.layers.{index}"))
    if architecture.final_norm:
        shapes |= dict(_norm("model.norm", hidden, architecture.norm_bias))
    if not is_tied(config):
        shapes[HEAD] = (vocabulary, hidden)
    if architecture.head_bias:
        shapes["lm_head.bias"] = (vocabulary,)
    return shapes


def _layer(architecture: Architecture, config: dict, prefix: str) -> Iterator[tuple]:
    hidden, heads = config["hidden_size"], read_heads(config)
    widths = {"q": heads.query * heads.size, "k": heads.key * heads.size}
    widths["v"] = widths["k"]
    attention, bias = f"{prefix}.self_attn", architecture.query_bias.value(config)
    for name, width in widths.items():
        yield from _linear(f"{attention}.{name}_proj", width, hidden, bias)
    bias = architecture.output_bias.value(config)
    yield from _linear(f"{attention}.o_proj", hidden, widths["q"], bias)
    if architecture.query_norm.value(config):
        for name in ("q", "k"):
            size = widths[name] if architecture.over_heads else heads.size
            yield from _norm(f"{attention}.{name}_norm", size, architecture.norm_bias)
    yield from _mlp(architecture, config, f"{prefix}.mlp")
    for name in architecture.norms:
        yield from _norm(f"{prefix}.{name}", hidden, architecture.norm_bias)


def _mlp(architecture: Architecture, config: dict, prefix: str) -> Iterator[tuple]:
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    form, bias = architecture.form, architecture.mlp_bias.value(config)
    into = (2 if form.gated else 1) * intermediate // len(form.inputs)
    for projection in form.inputs:
        yield from _linear(f"{prefix}.{projection}", into, hidden, bias)
    yield from _linear(f"{prefix}.{form.output}", hidden, intermediate, bias)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Iterator[tuple]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, size: int, bias: bool) -> Iterator[tuple]:
    yield f"{name}.weight", (size,)
    if bias:
        yield f"{name}.bias", (size,)
