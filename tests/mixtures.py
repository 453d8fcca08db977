"""Mixtures for tests."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from backbones import small_config
from chains import Chain
from transformers import AutoModelForCausalLM, AutoTokenizer

from workflow_scripts import moe
from xft.artifacts.artifact import create_artifact
from xft.cli.step import to_flags
from xft.common.user_code import UserCode
from xft.config.sections import MixtureConfig
from xft.conversions import coefficients
from xft.modeling.configuration import XftConfig
from xft.modeling.mixing import Mixing, MixingLogits

LAMBDA = 0.6
EXAMPLES = Path(__file__).parents[1] / "examples"


def init_example(name: str, **arguments) -> str:
    """A value of moe.init: a function of examples/inits."""
    return str(UserCode(EXAMPLES / "inits" / f"{name}.py", name, arguments))


def merge_example(name: str, **arguments) -> str:
    """A value of merge.method: a function of examples/merges."""
    return str(UserCode(EXAMPLES / "merges" / f"{name}.py", name, arguments))


def tokens(batch=2, length=24, vocabulary=97) -> torch.Tensor:
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


def squared_variation(values: torch.Tensor) -> torch.Tensor:
    """CV^2, what the balance loss is of."""
    mean = values.sum() / len(values)
    return ((values - mean) ** 2).sum() / (len(values) - 1) / mean**2


def varied_mixture(base: Path, root: Path) -> None:
    """Make root/moe_sft, a mixture of 4 experts that differ by noise. It has no manifest."""
    model = AutoModelForCausalLM.from_pretrained(Chain(root / "alike", base=base)["moe"])
    generator = torch.Generator().manual_seed(1)
    for block in model.moe_blocks:
        for weight in (block.experts.gate_up_proj, block.experts.down_proj):
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(root / "moe_sft")
    AutoTokenizer.from_pretrained(base).save_pretrained(root / "moe_sft")


def random_mixture(backbone: str, moe: Mapping = {}, **settings):
    """An upcycled model whose weights are all random.

    moe: settings of the mixture. settings: of its base's config.
    """
    torch.manual_seed(0)
    base = small_config(backbone, **settings).to_dict()
    plain = {"num_experts": 4, "num_experts_per_tok": 3, "router_noise": False}
    config = {"model_type": "xft", "base_config": base}
    config = XftConfig.from_dict(config | MixtureConfig(**plain | moe).model_dump())
    model = AutoModelForCausalLM.from_config(config)
    for block in model.moe_blocks:
        torch.nn.init.normal_(block.router.input.weight)
    return model


def mixing_of(chain: Chain, **options) -> Mixing:
    """The mixing model of a chain's mixture and coefficients."""
    sources = coefficients.open_sources(chain[chain.mixture], chain["ffn"])
    start = coefficients.open_coefficients(chain[chain.weighted], sources)
    logits = MixingLogits(start.alpha, start.lam)
    return Mixing(sources["moe"].checkpoint, sources["ffn"].checkpoint, logits, **options)


def plain_gradients(dense, state: dict, alpha, batches: list[dict]) -> tuple:
    """Loss and gradients of the logits in fp64, by autograd through a merge in each forward.

    dense: a model of the merged one's class, which changes. state: the experts' tensors, by name.
    """
    dense.requires_grad_(False).double()
    state = {name: tensor.double() for name, tensor in state.items()}
    alpha = alpha.double().requires_grad_()
    total = 0
    for batch in batches:
        weights = {}
        for layer in range(2):
            prefix = f"model.layers.{layer}.mlp"
            gate, up = state[f"{prefix}.experts.gate_up_proj"].chunk(2, dim=1)
            experts = {"gate_proj": gate, "up_proj": up}
            experts["down_proj"] = state[f"{prefix}.experts.down_proj"]
            for number, (name, routed) in enumerate(experts.items()):
                row = layer if alpha.shape[0] > 1 else 0
                column = number if alpha.shape[1] > 1 else 0
                shared = state[f"{prefix}.shared_expert.{name}.weight"]
                mixed = torch.einsum("i,ioh->oh", alpha[row, column].softmax(0), routed)
                weights[f"{prefix}.{name}.weight"] = LAMBDA * shared + (1 - LAMBDA) * mixed
        loss = torch.func.functional_call(dense, weights, (), batch).loss
        (loss / len(batches)).backward()
        total += loss.item() / len(batches)
    return total, alpha.grad


def learned(chain: Chain, out: Path, alpha_of: Callable[[object], object], *flags: object) -> Chain:
    """The artifacts from a training on that left `alpha_of(start)`. flags: of weighted_init."""
    given = {name: chain[name] for name in (chain.mixture, "ffn")}
    start = Chain(out, {"weighted_init": ["--lam", LAMBDA, *flags]}, **given)["weighted_init"]
    sources = coefficients.open_sources(*given.values())
    start = coefficients.open_coefficients(start, sources)
    inputs = start.artifact.manifest.inputs
    made = create_artifact(out / "learned", "weighted_trained", start.config, inputs)
    with made as draft:
        coefficients.write_coefficients(draft, alpha_of(start), start.config)
    return Chain(out, weighted_trained=out / "learned", **given)


def low_rank_mixture(base: Path, out: Path, **settings) -> Path:
    """Make `out`, a mixture of 4 LoRA experts; 3 of them compute a token.

    A is random, B is zero. settings: other keys of the section moe.
    """
    keys = {"num_experts": 4, "num_experts_per_tok": 3, "experts": "lora", "rank": 4}
    words = shlex.split(to_flags(keys | settings))
    moe.main(["--base", str(base), *words, "--out", str(out)])
    return out
