"""The memory that a training needs on each processor, and disk space, in closed form.

Bytes for each parameter that learns, on N processes, with the optimiser's state o (8 for AdamW):

- single, ddp: fp32 weights 4, gradients 4, o. bf16 adds autocast's copies of the weights, 2, up to
  the backward pass. bf16_pure: weights 2, gradients 2, AdamW 4. ddp adds its buckets, as large as
  the gradients.
- zero2: bf16 weights 2; gradients 2, fp32 master weights 4 and o, each divided by N.
- zero3: all of these divided by N, and two whole layers: the present one and the next.
- fsdp: fp32 weights 4, gradients 4 and o, divided by N, and two whole layers.

Frozen weights have no gradients and no optimiser. The sources are Rajbhandari et al. 2020 (ZeRO,
arXiv 1910.02054), section 3, and the optimisers' code.

Autograd keeps in each layer, for each token: the norms with their inputs, inputs and outputs of
the attention, and for each expert that computes the token its input, output and inner values. The
parts that no model's size changes much (rotary embedding, indices) are left out. Autocast copies
its inputs once for each product, and keeps these copies.

The disk space is without tokenizers, configs and metrics (a few megabytes).
"""

from dataclasses import dataclass

from xft.config.sections import MIXTURES, MODEL_KINDS
from xft.config.training import BLOCK_LOGITS, CHUNK_TOKENS, KEPT, SHARDED
from xft.estimates.jobs import BF16, FP32, TrainingJob
from xft.estimates.model_sizes import Models

# CUDA's context and kernels. Assumed, not measured.
CUDA = 960 * 2**20
# torch's workspaces for cuBLAS: 32 MiB for each of two threads, on GPUs of compute capability 9.
WORKSPACES = 64 * 2**20
# With several GPUs as much again, for the buffers of NCCL and of the buckets.
RUNTIME = CUDA + WORKSPACES
# A process on a CPU: imports (390 MiB with Python 3.11, 520 with 3.13), the losses of malloc,
# oneDNN's kernels.
RUNTIME_ON_CPU = 576 * 2**20
TOKEN_BYTES = 1_300  # of a tokenizer, for each token; measured with 262,144 tokens
LAST_STATES = 4  # input, inner value and output of the last norm, and the states of labelled tokens
# The share of the activations' memory that is in pieces during an update. With it, trainings with
# Adafactor ran on the smallest cards that the plan gives them (benchmarks/gpu_memory.py).
PIECES = 0.5
ZERO3_GROUP = 10**9  # parameters that ZeRO-3 updates at a time (its default sub_group_size)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    optimizer: with master weights.
    extra: autocast's copies, gathered layers, ddp's buckets and an average of the weights.
    host: the optimiser's state, if the CPU's memory holds it.
    peak: at most at one moment, with libraries.
    """

    weights: int
    gradients: int
    optimizer: int
    extra: int
    activations: int
    host: int
    peak: int


def training_memory(models: Models, job: TrainingJob) -> Memory:
    """The memory of a training.

    The peak is at the start of the backward pass, in its last layer, at its end, where the two
    gradients of a tied head are added, or in the update. On a GPU some memory of the activations is
    then in pieces between the gradients, too small for the update's temporary tensors.
    """
    trained = models.trained(job.options)
    weight = job.weight_bytes
    processes_per_copy = 1 if job.launch == "zero2" else job.share
    weights = weight * trained.total // processes_per_copy
    gradients = weight * trained.learned // job.share
    state = optimizer_bytes(models, job) // job.share
    host = state if job.options.offload_optimizer and job.launch in SHARDED else 0
    optimizer = state - host
    buckets = gradients if job.launch == "ddp" and not job.is_mixing else 0
    always = buckets + average_bytes(models, job)
    copies = _copied_weights(models, job)
    activations, layer = activation_bytes(models, job)

    backward_begins = copies + activations + _accumulated_bytes(job, gradients)
    last_layer = gradients + layer + weight * _largest(models, job, trained.learned)
    tied_head = 2 * weight * _learned_head(models, job) if models.base.is_tied else 0
    backward_ends = gradients + tied_head
    update = _update_bytes(models, job, trained.learned)
    if update and job.on_gpu and not (job.is_mixing or job.zero):
        update += round(PIECES * activations)
    most = max(backward_begins, last_layer, backward_ends, gradients + update)
    peak = weights + optimizer + always + most + library_bytes(models, job)
    return Memory(weights, gradients, optimizer, always + copies, activations, host, peak)


def _accumulated_bytes(job: TrainingJob, gradients: int) -> int:
    """Bytes of gradients at the start of a backward pass, from earlier micro-batches.

    zero2 has the sum, and as much for the gradients of the present micro-batch.
    """
    if job.options.gradient_accumulation_steps == 1:
        return 0
    return 2 * gradients if job.launch == "zero2" else gradients


def bytes_beside_torch(job: TrainingJob) -> int:
    """Bytes of a GPU that a process takes besides those that torch counts as its own. Assumed."""
    return RUNTIME * min(job.processes, 2) - WORKSPACES


def library_bytes(models: Models, job: TrainingJob) -> int:
    """Bytes that the libraries of a process take."""
    if job.on_gpu:
        return bytes_beside_torch(job) + WORKSPACES
    return RUNTIME_ON_CPU + TOKEN_BYTES * models.base.config["vocab_size"]


def optimizer_bytes(models: Models, job: TrainingJob) -> int:
    """Bytes of the whole optimiser's state, with ZeRO's master weights. Step 6 has next to none.

    adamw_8bit: two moments of a byte, but of the embeddings in fp32. adafactor: rows and columns of
    each matrix, which are not counted.
    """
    if job.is_mixing or job.options.optim == "adafactor":
        return 0
    learned = models.trained(job.options).learned
    if job.options.optim == "adamw_8bit":
        return 2 * learned + (2 * FP32 - 2) * _learned_head(models, job)
    return learned * (3 * FP32 if job.zero else 2 * job.weight_bytes)


def average_bytes(models: Models, job: TrainingJob) -> int:
    """Bytes of the average of the weights that learn, in fp32."""
    learned = models.trained(job.options).learned
    return 0 if job.options.ema_decay is None else FP32 * learned


def activation_bytes(models: Models, job: TrainingJob) -> tuple[int, int]:
    """Bytes at most of what autograd keeps at one moment, and of one layer in its backward pass.

    There is padding, unless rows are packed. Below the first layer in which something learns,
    nothing is kept. With checkpointing autograd keeps the inputs of all layers, and the activations
    of one. The backward pass of a layer needs gradients of its inner values.
    """
    hidden = models.base.config["hidden_size"]
    product = job.product_bytes
    residual = FP32 if job.autocast else product
    learns = _learned_rest(models, job)
    around = 2 * hidden * FP32 + _attention_values(models, job, learns) * product
    around += models.further_norms * FP32 * (2 if learns else 1)
    if learns:
        around += 2 * hidden * residual + (3 if job.autocast else 1) * hidden * product
    if _has_padding(job):
        around += job.batches.longest * product  # a mask for each layer
    kept, gradients = _mlp_values(models, job)
    upcycled = len(models.upcycled)
    layers = len(models.layers) - (0 if learns else models.upcycled[0].index)
    logits = _logit_bytes(models, job) + LAST_STATES * job.tokens * hidden * FP32
    backward = job.tokens * gradients * product
    layer = job.tokens * (around + kept * product) + backward
    if job.options.activation_checkpointing:
        inputs = job.tokens * layers * hidden * residual
        return inputs + max(logits, layer), layer
    of_dense_layer, _ = _plain_values(models, 1)
    values = upcycled * kept + (layers - upcycled) * of_dense_layer
    all_layers = job.tokens * (layers * around + values * product)
    return all_layers + max(logits, backward), layer


def _has_padding(job: TrainingJob) -> bool:
    return job.options.per_device_train_batch_size > 1 and job.options.batching != "packed"


def _attention_values(models: Models, job: TrainingJob, learns: bool) -> int:
    """Values of a token that the attention keeps: queries, keys, values and outputs.

    With a mask for padding, keys and values are repeated for all heads of the queries. Packed rows
    have outputs of their own, and the output projection keeps all of them, if it learns.
    """
    queries = models.base.query_width
    keys = models.base.key_width
    if _has_padding(job):
        return 4 * queries
    joined = queries if learns and job.options.batching == "packed" else 0
    return 2 * queries + 2 * keys + joined


def _learned_rest(models: Models, job: TrainingJob) -> bool:
    """Whether anything outside the MLPs learns, for which norms and projections keep inputs."""
    is_frozen = models.is_low_rank and models.moe.train_rest == "frozen"
    return not (job.is_mixing or (job.is_of_mixture and is_frozen))


def _mlp_values(models: Models, job: TrainingJob) -> tuple[int, int]:
    """Values of a token in the MLP of a layer: those that autograd keeps, and gradients of them.

    A router and its noise each have a copy of the input under autocast. The shared expert's output
    is kept, as it is weighted. LoRA experts keep their inputs and the router's, the base's inner
    values, and A x of every expert. The backward pass of one, which may compute all tokens,
    computes its inner values again.
    """
    if not job.is_of_mixture:
        return _plain_values(models, 1)
    hidden, intermediate, inner = _widths(models)
    if not models.is_low_rank:
        kept, gradients = _plain_values(models, models.moe.num_experts_per_tok)
        routers = 2 if models.moe.router_noise else 1
        routed = routers * hidden if job.autocast else 0
        shared = hidden if models.moe.shared_expert else 0
        return kept + routed + shared, gradients
    factors = len(models.layers[0].form.projections) * models.moe.num_experts * models.moe.rank
    kept = 4 * hidden + inner // 2 * intermediate + factors
    return kept, kept + (2 * inner + 2) * intermediate


def _plain_values(models: Models, experts: int) -> tuple[int, int]:
    """Values of a token in whole MLPs: inputs, outputs and inner values, and gradients of them."""
    hidden, intermediate, inner = _widths(models)
    kept = experts * (2 * hidden + inner * intermediate)
    gradients = 2 * experts * (hidden + intermediate)
    return kept, gradients


def _widths(models: Models) -> tuple[int, int, int]:
    """Hidden size, intermediate size, and the number of inner values of the latter size."""
    config = models.base.config
    inner = 4 if models.layers[0].form.gated else 2
    return config["hidden_size"], config["intermediate_size"], inner


def _logit_bytes(models: Models, job: TrainingJob) -> int:
    """Bytes at most in the loss. See `training/losses.py`.

    A chunk has logits and their gradient. A block of them has in fp32 the logits, their softmax and
    its gradient, which is then rounded. The head's gradient of a chunk is added to the sum, in
    fp32. Autocast computes it in bf16 first, and has a copy of a frozen head for each product.
    Where the weights are in bf16, the first chunk's gradient is there beside the sum, too. The
    chunk's logits are free by then, but in pieces that are too small for the sum. zero3 computes
    the logits of all tokens at once.
    """
    vocabulary = models.base.config["vocab_size"]
    product = job.product_bytes
    chunk = min(job.tokens, CHUNK_TOKENS) * vocabulary
    block = (3 * FP32 + product) * min(chunk, BLOCK_LOGITS[job.on_gpu])
    logits = 2 * chunk * product
    if job.launch == "zero3":
        return logits + block + 4 * job.tokens * vocabulary * product
    head = _learned_head(models, job)
    if not head:
        copy = BF16 * models.head if job.autocast else 0
        return logits + block + copy
    term = FP32 * head  # as much as two in bf16
    if job.autocast:
        term += BF16 * head
    return logits + FP32 * head + max(block, term)


def _learned_head(models: Models, job: TrainingJob) -> int:
    """The number of the head's weights that learn."""
    return models.head if models.trained(job.options).whole else 0


def _copied_weights(models: Models, job: TrainingJob) -> int:
    """Bytes of the gathered layer and the next one, or of autocast's copies of the weights."""
    total = models.trained(job.options).total
    layer = total // len(models.layers)
    if job.launch in ("fsdp", "zero3") and job.processes > 1:
        return 2 * layer * job.product_bytes
    if not job.autocast:
        return 0
    if not job.options.activation_checkpointing:
        return BF16 * total
    return BF16 * max(_cached_weights(models, job), layer)


def _cached_weights(models: Models, job: TrainingJob) -> int:
    """The number of weights whose copies autocast keeps until the end of the forward pass.

    These learn, and are parameters whole: not experts, which are slices of one, or low-rank.
    """
    learned = models.trained(job.options).learned
    if not job.is_of_mixture:
        return learned
    slices = models.moe.num_experts
    if models.moe.shared_expert and not models.is_low_rank:
        slices -= 1
    return learned - slices * models.expert


def _update_bytes(models: Models, job: TrainingJob, learned: int) -> int:
    """Bytes of temporary tensors in the optimiser's update.

    adafactor: some of the largest tensor in fp32. adamw_torch on a GPU: the denominators of all
    parameters. Step 6: a merged matrix in fp32, with products.
    """
    shard = learned // job.share
    if job.is_mixing:
        return FP32 * learned // len(models.upcycled)
    if job.zero:
        return _zero_update_bytes(job, shard)
    if job.options.optim == "adafactor":
        tensors = 4 if job.weight_bytes == BF16 else 2
        return tensors * FP32 * _largest(models, job, learned)
    if job.options.optim == "adamw_torch" and job.on_gpu:
        return job.weight_bytes * shard
    return 0


def _zero_update_bytes(job: TrainingJob, shard: int) -> int:
    """Bytes of temporary tensors in an update of ZeRO, which converts the gradients to fp32.

    Gradients in bf16 are first copied into a flat tensor: `step` in
    deepspeed/runtime/zero/stage_1_and_2.py, and `_prepare_fp32_grad_for_sub_group` in stage3.py.
    From the second update on, as much memory as this tensor takes is free in pieces that are too
    small for it. A GPU has no such copies if the CPU's memory holds the optimiser's state.

    shard: the number of parameters that the process updates.
    """
    has_copies = job.weight_bytes == BF16 and not job.options.offload_optimizer
    copy_and_pieces = 2 * BF16 if has_copies else 0
    updated = min(shard, ZERO3_GROUP) if job.launch == "zero3" else shard
    return (FP32 + copy_and_pieces) * updated


def _largest(models: Models, job: TrainingJob, learned: int) -> int:
    """The number of parameters of the largest tensor that learns, at most."""
    if models.is_low_rank and job.is_of_mixture and models.moe.train_rest != "full":
        return learned // len(models.upcycled)
    table = models.mixture if job.is_of_mixture else models.base
    return min(learned, max(map(table.size, table.names)))


def artifact_bytes(models: Models, step: str) -> int:
    """Bytes of an artifact by its step or model. Links, as of base and ffn, count as 0.

    So do weighted_init and weighted_trained, which are small.
    """
    if step in MIXTURES:
        return models.mixture.nbytes
    return models.base.nbytes if step in MODEL_KINDS[1:] else 0


def checkpoint_bytes(models: Models, job: TrainingJob) -> int:
    """Bytes of all checkpoints at most: those that are kept, and the one being written.

    Each holds the weights that learn, the optimiser's state with ZeRO's master weights, and an
    average of the weights. Engines that shard weights write frozen ones too; DeepSpeed writes them
    twice if they are whole, as with zero2.
    """
    trained = models.trained(job.options)
    frozen = trained.total - trained.learned
    weights = trained.learned
    if job.launch == "zero2":
        weights += 2 * frozen
    elif job.launch in SHARDED:
        weights += frozen
    state = optimizer_bytes(models, job) + average_bytes(models, job)
    return (KEPT + 1) * (job.weight_bytes * weights + state)
