"""Tensors, parameters and FLOPs of the base and of the mixture.

A table has names, shapes and dtypes, but no values. Conversions can plan from it instead of a
checkpoint, so the sizes of their outputs are exact.

For each token, each parameter that computes it takes 2 FLOPs in the forward pass and 4 in the
backward pass if it learns, else 2. The attention takes 2 L Q in each layer, with rows of L tokens
and queries of width Q (two matrix products, half of them masked), and twice that in the backward
pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Activation checkpointing computes the
forward pass of the layers twice. Of LoRA experts, the base's MLP counts once for a token, and
the factors for each expert that computes it. Every token counts as one with a label.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten

from xft.checkpoints import model_files
from xft.checkpoints.layout import FfnLayer, dense_layers, outside
from xft.checkpoints.model_files import DTYPE_BYTES, EMBEDDINGS, FLOAT_NAMES, TensorInfo
from xft.checkpoints.reader import CheckpointHeaders, TensorTable
from xft.common.errors import UserError, errors_at
from xft.common.progress import say
from xft.config.sections import BaseConfig, MoeConfig, MoeSftTraining, SftTraining
from xft.config.training import TrainingConfig
from xft.conversions.upcycle import chosen_layers, upcycle
from xft.hub.source import find_config

NEEDED_KEYS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    "vocab_size",
)
HEADS = ("lm_head.weight", "embed_out.weight")
BUFFERS = ("rotary_emb.inv_freq", "attention.masked_bias")  # in files of old versions
FIRST_NORMS = r"\.0\..*norm\.weight$"  # of the first decoder layer
LONGEST_REASON = 300
FORWARD, BACKWARD = 2, 4
WITHOUT_GRADIENT = 2  # of the backward pass, which a weight that does not learn leaves out


@dataclass(frozen=True)
class ModelTable(TensorTable):
    """The tensors of a model without their values, and its config.json.

    folder: the name of the model in messages.
    """

    tensors: Mapping[str, TensorInfo]
    config: dict
    folder: str

    def size(self, name: str) -> int:
        """The number of values of a tensor."""
        return math.prod(self.shape(name))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors in a file."""
        return sum(self.size(name) * DTYPE_BYTES[self.dtype(name)] for name in self.tensors)

    @property
    def query_width(self) -> int:
        """The width of the queries of all heads of a layer."""
        return self.config["num_attention_heads"] * self._head_size

    @property
    def key_width(self) -> int:
        """The width of the keys of all heads of a layer, and of the values."""
        heads = self.config.get("num_key_value_heads") or self.config["num_attention_heads"]
        return heads * self._head_size

    @property
    def _head_size(self) -> int:
        heads = self.config["num_attention_heads"]
        return self.config.get("head_dim") or self.config["hidden_size"] // heads

    @property
    def is_tied(self) -> bool:
        """Whether the output layer and the embedding share their weight."""
        has_head = any(name.endswith(HEADS) for name in self.tensors)
        return bool(self.config.get("tie_word_embeddings")) or not has_head

    @property
    def parameters(self) -> dict[str, int]:
        """The number of values of each parameter of the model in memory, by name."""
        left_out = (*BUFFERS, *HEADS) if self.is_tied else BUFFERS
        sizes = {}
        for name in self.names:
            if self.is_float(name) and not name.endswith(left_out):
                sizes[name] = self.size(name)
        return sizes

    @property
    def embedding(self) -> int:
        """The size of an embedding that is only looked up; 0 if the output layer shares it."""
        if self.is_tied:
            return 0
        return sum(self.size(name) for name in self.names if name.endswith(EMBEDDINGS))


def find_table(base: BaseConfig, model_config: Path | None) -> ModelTable:
    """The table of the base, from its weights' headers or its config.json.

    Raises UserError, also if the base cannot be upcycled.

    model_config: another config.json to take.
    """
    try:
        file = model_config or find_config(base.model, base.revision)
    except UserError as error:
        raise UserError(
            f"config: {error}. Without a network, name the model's config.json, a small file, with "
            "--model-config"
        ) from None
    with errors_at("--model-config" if model_config else "config: base.model"):
        if model_config is None and has_weights(file.parent):
            table = read_table(file.parent)
            check_sizes(table.config, file)
        else:
            say("Building the model without its weights: ten seconds to a minute.")
            table = compute_table(file)
        dense_layers(table.names, table.config)
    return table


def read_table(folder: Path) -> ModelTable:
    """The table of a model folder, from the headers of its safetensors files. Raises UserError."""
    headers = CheckpointHeaders(folder)
    return ModelTable(headers.tensors, headers.config, str(folder))


def has_weights(folder: Path) -> bool:
    """Whether a model folder holds safetensors."""
    files = model_files.SINGLE_FILE, model_files.INDEX_FILE
    return any((folder / name).exists() for name in files)


def compute_table(config_file: Path) -> ModelTable:
    """The table of a model from its config.json alone.

    Raises UserError if the file lacks a size, or if transformers cannot build the model.
    """
    config = model_files.read_model_config(config_file)
    check_sizes(config, config_file)
    stated = config.get("dtype") or config.get("torch_dtype")
    spellings = {name: spelling for spelling, name in FLOAT_NAMES.items()}
    dtype = spellings.get(stated, "F32")
    parameters = _build(config, config_file).named_parameters()
    tensors = {name: TensorInfo(dtype, tuple(values.shape)) for name, values in parameters}
    return ModelTable(tensors, config, str(config_file))


def check_sizes(config: dict, file: Path) -> None:
    """Raise UserError if a model's config.json does not state the sizes that plans need."""
    wrong = [key for key in NEEDED_KEYS if not isinstance(config.get(key), int)]
    if wrong:
        raise UserError(
            f"{file} has no whole number for {', '.join(wrong)}: it is not the config.json of a "
            "causal language model"
        )


def _build(config: dict, config_file: Path):
    """transformers' model without values."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**config),
                attn_implementation="eager",  # other implementations may be missing on this machine
                trust_remote_code=False,
            )
    except Exception as error:  # each model type raises its own errors
        reason = shorten(f"{type(error).__name__}: {error}", LONGEST_REASON)
        raise UserError(f"{config_file}: transformers cannot build the model: {reason}") from error


@dataclass(frozen=True)
class Trained:
    """Numbers of parameters of a model that is trained.

    active: those that compute a token.
    whole: whether embedding and output layer learn too.
    """

    total: int
    learned: int
    active: int
    whole: bool


@dataclass(frozen=True)
class Models:
    """The base, and the mixture that step 1 makes of it. moe: the config's section."""

    base: ModelTable
    moe: MoeConfig

    @cached_property
    def mixture(self) -> ModelTable:
        """The tensors that step 1 would write. Raises UserError if step 1 would."""
        plans = upcycle(self.base, self.moe, seed=0)
        tensors = {plan.name: TensorInfo(plan.dtype, plan.shape) for plan in plans}
        return replace(self.base, tensors=tensors)

    @cached_property
    def layers(self) -> list[FfnLayer]:
        """The MLPs of all decoder layers of the base."""
        return dense_layers(self.base.names, self.base.config)

    @cached_property
    def upcycled(self) -> list[FfnLayer]:
        """The MLPs that become mixtures."""
        return chosen_layers(self.base, self.moe.upcycled_layers)

    @property
    def ffn(self) -> int:
        """The number of parameters of the base's MLPs that become mixtures."""
        names = [layer.dense(*tensor) for layer in self.upcycled for tensor in layer.tensors]
        return sum(self.base.size(name) for name in names)

    @property
    def head(self) -> int:
        """The number of weights of the output layer, without a bias."""
        return self.base.config["vocab_size"] * self.base.config["hidden_size"]

    @property
    def further_norms(self) -> int:
        """The width of a layer's norms beside the two of its inputs: of outputs, queries, keys."""
        table = self.base
        widths = {"q_norm": table.query_width, "k_norm": table.key_width}
        kinds = [name.split(".")[-2] for name in table.names if re.search(FIRST_NORMS, name)]
        hidden = table.config["hidden_size"]
        return max(sum(widths.get(kind, hidden) for kind in kinds) - 2 * hidden, 0)

    @property
    def is_low_rank(self) -> bool:
        """Whether the experts are low-rank changes of the base's MLPs."""
        return self.moe.experts == "lora"

    @property
    def expert(self) -> int:
        """The number of parameters that an expert has for itself, in all layers."""
        if not self.is_low_rank:
            return self.ffn
        projections = self.layers[0].form.projections
        names = (layer.dense(name) for layer in self.upcycled for name in projections)
        return self._factors(names, self.moe.rank)

    @property
    def expert_bytes(self) -> int:
        """Bytes of the FFN weights in the files that step 6 maps into memory.

        LoRA experts also need the base's MLPs.
        """
        common = self.ffn if self.is_low_rank else 0
        layer = self.upcycled[0]
        width = DTYPE_BYTES[self.base.dtype(layer.dense(layer.form.output))]
        return width * (common + self.expert * self.moe.num_experts)

    def _factors(self, names: Iterable[str], rank: int) -> int:
        """The number of parameters of low-rank factors beside these matrices of the base."""
        return rank * sum(sum(self.base.shape(name)) for name in names)

    def _factors_outside(self, mlps: list[FfnLayer], rank: int) -> int:
        """The same for all linear layers that belong to none of these MLPs."""
        matrices = []
        for name in outside(self.base.parameters, mlps):
            if ".layers." in name and len(self.base.shape(name)) == 2:
                matrices.append(name)
        return self._factors(matrices, rank)

    def trained(self, options: TrainingConfig) -> Trained:
        """The parameters that a training with these options trains."""
        dense = self.dense_total
        if options.trains == "mixture":
            return self._trained_mixture
        if options.trains == "shares":
            return Trained(dense, self.ffn, dense, whole=False)
        rank = getattr(options, "lora_rank", None)
        if rank is not None:
            learned = self._factors_outside([], rank)
            return Trained(dense + learned, learned, dense + learned, whole=False)
        return Trained(dense, dense, dense, whole=True)

    @cached_property
    def _trained_mixture(self) -> Trained:
        total = self.moe_total
        active = self.moe_active
        if not self.is_low_rank:
            return Trained(total, total, active, whole=True)
        if self.moe.train_rest == "full":
            return Trained(total, total - self.ffn, active, whole=True)
        added = 0
        if self.moe.train_rest == "lora":
            added = self._factors_outside(self.layers, self.moe.rank)
        learned = total - self.dense_total + added
        return Trained(total + added, learned, active + added, whole=False)

    @cached_property
    def dense_total(self) -> int:
        return sum(self.base.parameters.values())

    @cached_property
    def moe_total(self) -> int:
        return sum(self.mixture.parameters.values())

    @property
    def moe_active(self) -> int:
        """The number of parameters that compute one token, with only its chosen experts."""
        return self.moe_total - (self.moe.num_experts - self.moe.num_experts_per_tok) * self.expert


def training_flops(
    models: Models, trained: Trained, length: int, checkpointing: bool = False
) -> int:
    """FLOPs of a token in a training.

    length: of a row.
    """
    embedding = models.base.embedding
    computing = trained.active - embedding
    frozen = trained.total - trained.learned - (0 if trained.whole else embedding)
    again = FORWARD * (computing - models.head) if checkpointing else 0
    whole = (FORWARD + BACKWARD) * computing - WITHOUT_GRADIENT * frozen
    return whole + again + (4 if checkpointing else 3) * _attention(models, length)


def tuning_ratio(models: Models, length: int, sft: SftTraining) -> float:
    """FLOPs of a token in the tuning of the mixture, divided by those in the tuning of the base.

    Both count forward and backward pass, the attention, and all weights that compute the token,
    with those of the router and its noise. Weights that do not learn have no gradient. Both leave
    out embeddings that are only looked up, the optimiser, and what activation checkpointing
    computes again, which is the same part of both.

    length: of a row.
    sft: the options of the base's tuning.
    """
    of_mixture = training_flops(models, models.trained(MoeSftTraining()), length)
    of_base = training_flops(models, models.trained(sft), length)
    return of_mixture / of_base


def _attention(models: Models, length: int) -> int:
    """FLOPs of a token in one forward pass."""
    return 2 * length * models.base.query_width * len(models.layers)
