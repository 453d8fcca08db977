"""The memory that a training needs on each GPU, for each launch strategy.

Bytes for each parameter on N processes, with the optimiser's state o (8 for AdamW):

- single, ddp: fp32 weights 4, gradients 4, o. bf16 adds autocast's copies of the weights, 2, kept
  until the backward pass. bf16_pure: weights 2, gradients 2, AdamW 4. ddp adds its buckets, as
  large as the gradients (torch's documentation of `gradient_as_bucket_view`).
- zero2: bf16 weights 2; gradients 2, fp32 master weights 4 and o, each divided by N.
- zero3: all of these divided by N, and two whole layers: the present one and the next.
- fsdp, bf16: fp32 weights 4, gradients 4 and o, divided by N, and two whole layers.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3; torch.optim's documentation on
`foreach`; the optimisers' code. The peak is the largest of three moments: the start of the backward
pass (all activations), its end (all gradients), and the optimiser's step (its temporary tensors).
With low-rank experts only the weights that learn have gradients, master weights and an optimiser.
"""

import math
from dataclasses import dataclass

from xft.checkpoints.dtypes import DTYPE_BYTES
from xft.estimates import activations
from xft.estimates.activations import FP32, Activations, Batch, Numbers
from xft.estimates.parameters import Models
from xft.estimates.tensors import EMBEDDINGS

LAUNCHES = ("single", "ddp", "fsdp", "zero2", "zero3")
SHARDED = ("fsdp", "zero2", "zero3")
BF16 = 2
SCALED_TOGETHER, FEWEST_IN_8_BITS = 256, 4096  # numbers of values, from bitsandbytes
ZERO3_GROUP = 10**9  # parameters that ZeRO-3 updates at a time (its default sub_group_size)


@dataclass(frozen=True)
class Job:
    """How a training runs. accumulation: micro-batches in a step. on_gpu: false for a CPU.

    average: the key that asks for an average of the weights, or None.
    """

    launch: str
    processes: int
    batch: Batch
    accumulation: int
    precision: str
    optim: str
    checkpointing: bool = False
    offload: bool = False
    on_gpu: bool = True
    average: str | None = None

    @property
    def share(self) -> int:
        """The number of processes that share the sharded tensors."""
        return self.processes if self.launch in SHARDED else 1

    @property
    def zero(self) -> bool:
        return self.launch in ("zero2", "zero3")

    @property
    def offloads(self) -> bool:
        """Whether the host's memory holds the optimiser. Only ZeRO does this."""
        return self.offload and self.zero

    @property
    def averages_on_host(self) -> bool:
        """Whether the average of the weights lies in the CPU's memory, and the weights do not."""
        return self.on_gpu and self.average == "average_last"

    @property
    def numbers(self) -> Numbers:
        if self.precision == "fp32":
            return Numbers(FP32, FP32)
        autocast = self.precision == "bf16" and self.launch in ("single", "ddp")
        return Numbers(BF16, FP32 if autocast else BF16)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    mapped: weights that stay in their file, as page cache, and do not count for the peak. layers:
    temporary weights: autocast's copies, or gathered layers. buckets: ddp's. step: temporary
    tensors of the optimiser's step. average: that of the weights, in the main process, unless the
    host holds it. host: the optimiser's state, if it is offloaded.
    """

    weights: int = 0
    mapped: int = 0
    layers: int = 0
    gradients: int = 0
    buckets: int = 0
    master: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    step: int = 0
    average: int = 0
    host: int = 0
    peak: int = 0

    @property
    def state(self) -> int:
        """Weights, gradients, master weights and the optimiser's state."""
        return self.weights + self.gradients + self.master + self.optimizer


def tuning_memory(models: Models, job: Job) -> Memory:
    """The memory of step 2."""
    whole_head = job.launch != "zero3"
    kept = activations.tuning(models, job.batch, job.numbers, whole_head, job.on_gpu)
    state = _state(models, job)
    step = _step_bytes(models, job)
    return _with_peak(state | {"step": step}, kept, job, _largest(models) * weight_bytes(job))


def mixing_memory(models: Models, job: Job) -> Memory:
    """The memory of step 6: a whole dense model in each process, and gradients of the merged MLPs.

    The experts are read from memory-mapped files, a tensor at a time. So `step` is the merged
    tensor and the products, in fp32. The mixing logits are too small to count.
    """
    numbers = job.numbers
    width = BF16 if job.precision == "bf16_pure" else FP32
    mapped = _mapped(models, job)
    largest = max(
        models.base.size(layer.dense(*t)) for layer in models.upcycled for t in layer.tensors
    )
    copies = BF16 * (models.dense_total - models.base.embedding) if numbers.autocast else 0
    parts = {
        "weights": width * models.dense_total - mapped,
        "mapped": mapped,
        "layers": copies,
        "gradients": width * models.ffn,
        "step": 3 * FP32 * largest,
    }
    kept = activations.mixing(models, job.batch, numbers, job.on_gpu)
    return _with_peak(parts, kept, job, 0)


def _mapped(models: Models, job: Job) -> int:
    """Bytes of frozen weights that a CPU uses directly from the mapped file."""
    if job.on_gpu:
        return 0
    learned = {layer.dense(*tensor) for layer in models.upcycled for tensor in layer.tensors}
    dtype = "BF16" if job.precision == "bf16_pure" else "F32"
    return DTYPE_BYTES[dtype] * sum(
        size
        for name, size in models.base.parameters.items()
        if name not in learned and models.base.dtype(name) == dtype
    )


def _with_peak(parts: dict, kept: Activations, job: Job, largest_gradient: int) -> Memory:
    parts |= {"activations": kept.at_once(job.checkpointing) - kept.logits, "logits": kept.logits}
    kept_always = ("weights", "buckets", "master", "optimizer", "average")
    always = sum(parts.get(name, 0) for name in kept_always)
    gradients, layers = parts["gradients"], parts.get("layers", 0)
    start = layers + parts["activations"] + parts["logits"]
    if job.accumulation > 1:
        start += gradients
    end = gradients + max(kept.layers) + kept.working + largest_gradient
    step = gradients + parts["step"]
    return Memory(**parts, peak=always + max(start, end, step))


def _state(models: Models, job: Job) -> dict[str, int]:
    """Bytes of weights, gradients, master weights and the optimiser's state, by name."""
    learned, share, weight = models.learned_total, job.share, weight_bytes(job)
    total = models.moe_total + models.added_total
    parts = {
        "weights": weight * total // (1 if job.launch == "zero2" else share),
        "layers": _temporary_weights(models, job),
        "gradients": weight * learned // share,
        "buckets": weight * learned if job.launch == "ddp" else 0,
        "master": FP32 * learned // share if job.zero else 0,
        "optimizer": optimizer_bytes(models, job) // share,
        "average": 0 if job.averages_on_host else average_bytes(models, job),
    }
    if job.offloads:
        parts["host"] = parts["master"] + parts["optimizer"]
        parts |= {"master": 0, "optimizer": 0}
    return parts


def weight_bytes(job: Job) -> int:
    """Bytes of one weight, and of its gradient."""
    low = job.precision == "bf16_pure" or (job.precision == "bf16" and job.zero)
    return BF16 if low else FP32


def _temporary_weights(models: Models, job: Job) -> int:
    """Bytes of autocast's copies of the weights, or of the gathered layer and the next one."""
    if job.launch in ("fsdp", "zero3") and job.processes > 1:
        return 2 * _largest_layer(models) * job.numbers.compute
    if not job.numbers.autocast:
        return 0
    if job.checkpointing:
        return BF16 * _largest_layer(models)
    return BF16 * (models.moe_total - models.base.embedding)


def optimizer_bytes(models: Models, job: Job) -> int:
    """Bytes of the whole optimiser's state. With ZeRO, Adafactor cannot factor its flat shards."""
    total = models.learned_total
    if job.optim == "adafactor":
        return FP32 * (total if job.zero else _factored(models))
    if job.optim == "adamw_8bit":
        return sum(_eight_bit_bytes(n, math.prod(shape)) for n, shape in models.learned.items())
    return 2 * total * (FP32 if job.zero else weight_bytes(job))


def average_bytes(models: Models, job: Job) -> int:
    """Bytes of the average of the weights that learn, in fp32. Only the main process has it."""
    return FP32 * models.learned_total if job.average else 0


def _eight_bit_bytes(name: str, size: int) -> int:
    """Bytes of a tensor's two moments in bitsandbytes: 1 for a value, and a scale for 256 values.

    The moments of embeddings and small tensors stay in fp32.
    """
    if size < FEWEST_IN_8_BITS or name.endswith(EMBEDDINGS):
        return 2 * FP32 * size
    return 2 * (size + FP32 * math.ceil(size / SCALED_TOGETHER))


def _factored(models: Models) -> int:
    """The number of Adafactor's values: rows and columns of a matrix, or values of a vector."""

    def values(shape: tuple[int, ...]) -> int:
        if len(shape) < 2:
            return math.prod(shape)
        return math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))

    return sum(map(values, models.learned.values()))


def _step_bytes(models: Models, job: Job) -> int:
    """Bytes of the temporary tensors in the optimiser's step.

    Adafactor, one tensor at a time in fp32: the update and its negative or its square; in bf16_pure
    also gradient and weight. AdamW: on a GPU the denominators of all parameters at once, on a CPU
    two tensors of one parameter. ZeRO: the fp32 gradients of the parameters that it updates at a
    time.
    """
    largest, weight = _largest(models), weight_bytes(job)
    if job.zero:
        shard = models.learned_total // job.share
        return FP32 * (min(shard, ZERO3_GROUP) if job.launch == "zero3" else shard)
    if job.optim == "adafactor":
        return largest * FP32 * (4 if weight == BF16 else 2)
    if job.optim == "adamw_torch":
        return weight * models.learned_total // job.share if job.on_gpu else 2 * weight * largest
    return 0


def _largest(models: Models) -> int:
    """The number of parameters of the largest tensor that learns."""
    return max(map(math.prod, models.learned.values()))


def _largest_layer(models: Models) -> int:
    """The number of parameters of the largest decoder layer."""
    sizes: dict[str, int] = {}
    for name, size in models.mixture.parameters.items():
        if ".layers." in name:
            index = name.partition(".layers.")[2].partition(".")[0]
            sizes[index] = sizes.get(index, 0) + size
    return max(sizes.values())
