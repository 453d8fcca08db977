"""Upcycled models: properties of the mixture, its switches, and how it loads and generates."""

import math
import shlex
import shutil
from functools import partial

import pytest
import torch
from chains import Chain
from interpreter import python
from mixtures import random_mixture, squared_variation, tokens
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.starcoder2.modeling_starcoder2 import Starcoder2MLP

import xft  # noqa: F401
from xft.cli.step import to_flags
from xft.common.errors import UserError
from xft.config.sections import MixtureConfig
from xft.modeling.experts import read_mlp
from xft.modeling.router import NOISE_EPSILON, Router

pytestmark = pytest.mark.numeric


@pytest.mark.ci
def test_transformers_knows_mixtures_whatever_is_imported_first():
    program = "import xft.modeling.configuration, transformers as t; t.AutoConfig.for_model('xft')"
    python("-c", program)


def test_a_mixture_ends_texts_as_its_base_does(tiny_llama, tmp_path):
    """A base without a generation config states EOS in its config.json alone."""
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    (base / "generation_config.json").unlink()
    folders = base, Chain(tmp_path, base=base)["moe"]
    dense, mixture = map(AutoModelForCausalLM.from_pretrained, folders)
    ends = dense.generation_config.eos_token_id
    assert ends is not None and mixture.generation_config.eos_token_id == ends


def test_routing_statistics_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
    settings = MixtureConfig(num_experts=4, num_experts_per_tok=3, router="linear")
    router = Router(settings, hidden_size=5)
    statistics = router.eval().route(probabilities.log()).statistics()
    assert statistics.keys() == {"load", "importance", "entropy"}
    assert statistics["load"].tolist() == [0.5, 0.25, 0.25]
    torch.testing.assert_close(statistics["importance"], torch.tensor([1.1, 0.3, 0.3]) / 1.7)
    entropies = [-sum(p * math.log(p) for p in row) for row in probabilities.tolist()]
    assert statistics["entropy"].item() == pytest.approx(sum(entropies) / 2)
    torch.nn.init.zeros_(router.noise.weight)
    noisy = router.train()(torch.randn(2, 5)).statistics()
    assert noisy["noise_scale"].item() == pytest.approx(math.log(2) + NOISE_EPSILON)
    routing = router.route(torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]))
    routing.noise_scale = torch.tensor(1.0)
    routing.clean_logits = torch.tensor([[2.0, 3.0, 1.0], [3.0, 2.0, 1.0]])
    assert routing.statistics()["noise_changed"].item() == pytest.approx(1 / 4)


SWITCHES = [{"router": "linear"}, {"router_noise": False}, {"normalize_routing": False}]
SWITCHES += [{"shared_expert": False}, {"balance_loss_coef": 0.0}, {"upcycled_layers": [1]}]
SWITCHES += [{"num_experts": count, "num_experts_per_tok": 2} for count in (2, 4)]


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_switch_reaches_the_model_and_trains(tiny_llama, tmp_path, changes):
    """Step 0 holds wherever the weights sum to one."""
    words = shlex.split(to_flags(changes))
    chain = Chain(tmp_path, {"moe": words}, base=tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(chain["moe"])
    for name, value in changes.items():
        assert getattr(model.config, name) == value
    output = model.train()(tokens(), labels=tokens())
    output.loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    balances = sum(balance(routing) for routing in output.routing)
    torch.testing.assert_close(output.aux_loss, model.config.balance_loss_coef * balances)

    dense = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        difference = (model.eval()(tokens()).logits - dense(tokens()).logits).abs().max()
    assert (difference <= 1e-5) == changes.get("normalize_routing", True)


def balance(routing) -> torch.Tensor:
    """CV^2 of importance and load; a single expert has none."""
    pairs = routing.importance, routing.load
    return sum((squared_variation(v) for v in pairs if len(v) > 1), torch.tensor(0.0))


def test_a_layer_that_is_not_upcycled_is_merged_as_it_is(tiny_llama, tmp_path):
    chain = Chain(tmp_path, {"moe": ["--upcycled-layers", "1"]}, base=tiny_llama)
    merged = load_file(chain["dense"] / "model.safetensors")
    for name, tensor in load_file(tiny_llama / "model.safetensors").items():
        if ".layers.1.mlp." in name:
            torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(merged[name], tensor)


class ScaledMlp(LlamaMLP):
    """An MLP with the names of Llama's that computes something else."""

    def forward(self, x):
        return 0.5 * super().forward(x)


def test_an_mlp_of_another_form_is_refused():
    sizes = {"hidden_size": 8, "intermediate_size": 12, "mlp_bias": False}
    config = AutoConfig.for_model("starcoder2", residual_dropout=0.5, **sizes)
    assert read_mlp(LlamaMLP(config)).intermediate_size == 12
    for mlp, message in (
        (ScaledMlp, "ScaledMlp cannot be upcycled: it computes something else"),
        (Starcoder2MLP, r"it computes something else .*dropout"),
        (lambda _: torch.nn.Sequential(torch.nn.Linear(2, 3)), "of class Sequential cannot be"),
    ):
        with pytest.raises(UserError, match=message):
            read_mlp(mlp(config))


def test_generation_with_a_static_cache_is_generation_without():
    model, ids = random_mixture("llama").eval(), tokens()
    options = {"max_new_tokens": 10, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, use_cache=False, **options)
    assert torch.equal(model.generate(ids, cache_implementation="static", **options), expected)


def test_a_device_map_offloads_a_layer_to_a_disk(upcycled, tmp_path):
    kept = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0"]
    device_map = dict.fromkeys(kept, "cpu") | {"model.layers.1": "disk"}
    options = {"device_map": device_map, "offload_folder": tmp_path / "disk"}
    load = partial(AutoModelForCausalLM.from_pretrained, upcycled)
    model, offloaded = load(), load(**options)
    assert all(parameter.is_meta for parameter in offloaded.model.layers[1].parameters())
    with torch.no_grad():
        torch.testing.assert_close(offloaded(tokens()).logits, model(tokens()).logits)
