"""Mixtures for tests, and FFN weights whose experts differ."""

from pathlib import Path

import torch
from chains import Chain
from safetensors.torch import load_file, save_file


def mixture_and_varied_experts(base: Path, root: Path) -> None:
    """Make root/moe, 4 experts of which 3 compute a token, and root/ffn with noise in its experts.

    The manifest of the latter no longer fits.
    """
    file = Chain(root, base=base)["ffn"] / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(file)
    for name in sorted(name for name in tensors if ".experts." in name):
        tensors[name] += 0.1 * torch.randn(tensors[name].shape, generator=generator)
    file.unlink()
    save_file(tensors, file)
