"""Mixtures for tests, and FFN weights whose experts differ."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from workflow_scripts import ffn, moe


def mixture_and_varied_experts(base: Path, root: Path) -> None:
    """Make root/moe, 4 experts of which 3 compute a token, and root/ffn with noise in its experts.

    The manifest of the latter no longer fits.
    """
    sizes = ["--num-experts", "4", "--num-experts-per-tok", "3"]
    moe.main(["--base", str(base), "--out", str(root / "moe"), *sizes])
    ffn.main(["--moe", str(root / "moe"), "--out", str(root / "ffn")])
    file = root / "ffn" / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(file)
    for name in sorted(name for name in tensors if ".experts." in name):
        tensors[name] += 0.1 * torch.randn(tensors[name].shape, generator=generator)
    file.unlink()
    save_file(tensors, file)
