"""The functions of examples/inits: which values change, how they are distributed, and when."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from backbones import save_base
from chains import Chain
from mixtures import init_example as example
from safetensors.torch import load_file, save_file
from scipy.stats import kstest, norm

from xft.common.errors import UserError
from xft.conversions.upcycle import seeded_generator

pytestmark = pytest.mark.numeric

NOISE, DROP = ["--init", example("noise", share=0.1)], ["--init", example("drop", share=0.4)]
SIZE, HIDDEN, DROPPED = 48, 32, 19  # floor(0.4 x 48)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Callable (type): a random base of this type. Biases are not zero. See `make_unequal`."""
    root = tmp_path_factory.mktemp("bases")

    @cache
    def make(name: str) -> Path:
        dtype = torch.bfloat16 if name == "qwen2" else torch.float32
        folder = save_base(name, root / name, dtype)
        make_unequal(folder)
        return folder

    return make


def make_unequal(folder: Path) -> None:
    """Give each matrix of an MLP a deviation and a mean of its own, and each neuron too.

    So what is drawn by those of another matrix, or by those of other neurons, is told.
    """
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for layer in range(2):
        for number, weight in enumerate(dense(tensors, layer).values()):
            axis = 0 if weight.shape == (SIZE, HIDDEN) else 1
            of_neurons = torch.logspace(-1, 1, SIZE).unsqueeze(1 - axis)
            weight.add_(0.2).mul_(of_neurons.to(weight.dtype)).mul_(2.0 ** (3 * layer + number))
    save_file(tensors, file, {"format": "pt"})


@pytest.fixture
def upcycled(bases, tmp_path):
    """Callable (type, flags): the tensors of the mixture and those of its base."""

    def make(name: str, *flags: str) -> tuple[dict, dict]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        chain = Chain(folder, {"moe": ["--num-experts-per-tok", "2", *flags]}, base=bases(name))
        return tuple(load_file(chain[part] / "model.safetensors") for part in ("moe", "base"))

    return make


def experts(tensors: dict, layer: int) -> list[dict]:
    """gate (if there is one), up and down [I, H], [I, H], [H, I] of each routed expert."""
    place = f"model.layers.{layer}.mlp.experts"
    down = tensors[f"{place}.down_proj"]
    if f"{place}.up_proj" in tensors:
        pairs = zip(tensors[f"{place}.up_proj"], down, strict=True)
        return [{"up": u, "down": d} for u, d in pairs]
    pairs = zip(tensors[f"{place}.gate_up_proj"], down, strict=True)
    return [{"gate": w[:SIZE], "up": w[SIZE:], "down": d} for w, d in pairs]


def dense(tensors: dict, layer: int) -> dict:
    """The same of the base's MLP."""
    place = f"model.layers.{layer}.mlp"
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    if f"{place}.gate_up_proj.weight" in tensors:
        gate_up = tensors[f"{place}.gate_up_proj.weight"]
        found = {"gate": gate_up[:SIZE], "up": gate_up[SIZE:]}
        return found | {"down": tensors[f"{place}.down_proj.weight"]}
    if f"{place}.c_fc.weight" in tensors:
        names = {"up": "c_fc", "down": "c_proj"}
    return {role: tensors[f"{place}.{name}.weight"] for role, name in names.items()}


def changed_neurons(expert: dict, whole: dict) -> dict:
    """The neurons whose values all differ from those of the base's MLP, of each projection."""
    changed = {role: weight != whole[role] for role, weight in expert.items()}
    return {role: changed[role].all(int(role != "down")).nonzero().flatten() for role in changed}


def is_normal(values: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> bool:
    expected = norm(mean, std).cdf
    return kstest(values.flatten().double().numpy(), expected).pvalue > 1e-6


TYPES = ["llama-biases", "phi3", "starcoder2"]


@pytest.mark.parametrize("name", TYPES)
def test_noise_is_normal_and_relative_to_each_matrix(upcycled, name):
    mixture, base = upcycled(name, "--num-experts", "4", *NOISE)
    drawn = []
    for layer in range(2):
        whole = dense(base, layer)
        for expert in experts(mixture, layer):
            for role, weight in expert.items():
                noise = (weight - whole[role]) / (0.1 * whole[role].std(correction=0))
                assert is_normal(noise)
                drawn.append(noise.flatten())
    assert len(drawn) == 2 * 3 * len(whole)
    others = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert others.abs().max() < 5 / len(drawn[0]) ** 0.5  # no two draws are the same


@pytest.mark.parametrize("name", TYPES)
def test_drop_draws_the_same_neurons_of_all_projections_again(upcycled, name):
    mixture, base = upcycled(name, "--num-experts", "4", *DROP)
    chosen = set()
    for layer in range(2):
        whole = dense(base, layer)
        for expert in experts(mixture, layer):
            changed = changed_neurons(expert, whole)
            neurons = changed["up"]
            assert len(neurons) == DROPPED
            for role, weight in expert.items():
                assert torch.equal(changed[role], neurons)
                axis = 1 if role == "down" else 0
                assert int((weight != whole[role]).sum()) == DROPPED * HIDDEN
                old, new = (w.index_select(axis, neurons) for w in (whole[role], weight))
                assert is_normal(new, old.mean().item(), old.std(correction=0).item())
            chosen.add(tuple(neurons.tolist()))
    assert len(chosen) == 2 * 3


@pytest.mark.parametrize("name", TYPES)
def test_all_else_is_as_with_copies(upcycled, tmp_path, name):
    """The shared expert, biases, router, all that is outside of the MLPs, and the config."""
    copied, _ = upcycled(name, "--num-experts", "3")
    for flags in (NOISE, DROP):
        mixture, _ = upcycled(name, "--num-experts", "3", *flags)
        varied = {key for key in copied if not torch.equal(copied[key], mixture[key])}
        assert mixture.keys() == copied.keys()
        assert varied == {key for key in copied if re.search(r"experts\.\w+_proj$", key)}
    configs = [file.read_text() for file in tmp_path.glob("*/moe/config.json")]
    assert len(configs) == 3 and len({*configs}) == 1


@pytest.mark.parametrize("flags", [NOISE, DROP])
def test_an_expert_depends_on_its_seed_and_place_alone(upcycled, flags):
    """Not on how many experts or layers there are, nor on whether one is shared."""
    few, base = upcycled("llama", "--num-experts", "3", *flags)
    many, _ = upcycled("llama", "--num-experts", "5", *flags)
    vanilla, _ = upcycled("llama", "--num-experts", "3", "--no-shared-expert", *flags)
    one_layer, _ = upcycled("llama", "--num-experts", "3", "--upcycled-layers", "1", *flags)
    other, _ = upcycled("llama", "--num-experts", "3", "--seed", "7", *flags)
    for layer in range(2):
        for same in (experts(many, layer)[:2], experts(vanilla, layer)[1:]):
            for one, two in zip(experts(few, layer), same, strict=True):
                assert all(torch.equal(one[role], two[role]) for role in one)
        first = [experts(mixture, layer)[0] for mixture in (few, other)]
        assert not torch.equal(*(expert["up"] for expert in first))
        if flags == DROP:
            whole = dense(base, layer)
            assert not torch.equal(*(changed_neurons(expert, whole)["up"] for expert in first))
    name = "model.layers.1.mlp.experts.gate_up_proj"
    assert torch.equal(one_layer[name], few[name])


def test_weights_keep_the_bases_dtype(upcycled):
    """What is computed in fp32 is rounded once."""
    mixture, base = upcycled("qwen2", "--num-experts", "3", *NOISE)
    made, whole = experts(mixture, 0)[0], dense(base, 0)
    draws, scale = seeded_generator(42, "model.layers.0.mlp.expert.1"), 0.1
    for role in ("gate", "up", "down"):
        assert made[role].dtype == whole[role].dtype == torch.bfloat16
        normal = torch.randn(whole[role].shape, generator=draws)
        moved = scale * whole[role].double().std(correction=0).item() * normal
        torch.testing.assert_close(made[role], (whole[role].float() + moved).bfloat16())


FUNCTIONS = """
def fewer(weights, generator):
    return {"down": weights["down"]}

def endless(weights, generator):
    return {name: weight / 0 for name, weight in weights.items()}

def fails(weights, generator):
    return 1 / 0
"""


def test_a_function_that_is_wrong_is_told(upcycled, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FUNCTIONS)
    for name, message in (
        ("fewer", "layers.0.mlp.expert.1: it must return tensors as it gets them"),
        ("endless", "expert.1: it returned values that are not finite"),
        ("fails", r"moe.init: model.layers.0.mlp.expert.1: \S*mine.py, line 9: ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=message):
            upcycled("llama", "--init", f"{file}:{name}")
