"""Mixing low-rank experts: the gradients of the logits by autograd in fp64; the merged model."""

import pytest
import torch
from chains import Chain
from low_rank import EXPERTS, Factors, chain_of, save_base
from transformers import AutoModelForCausalLM

from workflow_scripts import dense
from xft.conversions import mixing_artifact
from xft.conversions.merge import ALPHA
from xft.modeling.mixing import Mixing, MixingLogits

LAMBDA = 0.6
SHAPES = {"layer": (2, 1), "projection": (2, 3), "model": (1, 1)}
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Chain:
    folder = tmp_path_factory.mktemp("low_rank")
    return chain_of(save_base("llama", folder / "base"), folder / "chain")


def mixing_model(chain: Chain, alpha, lambda_logit=None, dtype=torch.float32) -> Mixing:
    sources = mixing_artifact.open_sources(chain["moe_sft"], chain["ffn"])
    logits = MixingLogits(alpha, lambda_logit, LAMBDA)
    return Mixing(sources.moe.checkpoint, sources.ffn.checkpoint, logits, dtype=dtype)


def random_alpha(granularity: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*SHAPES[granularity], EXPERTS - 1, generator=generator)


def plain_gradients(chain, alpha, lambda_logit, ids):
    """The gradients by autograd through the experts W + s B A, all in fp64."""
    model = AutoModelForCausalLM.from_pretrained(chain["base"], dtype=torch.float64).train()
    factors = Factors.of(chain["moe_sft"])
    alpha = alpha.double().requires_grad_()
    lambda_logit = None if lambda_logit is None else lambda_logit.double().requires_grad_()
    weights = {}
    for layer in range(2):
        for number, projection in enumerate(PROJECTIONS):
            name = f"model.layers.{layer}.mlp.{projection}.weight"
            place = min(layer, alpha.shape[0] - 1), min(number, alpha.shape[1] - 1)
            lam = LAMBDA if lambda_logit is None else lambda_logit[place].sigmoid()
            shared, *routed = (factors.expert(name, expert) for expert in range(EXPERTS))
            mixed = torch.einsum("i,ioh->oh", alpha[place].softmax(0), torch.stack(routed))
            weights[name] = lam * shared + (1 - lam) * mixed
    batch = {"input_ids": ids, "labels": ids}
    torch.func.functional_call(model, weights, (), batch).loss.backward()
    return alpha.grad, None if lambda_logit is None else lambda_logit.grad


@pytest.mark.parametrize("granularity", SHAPES)
@pytest.mark.parametrize("learn_lambda", [False, True])
def test_gradients_are_those_of_autograd_in_fp64(chain, granularity, learn_lambda):
    alpha = random_alpha(granularity)
    lambda_logit = torch.full(alpha.shape[:2], LAMBDA).logit() if learn_lambda else None
    ids = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(5))
    expected = plain_gradients(chain, alpha, lambda_logit, ids)
    mixing = mixing_model(chain, alpha, lambda_logit, torch.float64)
    mixing.model.train()
    mixing.model(input_ids=ids, labels=ids).loss.backward()
    mixing.take_gradients()
    for ours, plain in zip(
        (mixing.logits.alpha, mixing.logits.lambda_logit), expected, strict=True
    ):
        if plain is not None:
            gradient = torch.stack([parameter.grad for parameter in ours]).view_as(plain)
            assert (gradient - plain).abs().max() <= 1e-5 * plain.abs().max()


@pytest.mark.parametrize("granularity", SHAPES)
@pytest.mark.parametrize("backbone", ["llama", "llama-biases", "phi3", "starcoder2"])
def test_dense_logits_are_the_mixing_models(tmp_path, backbone, granularity):
    chain = chain_of(save_base(backbone, tmp_path / "base"), tmp_path / "chain")
    given = {name: chain[name] for name in ("moe_sft", "ffn")}
    options = {"weighted_init": ["--lam", LAMBDA, "--granularity", granularity]}
    sources = mixing_artifact.open_sources(*given.values())
    start = Chain(tmp_path, options, **given)["weighted_init"]
    start = mixing_artifact.open_mixing(start, sources)
    alpha = torch.randn(start.alpha.shape)
    learned = tmp_path / "learned"
    mixing_artifact.write(learned, "weighted_trained", {ALPHA: alpha}, start.config, sources)
    words = ["--moe", given["moe_sft"], "--ffn", given["ffn"], "--weighted", learned]
    dense.main([str(word) for word in [*words, "--out", tmp_path / "dense"]])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    mixing = mixing_model(chain, alpha)
    ids = torch.randint(3, 97, (2, 20))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask}):
            difference = merged(ids, **options).logits - mixing.model(ids, **options).logits
            assert difference.abs().max() <= 1e-4


def test_a_step_moves_the_logits_and_merges_again(chain):
    alpha = random_alpha("layer")
    mixing = mixing_model(chain, alpha)
    optimizer = mixing.build_optimizer(torch.optim.SGD, {"lr": 100.0}, None)
    ids = torch.randint(3, 97, (2, 20))
    losses = []
    for _ in range(2):
        output = mixing.model(input_ids=ids, labels=ids)
        output.loss.backward()
        losses.append(output.loss.item())
        optimizer.step()
    learned = mixing.logits.tensors()[ALPHA]
    assert not torch.equal(learned, alpha)
    again = mixing_model(chain, learned).model(input_ids=ids, labels=ids).loss.item()
    assert mixing.model(input_ids=ids, labels=ids).loss.item() == pytest.approx(again)
    assert losses[0] != losses[1]
