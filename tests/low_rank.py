"""Mixtures with low-rank experts for tests, as a tuning would leave them, and their equation."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from chains import Chain
from safetensors.torch import load_file, save_file

RANK, ALPHA, EXPERTS = 4, 12.0, 4
FLAGS = ["--experts", "lora", "--rank", RANK, "--lora-alpha", ALPHA]
SIZES_OF_MIXTURE = ["--num-experts", EXPERTS, "--num-experts-per-tok", 3]
SINGLE = "model.safetensors"


def tuned(upcycled: Path, folder: Path, same: bool = False) -> Path:
    """A mixture with random factors and routers, without a manifest. same: with equal experts."""
    tensors = load_file(upcycled / SINGLE)
    for name, tensor in tensors.items():
        if ".lora_" in name or ".router." in name:
            drawn = 0.3 * torch.randn(tensor.shape[same and ".lora_" in name :])
            tensors[name] = drawn.expand(tensor.shape).to(tensor.dtype).contiguous()
    folder.mkdir()
    shutil.copy(upcycled / "config.json", folder)
    save_file(tensors, folder / SINGLE)
    return folder


def chain_of(base: Path, folder: Path, same: bool = False, **options) -> Chain:
    """The artifacts of such a mixture, from its base on."""
    folder.mkdir(exist_ok=True)
    moe = [*SIZES_OF_MIXTURE, *FLAGS]
    upcycled = Chain(folder, {"moe": moe}, base=base)["moe"]
    mixture = tuned(upcycled, folder / "tuned", same)
    return Chain(folder, options, base=base, moe=upcycled, moe_sft=mixture)


@dataclass(frozen=True)
class Factors:
    """The tensors of a mixture with low-rank experts."""

    tensors: dict[str, torch.Tensor]
    scale: float

    @classmethod
    def of(cls, mixture: Path) -> "Factors":
        config = json.loads((mixture / "config.json").read_text())
        return cls(load_file(mixture / SINGLE), config["lora_alpha"] / config["rank"])

    def expert(self, name: str, number: int) -> torch.Tensor:
        """W + s B_i A_i in fp64. name: of a weight of the dense model's MLP."""
        prefix, _, rest = name.partition(".mlp.")
        projection = rest.removesuffix(".weight")
        weight = self.tensors[f"{prefix}.mlp.dense.{rest}"].double()
        a, b = (
            self.tensors[f"{prefix}.mlp.experts.{projection}.lora_{letter}"][number].double()
            for letter in "AB"
        )
        return weight + self.scale * b @ a
