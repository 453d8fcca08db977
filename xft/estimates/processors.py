"""Speed and memory of processors. GPUs have the figures of their data sheets."""

from dataclasses import dataclass, replace

GIB = 2**30
DEFAULT_UTILISATION = 0.3
# Bytes a second from the host's memory to its CPU, and to a GPU over PCIe 4. Assumed.
HOST_BANDWIDTH = 10e9


@dataclass(frozen=True)
class Processor:
    """bf16, fp32: FLOPs a second, dense, without sparsity and TF32. bandwidth: of its memory, bytes
    a second. memory: in GiB; None if it is unknown. layer_seconds: the least time of a decoder
    layer, in which transformers starts its kernels; assumed.
    """

    bf16: float
    fp32: float
    bandwidth: float = HOST_BANDWIDTH
    memory: float | None = None
    layer_seconds: float = 0

    def flops(self, precision: str) -> float:
        return self.fp32 if precision == "fp32" else self.bf16

    def reached(self, utilisation: float) -> "Processor":
        """The same with the share of its FLOPs that a training reaches."""
        return replace(self, bf16=self.bf16 * utilisation, fp32=self.fp32 * utilisation)


GPUS = {
    "a100": Processor(312e12, 19.5e12, 2039e9, 79.3, 1e-3),
    "h100": Processor(989e12, 67e12, 3350e9, 79.6, 1e-3),
    "h200": Processor(989e12, 67e12, 4800e9, 140.4, 1e-3),
}
CPU = Processor(0, 0)  # of unknown speed
