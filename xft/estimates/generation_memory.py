"""The memory of a GPU that an evaluation needs, in closed form.

Besides the weights it has the keys and values of a batch. At the start it computes all prompts of
the batch at once. At the end all solutions have max_new_tokens. No pass keeps anything.

While a layer computes, there are the embeddings, the residual stream before and after the
attention, and the input of the attention or of the MLP. The attention has queries, keys and values,
both as the rotary embedding gives them, and keys and values repeated for all heads. An MLP has its
inner values, a mixture those of each routed expert that computes a token, with its input. The last
token of each prompt has logits.

The keys and values of each layer take memory that its larger tensors leave. What remains of it is
in pieces: by torch's allocator, at most a quarter of what keys and values take, and in a mixture as
much as one of the routed experts' inner values.
"""

from xft.checkpoints.model_files import DTYPE_BYTES
from xft.config.sections import EvaluationConfig
from xft.estimates.jobs import FP32, PROMPT_TOKENS, generation_bytes
from xft.estimates.memory_and_disk import RUNTIME
from xft.estimates.model_sizes import Models

CACHE_PIECES = 0.25  # of the keys and values of the prompts
LOGITS = 4  # in fp32, of each row: as computed, as restricted, and what these are made with


def generation_memory(models: Models, is_mixture: bool, options: EvaluationConfig) -> int:
    """Bytes at most on a GPU, with the libraries.

    options: the config's section `evaluation`. Each prompt has PROMPT_TOKENS.
    """
    table = models.mixture if is_mixture else models.base
    width = FP32 if options.precision == "fp32" else DTYPE_BYTES[table.dtype(table.names[0])]
    weights = generation_bytes(table, options.precision, on_gpu=True)
    prompts = options.batch_size * PROMPT_TOKENS
    solutions = options.batch_size * options.max_new_tokens
    kept = 2 * len(models.layers) * models.base.key_width * width
    at_start = prompts * _layer_values(models, is_mixture) * width
    at_end = solutions * kept
    pieces = round(CACHE_PIECES * prompts * kept)
    logits = LOGITS * FP32 * options.batch_size * models.base.config["vocab_size"]
    return weights + prompts * kept + max(at_start + pieces, at_end) + logits + RUNTIME


def _layer_values(models: Models, is_mixture: bool) -> int:
    """Values of a token while a layer computes it."""
    queries, keys = models.base.query_width, models.base.key_width
    return 4 * models.base.config["hidden_size"] + max(
        5 * queries + 3 * keys, _mlp_values(models, is_mixture)
    )


def _mlp_values(models: Models, is_mixture: bool) -> int:
    """Values of a token in an MLP. Those of routed experts have gate and up in one tensor, which is
    there until the end.
    """
    hidden, intermediate = (
        models.base.config[f"{name}_size"] for name in ("hidden", "intermediate")
    )
    inner = (3 if models.layers[0].form.gated else 2) * intermediate
    if not is_mixture:
        return inner
    if models.is_low_rank:  # sums over the experts in fp32, what one adds to them, and pieces
        factors = len(models.layers[0].form.projections) * models.moe.num_experts * models.moe.rank
        return inner + 7 * intermediate + factors
    routed = models.moe.num_experts_per_tok - models.moe.shared_expert
    return routed * (hidden + inner + 2 * intermediate)
