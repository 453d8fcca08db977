"""The start of the mixing by the use of the experts, against the gates of the routers' inputs."""

import pytest
import torch
from chains import Chain
from safetensors.torch import load_file
from trainings import ROWS, write_rows
from transformers import AutoModelForCausalLM

from workflow_scripts import tokens
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.conversions.merge import SMALLEST_SHARE, logits_of_shares
from xft.data.tokens_artifact import open_tokens

MEASURED = 5
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
EXPERTS = ["--num-experts", "5", "--num-experts-per-tok", "3"]
UNIFORM = {"granularity": "layer", "learn_lambda": False, "shared_expert_weight": 0.75}


@pytest.fixture(scope="module")
def folder(tiny_llama, tmp_path_factory):
    """A mixture whose routers prefer some experts, with noise; its experts, and tokens."""
    root = tmp_path_factory.mktemp("usage")
    upcycled = Chain(root, {"moe": EXPERTS}, base=tiny_llama)["moe"]
    model = AutoModelForCausalLM.from_pretrained(upcycled)
    for block in model.moe_blocks:
        for layer in (block.router.input, block.router.output, block.router.noise):
            torch.nn.init.normal_(layer.weight)
    model.save_pretrained(root / "moe_sft")
    for file in TOKENIZER:
        (root / "moe_sft" / file).write_bytes((upcycled / file).read_bytes())
    assert Chain(root, moe_sft=root / "moe_sft")["ffn"]
    words = ["--model", root / "moe_sft", "--data", write_rows(root), "--out", root / "tokens"]
    tokens.main([*map(str, words), "--validation-rows", "4"])
    return root


def weighted_init(folder, out, *flags, made="weighted_init"):
    options = {"weighted_init": ["--lam", "0.75", *flags]}
    return Chain(out, options, moe_sft=folder / "moe_sft", ffn=folder / "ffn")[made]


def by_usage(folder, out, *flags, **options):
    words = ["--init", "usage", "--data", folder / "tokens", "--init-rows", MEASURED]
    return weighted_init(folder, out, *words, *flags, **options)


def alpha_of(weighted) -> torch.Tensor:
    return load_file(weighted / "model.safetensors")["alpha"]


@pytest.fixture(scope="module")
def expected(folder) -> torch.Tensor:
    """The shares of the gates [layers, R], from what reaches each router, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder / "moe_sft").eval()
    seen = [[] for _ in model.moe_blocks]
    for block, inputs in zip(model.moe_blocks, seen, strict=True):
        block.router.register_forward_pre_hook(
            lambda _, args, inputs=inputs: inputs.append(args[0])
        )
    training = open_tokens(folder / "tokens", folder / "moe_sft")[0].training
    assert len(training) == len(ROWS) - 4
    with torch.no_grad():
        for place in range(MEASURED):
            model(torch.tensor([training[place]["input_ids"]]))
    shares = []
    for block, inputs in zip(model.moe_blocks, seen, strict=True):
        first, second = (
            layer.weight.double() for layer in (block.router.input, block.router.output)
        )
        gates = (torch.cat(inputs).double() @ first.T).tanh() @ second.T
        gates = gates.softmax(-1)
        gates[gates < gates.sort(-1, descending=True).values[:, 1:2]] = 0  # two of four are chosen
        mean = gates.mean(0)
        shares.append(mean / mean.sum())
    return torch.stack(shares)


def test_shares_start_as_the_experts_parts_of_the_gates(folder, expected, tmp_path):
    weighted = by_usage(folder, tmp_path)
    alpha = alpha_of(weighted)
    assert (alpha.dtype, alpha.shape) == (torch.float32, (2, 1, 4))
    assert expected.max() > 2 * expected.min()
    torch.testing.assert_close(alpha[:, 0].softmax(-1).double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(alpha.exp().sum(-1), torch.ones(2, 1))

    manifest, made = (read_manifest(manifest_path(folder / name)) for name in ("ffn", "tokens"))
    inputs = {"moe": manifest.inputs["moe"], "ffn": manifest.id}
    inputs |= {"tokens": made.id, "data": made.inputs["data"]}
    config = UNIFORM | {"init": "usage", "init_rows": MEASURED}
    weighted = read_manifest(manifest_path(weighted))
    assert (weighted.inputs, weighted.parameters) == (inputs, config | {"threads": 1})


def test_projections_share_their_layers_use_and_a_model_has_the_mean(folder, expected, tmp_path):
    whole = alpha_of(by_usage(folder, tmp_path / "model", "--granularity", "model"))
    assert whole.shape == (1, 1, 4)
    mean = expected.mean(0).float()
    torch.testing.assert_close(whole[0, 0].softmax(-1), mean, atol=1e-5, rtol=0)
    flags = ["--granularity", "projection", "--learn-lambda"]
    each = load_file(by_usage(folder, tmp_path / "each", *flags) / "model.safetensors")
    layers = alpha_of(by_usage(folder, tmp_path / "layer"))
    assert torch.equal(each["alpha"], layers.expand(2, 3, 4))
    torch.testing.assert_close(each["lambda_logit"].sigmoid(), torch.full((2, 3), 0.75))


def test_an_expert_without_use_has_a_finite_logit():
    shares = torch.tensor([[0.0, 0.25, 0.75]], dtype=torch.float64)
    alpha = logits_of_shares(shares, (1, 1, 3))
    assert alpha.isfinite().all()
    assert alpha[0, 0, 0].exp().item() == pytest.approx(SMALLEST_SHARE)
    torch.testing.assert_close(alpha.softmax(-1)[0].double(), shares, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "tokens"], "--data .* init = usage .* Give both of them, or neither"),
        (["--init", "usage"], "--data .* init = usage .* Give both of them, or neither"),
        (["--init", "usage", "--data", "moe_sft"], "is a folder without a manifest"),
    ],
)
def test_a_users_mistake_is_explained(folder, tmp_path, flags, message):
    words = [str(folder / word) if (folder / word).exists() else word for word in flags]
    with pytest.raises(UserError, match=message):
        weighted_init(folder, tmp_path, *words)
    assert list(tmp_path.iterdir()) == []
