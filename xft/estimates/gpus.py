"""Speed and memory of processors: GPUs by their data sheets, CPUs by a measurement."""

from dataclasses import dataclass

GIB = 2**30
# The share of the memory that the allocator can use. The rest is lost in pieces that are too small.
USABLE = 0.95
# CUDA's context, cuBLAS's workspaces and kernels; with several GPUs also NCCL's and the buckets'
# buffers. Assumed, not measured.
RUNTIME, RUNTIME_OF_SEVERAL = GIB, 2 * GIB
# A process on a CPU: imports (390 MiB with Python 3.11, 520 with 3.13), the losses of malloc, the
# tokenizer, oneDNN's kernels.
RUNTIME_ON_CPU = 576 * 2**20
# Bytes a second from the host's pageable memory to a GPU, over PCIe 4. Assumed.
HOST_BANDWIDTH = 10e9
# The time in which transformers starts the kernels of a decoder layer of any size. Assumed.
LAYER_SECONDS = 1e-3


@dataclass(frozen=True)
class Gpu:
    """A processor.

    memory: in GiB. bf16, fp32: dense FLOPs a second, without sparsity and TF32. bandwidth: of its
    memory, bytes a second. layer_seconds: the least time of a decoder layer.
    """

    memory: float
    bf16: float
    fp32: float
    bandwidth: float
    layer_seconds: float = LAYER_SECONDS

    def flops(self, precision: str) -> float:
        return self.fp32 if precision == "fp32" else self.bf16

    def room(self, processes: int) -> float:
        """Bytes of its memory that a training can use."""
        runtime = RUNTIME if processes == 1 else RUNTIME_OF_SEVERAL
        return USABLE * self.memory * GIB - runtime


GPUS = {
    "v100-16": Gpu(16, 125e12, 15.7e12, 900e9),  # the figure for fp16: it has no bf16
    "v100-32": Gpu(32, 125e12, 15.7e12, 900e9),
    "l4": Gpu(22.5, 121e12, 30.3e12, 300e9),
    "a10": Gpu(22.5, 125e12, 31.2e12, 600e9),
    "rtx4090": Gpu(24, 165e12, 82.6e12, 1008e9),
    "l40s": Gpu(45, 362e12, 91.6e12, 864e9),
    "a100-40": Gpu(39.6, 312e12, 19.5e12, 1555e9),
    "a100-80": Gpu(79.3, 312e12, 19.5e12, 2039e9),
    "h100": Gpu(79.6, 989e12, 67e12, 3350e9),
    "h200": Gpu(140.4, 989e12, 67e12, 4800e9),
    "b200": Gpu(178.4, 2250e12, 75e12, 8000e9),
}


def cpu(flops: float) -> Gpu:
    """A CPU with this speed in FLOPs a second. Its memory is unknown, and set to 0."""
    return Gpu(memory=0, bf16=flops, fp32=flops, bandwidth=HOST_BANDWIDTH, layer_seconds=0)
