"""Merges by functions, those of examples/merges among them: their equations, in fp64."""

import itertools
import json
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from backbones import BACKBONES, save_base
from chains import Chain
from damage import change_tensors
from mixtures import EXAMPLES, merge_example, random_mixture
from safetensors.torch import load_file

import xft
from workflow_scripts import dense
from xft.artifacts.manifest import hash_file, json_sha256, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.common.user_code import UserCode
from xft.config.sections import MERGE

SINGLE = "model.safetensors"
LAMBDA, SCALE = 0.6, 1.5
MERGES = EXAMPLES / "merges"
STOCK, SELECT = map(merge_example, ("model_stock", "select"))
CASES = ("llama-biases", "phi3", "starcoder2", "llama-bf16", "llama-head")


@dataclass(frozen=True)
class Case:
    """A base, a mixture that differs from it in all tensors, and its coefficients. Read only."""

    folder: Path
    chain: Chain
    base: dict[str, torch.Tensor]
    moe: dict[str, torch.Tensor]

    def merge(self, out: Path, *words: object) -> dict[str, torch.Tensor]:
        """The tensors that step dense makes with these flags."""
        return load_file(merged(self.chain, out, *words) / SINGLE)

    def base_of(self, name: str) -> torch.Tensor:
        return self.base.get(name, self.base["model.embed_tokens.weight"]).double()

    def experts(self, name: str) -> list[torch.Tensor] | None:
        """The fp64 experts of a tensor of the dense model; None if it is not of an MLP."""
        prefix, found, rest = name.partition(".mlp.")
        if not found:
            return None
        projection, part = rest.split(".")
        is_output = projection in ("down_proj", "c_proj")
        is_gated = f"{prefix}.mlp.shared_expert.c_fc.weight" not in self.moe
        fused = "down_proj" if is_output else ("gate_up_proj" if is_gated else "up_proj")
        fused = self.moe[f"{prefix}.mlp.experts.{fused}" + "_bias" * (part == "bias")]
        if projection in ("gate_proj", "up_proj") and is_gated:
            fused = fused.chunk(2, dim=1)[projection == "up_proj"]
        shared = self.moe[f"{prefix}.mlp.shared_expert.{rest}"]
        return [expert.double() for expert in (shared, *fused)]

    def tuned(self, name: str) -> torch.Tensor:
        """XFT's merge of a tensor with equal shares, or the mixture's tensor, in fp64."""
        experts = self.experts(name)
        if experts is None:
            return self.moe[name].double()
        mean = sum(experts[1:]) / (len(experts) - 1)
        return LAMBDA * experts[0] + (1 - LAMBDA) * mean


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Case:
    """bf16: the mixture is in bf16, its base in fp32. head: its file holds the tied head too."""
    backbone, _, variant = request.param.partition("-")
    folder = tmp_path_factory.mktemp(request.param)
    name = request.param if request.param in BACKBONES else backbone
    save_base(name, folder / "base", tie_word_embeddings=variant == "head")
    upcycled = Chain(folder, base=folder / "base")["moe"]
    dtype = torch.bfloat16 if variant == "bf16" else torch.float32

    def tune(tensors: dict) -> dict:
        if variant == "head":
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        return {n: (t + 0.05 * torch.randn(t.shape)).to(dtype) for n, t in tensors.items()}

    tuned = change_tensors(shutil.copytree(upcycled, folder / "tuned"), tune)
    chain = Chain(folder, {"weighted_init": ["--lam", LAMBDA]}, moe_sft=tuned)
    return Case(folder, chain, *(load_file(p / SINGLE) for p in (folder / "base", tuned)))


def assert_near(made: dict, expected: dict) -> None:
    assert made.keys() == expected.keys()
    for name, tensor in made.items():
        rounding = 2**-8 if tensor.dtype is torch.bfloat16 else 1e-6
        torch.testing.assert_close(tensor.double(), expected[name], rtol=rounding, atol=1e-6)


def test_task_arithmetic_is_its_equation(case, tmp_path):
    method = merge_example("task_arithmetic", scale=SCALE)
    made = case.merge(tmp_path / "out", "--method", method, "--base", case.folder / "base")
    plain = case.merge(tmp_path / "xft")
    expected = {n: case.base_of(n) + SCALE * (case.tuned(n) - case.base_of(n)) for n in plain}
    assert_near(made, expected)


def ratio(experts: list[torch.Tensor], base: torch.Tensor) -> float:
    """t of the paper, from the cosine of each pair."""
    vectors = [(expert - base).flatten() for expert in experts]
    pairs = itertools.combinations(vectors, 2)
    cosines = torch.stack([torch.cosine_similarity(a, b, dim=0) for a, b in pairs])
    cosine = max(cosines.mean().item(), 0)
    return len(experts) * cosine / ((len(experts) - 1) * cosine + 1)


def test_model_stock_is_its_equation(case, tmp_path):
    made = case.merge(tmp_path / "out", "--method", STOCK, "--base", case.folder / "base")
    expected, ratios = {}, []
    for name in case.merge(tmp_path / "xft"):
        start, end, experts = case.base_of(name), case.tuned(name), case.experts(name)
        ratios.append(ratio(experts, start) if experts else 1.0)
        expected[name] = start + ratios[-1] * (end - start)
    assert len({round(value, 6) for value in ratios}) > 2  # each tensor has its own
    assert_near(made, expected)


LOADS = [[[0.5, 0.4, 0.1], [0.1, 0.2, 0.7]], [[0.1, 0.4, 0.5], [0.2, 0.3, 0.5]]]  # of two steps


def test_the_most_used_expert_of_each_layer(case, tmp_path):
    """The mean loads of LOADS: 0.3, 0.4, 0.3 in the first layer, 0.15, 0.25, 0.6 in the second."""
    steps = [{"entropy": [1, 1], "load": load} for load in LOADS] + [{"validation_loss": 1}]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in steps))
    words = ["--method", SELECT, "--metrics", file, "--base", case.folder / "base"]
    made, expected = case.merge(tmp_path / "out", *words), {}
    for name in made:
        experts = case.experts(name)
        number = 2 + (".layers.1." in name)
        mixed = experts and LAMBDA * experts[0] + (1 - LAMBDA) * experts[number]
        expected[name] = case.tuned(name) if experts is None else mixed
    assert_near(made, expected)


# Functions of the user's

MEAN = """
def mean(tensors, coefficients, base):
    assert base.shape == tensors[0].shape
    from my_helper import total
    merged = total(share * tensor for share, tensor in zip(coefficients, tensors))
    for given in (*tensors, coefficients, base):
        given.mul_(0.5)  # the function has copies
    return merged

def fails(tensors, coefficients, base):
    return 1 / 0

def flat(tensors, coefficients, base):
    return base.flatten()
"""


@pytest.fixture
def function(tmp_path) -> str:
    """The start of a method that names a function of a file."""
    file = tmp_path / "my_merge.py"
    file.write_text(MEAN)
    (tmp_path / "my_helper.py").write_text("total = sum")
    return f"{file}:"


def test_a_function_of_the_users_merges_the_experts(case, tmp_path, function):
    words = ["--method", f"{function}mean", "--base", case.folder / "base"]
    made = case.merge(tmp_path / "out", *words)
    assert_near(made, {name: case.tuned(name) for name in made})
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'method "my_merge.py:mean": a function of the user\'s' in card
    assert str(tmp_path) not in manifest_path(tmp_path / "out").read_text() + card
    files = {"__main__": "my_merge.py", "my_helper": "my_helper.py"}
    known = json_sha256({module: hash_file(tmp_path / file) for module, file in files.items()})
    manifest = read_manifest(manifest_path(tmp_path / "out"))
    assert manifest.parameters["method"] == "my_merge.py:mean"
    assert manifest.inputs.keys() == {"moe", "ffn", "weighted", "base", "function"}
    assert manifest.inputs["function"] == known


def test_a_function_that_is_wrong_is_told(plain, tmp_path, function):
    for name, message in (
        ("fails", r"merge.method: model.layers.\S+: .*my_merge.py, line 11: ZeroDivisionError"),
        ("flat", r"it returned \[\d+\], not a tensor of \["),
    ):
        with pytest.raises(UserError, match=message):
            merged(plain, tmp_path / "out", "--method", function + name, "--base", plain["base"])
        assert not (tmp_path / "out").exists()


def test_the_examples_are_their_equations():
    """Two experts, whose changes are 4, -1, 0 and 2, 3, 1, with the shares 1/4 and 3/4."""
    base = torch.tensor([[1.0, 2.0, 3.0]])
    changes = torch.tensor([[4.0, -1.0, 0.0]]), torch.tensor([[2.0, 3.0, 1.0]])
    given = [base + change for change in changes], torch.tensor([0.25, 0.75]), base
    names = "ties", "dare", "by_column"
    functions = {name: UserCode.of(merge_example(name)).load(MERGE) for name in names}
    # The largest fifth of three values: 4, and 3.
    expected = torch.tensor([[1 + 4.0, 2 + 3.0, 3.0]])
    torch.testing.assert_close(functions["ties"](*given), expected)
    dropped = functions["dare"](*given) - base
    possible = torch.cartesian_prod(*[torch.tensor([0.0, 2.0])] * 2)
    for value, first, second in zip(dropped[0], *(change[0] for change in changes), strict=True):
        sums = possible[:, 0] * first / 4 + possible[:, 1] * second * 3 / 4
        assert (sums - value).abs().min() < 1e-6
    weights = 0.25 * changes[0] ** 2, 0.75 * changes[1] ** 2
    moved = sum(w * change for w, change in zip(weights, changes, strict=True)) / sum(weights)
    torch.testing.assert_close(functions["by_column"](*given), base + moved)


def test_a_merge_by_data_fits_the_outputs_of_the_mixture():
    """By the normal equations of the first MLP: those of its output matrix; and those of its gate,
    which fits the experts' by each one's tokens, times their weights. Equal experts give their own
    function.
    """
    example = runpy.run_path(str(MERGES / "by_data.py"))["by_data"]
    mixture = random_mixture("llama").eval()
    ids = torch.randint(3, 97, (60, 8), generator=torch.Generator().manual_seed(0))
    given, block = [], mixture.model.layers[0].mlp
    block.register_forward_hook(lambda _, inputs, output: given.append((inputs[0][0], output[0])))
    dense = example(mixture, [{"input_ids": row[None]} for row in ids]).eval()
    tokens, outputs = map(torch.cat, zip(*given[: len(ids)], strict=True))
    mlp = dense.model.layers[0].mlp
    hidden = torch.nn.functional.silu(mlp.gate_proj(tokens)) * mlp.up_proj(tokens)
    left = hidden.T @ (mlp.down_proj(hidden) - outputs)
    assert left.abs().max() < 1e-4 * (hidden.T @ outputs).abs().max()
    gates = [block.shared_expert.gate_proj.weight, *block.experts.gate_up_proj.chunk(2, 1)[0]]
    _, weights = block.router(tokens).spread()
    inputs = [weight[:, None] * tokens for weight in weights.T]
    changes = [
        x.T @ x @ (mlp.gate_proj.weight - gate).T for x, gate in zip(inputs, gates, strict=True)
    ]
    assert sum(changes).abs().max() < 1e-3 * max(change.abs().max() for change in changes)

    alike = xft.upcycle(dense, num_experts=4, num_experts_per_tok=2)
    again = example(alike, [{"input_ids": row[None]} for row in ids]).eval()
    assert torch.allclose(again(ids).logits, dense(ids).logits, atol=1e-3)


# The ratio of Model Stock


def stock_ratio(experts: list[torch.Tensor], base: torch.Tensor) -> float:
    return runpy.run_path(str(MERGES / "model_stock.py"))["ratio"](torch.stack(experts) - base)


def test_the_ratio_at_its_limits():
    """An expert that equals the base has no direction."""
    base, step = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    still = base.clone()
    assert stock_ratio([base + step] * 3, base) == pytest.approx(1)
    assert stock_ratio([base + step, base + 3 * step], base) == pytest.approx(1)
    assert stock_ratio([base + step, base - step], base) == 0
    assert stock_ratio([still] * 3, base) == 1
    assert stock_ratio([base + step, still, still], base) == 1
    zero, cosine = torch.zeros(2, dtype=torch.float64), 0.5**0.5
    apart = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])]  # 45 degrees, of other lengths
    assert stock_ratio([*apart, zero], zero) == pytest.approx(2 * cosine / (cosine + 1))


# What artifacts say, and refusals


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_llama) -> Chain:
    """Artifacts with manifests."""
    folder = tmp_path_factory.mktemp("plain")
    return Chain(folder, {"base": ["--model", tiny_llama]})


def merged(chain: Chain, out: Path, *words: object) -> Path:
    dense.main([*chain.words("dense"), *map(str, words), "--out", str(out)])
    return out


def test_manifest_and_card_say_how_it_was_merged(plain, tmp_path):
    out = merged(plain, tmp_path / "out", "--base", plain["base"])
    manifest = read_manifest(manifest_path(out))
    weighted = json.loads((plain["weighted_init"] / "config.json").read_text())
    assert manifest.parameters == weighted
    assert manifest.inputs.keys() == {"moe", "ffn", "weighted"}
    assert "one set per layer, equal shares\n- tuning" in (out / "README.md").read_text()


CHANGES_ALL = """
def merge(tensors, coefficients, base, load):
    mixed = sum(share * tensor for share, tensor in zip(load, tensors[1:]))
    return coefficients[0] * (tensors[0] - base) + mixed

def and_erase(tensors, coefficients, base, load):
    merged = merge(tensors, coefficients, base, load)
    for tensor in (*tensors, coefficients, base, load):
        tensor.zero_()
    return merged
"""


def test_a_function_may_change_all_that_it_gets(plain, tmp_path):
    """It gets copies: the next tensors of a layer have the same base, shares and loads."""
    file = tmp_path / "erase.py"
    file.write_text(CHANGES_ALL)
    metrics = tmp_path / "metrics.jsonl"
    load = [number / 28 for number in range(1, 8)]
    metrics.write_text(json.dumps({"entropy": [1, 1], "load": [load, load[::-1]]}) + "\n")
    words = ["--metrics", metrics, "--base", plain["base"], "--method"]
    made = {}
    for name in ("merge", "and_erase"):
        made[name] = merged(plain, tmp_path / name, *words, f"{file}:{name}") / SINGLE
    assert made["merge"].read_bytes() == made["and_erase"].read_bytes()


def test_a_mistake_of_the_user_is_refused(plain, tmp_path):
    for words, message in (
        (["--method", STOCK], "model_stock.py:model_stock: give --base too"),
        (["--method", SELECT], "select.py:select: give --base and --metrics too"),
        (["--method", "ties"], "should be xft, or a function in a Python file, such as my_merge"),
    ):
        with pytest.raises(UserError, match=message):
            merged(plain, tmp_path / "out", *words)


def test_integers_stay_as_they_are(plain, tmp_path):
    """Older models hold positions as integers. The base may lack them."""
    tuned = shutil.copytree(plain["moe"], tmp_path / "tuned")
    change_tensors(tuned, lambda tensors: tensors | {"model.positions": torch.arange(5)})
    chain = Chain(tmp_path, moe_sft=tuned)
    method = merge_example("task_arithmetic")
    out = merged(chain, tmp_path / "out", "--method", method, "--base", plain["base"])
    assert torch.equal(load_file(out / SINGLE)["model.positions"], torch.arange(5))


def test_another_base_and_one_of_another_shape_are_refused(plain, case, tmp_path):
    """Where the mixture has no manifest, only the shapes are known."""
    smaller = shutil.copytree(case.folder / "base", tmp_path / "smaller")
    name = next(name for name in case.base if ".mlp." in name)
    change_tensors(smaller, lambda tensors: tensors | {name: tensors[name][1:].clone()})
    for chain, fault in (
        (plain, "was not made from .*smaller but from another base"),
        (case.chain, f"has no floating-point tensor {name} of the shape"),
    ):
        with pytest.raises(UserError, match=fault):
            merged(chain, tmp_path / "out", "--method", STOCK, "--base", smaller)
