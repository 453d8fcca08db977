"""Speed and memory of processors. GPUs have the figures of their data sheets."""

import os
from dataclasses import dataclass, replace

from xft.common.gpus import find_gpu

GIB = 2**30
DEFAULT_UTILISATION = 0.3
# Bytes a second from the host's memory to its CPU, and to a GPU over PCIe 4. Assumed.
HOST_BANDWIDTH = 10e9


@dataclass(frozen=True)
class Processor:
    """bf16, fp32: FLOPs a second, dense, without sparsity and TF32; 0 if they are unknown.
    bandwidth: of its memory, bytes a second. memory: in GiB; None if it is unknown. layer_seconds:
    the least time of a decoder layer, in which transformers starts its kernels; assumed. A CPU has
    none.
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
    "a10": Processor(125e12, 31.2e12, 600e9, 22.5, 1e-3),
    "rtx4090": Processor(165e12, 82.6e12, 1008e9, 24.0, 1e-3),
    "l40s": Processor(362e12, 91.6e12, 864e9, 45.0, 1e-3),
    "a100-40gb": Processor(312e12, 19.5e12, 1555e9, 39.4, 1e-3),
    "a100": Processor(312e12, 19.5e12, 2039e9, 79.3, 1e-3),
    "h100": Processor(989e12, 67e12, 3350e9, 79.6, 1e-3),
    "h200": Processor(989e12, 67e12, 4800e9, 140.4, 1e-3),
}
GPUS |= {f"{name}-80gb": GPUS[name] for name in ("a100", "h100")}
CPU = Processor(0, 0, memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB)


def this_gpu() -> tuple[str, Processor] | None:
    """The GPU of this machine by its key in GPUS, or else by its own name; None without one."""
    memory, name = find_gpu() or (None, "")
    words = name.lower().replace("rtx ", "rtx").replace("-", " ").split()
    name = next((word for word in words if word in GPUS), name)
    return memory and (name, replace(GPUS.get(name, GPUS["a10"].reached(0)), memory=memory))
