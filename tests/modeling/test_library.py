"""The functions on models in memory. tests/modeling/test_backbones.py has every form of a model.
And the memory of trainings and conversions.
"""

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from inspect import signature
from itertools import chain
from operator import mul
from pathlib import Path

import pytest
import torch
from backbones import ROPES, random_dense, save_base
from chains import Chain
from documents import ROOT, blocks
from interpreter import forked
from mixtures import mixing_of, random_mixture, tokens
from peft import LoraConfig, get_peft_model
from torch.nn.utils import prune
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

import xft
from xft.checkpoints import writer

SIZES = {"num_experts": 4, "num_experts_per_tok": 3}
EQUAL = torch.full((2, 1, 4), 0.25)
LARGER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 8}


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("resources").symlink_to(ROOT / "resources")
    names = {}
    assert {"upcycle", "diversity", "Mixing", "merge", "save", "soup"} <= {*dir(xft)}
    for block in blocks(ROOT / "docs" / "library.md"):
        if block.language == "python":
            exec(compile(block.text, block.where, "exec"), names)
    merged, learned = (xft.merge(names["mixture"], **keys) for keys in ({}, {"lam": 0.75}))
    for name, value in merged.state_dict().items():
        assert value.equal(learned.state_dict()[name])
    assert not torch.allclose(names["mixing"].coefficients[..., 1:], torch.tensor(0.25 / 3))


def test_signatures_name_the_options_and_their_defaults():
    upcycle, merge, mixing = map(signature, (xft.upcycle, xft.merge, xft.Mixing))
    assert upcycle.parameters["router"].default == "mlp"
    assert "num_experts: int = 8" in str(upcycle) and "method: str = 'xft'" in str(merge)
    assert [*mixing.parameters] == ["mixture", "lam", "granularity"]


def test_a_function_of_the_users_cannot_change_what_is_merged():
    """It gets copies, and may write into them."""

    def beyond(*given):
        tensors, shares, base = given
        merged = 2 * sum(map(mul, shares, tensors)) - base
        for tensor in (*tensors, shares, base):
            tensor.zero_()
        return merged

    base, mixture = random_dense("llama"), random_mixture("llama")
    equal, kept = EQUAL.clone(), copy.deepcopy((base.state_dict(), mixture.state_dict()))
    plain = xft.merge(mixture, coefficients=EQUAL).state_dict()
    merged = xft.merge(mixture, coefficients=equal, base=base, method=beyond).state_dict()
    for name, start in kept[0].items():
        torch.testing.assert_close(merged[name], 2 * plain[name] - start)
    assert equal.equal(EQUAL)
    for model, state in zip((base, mixture), kept, strict=True):
        assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_a_function_of_the_users_makes_the_experts(tmp_path):
    """The same from a file; it gets copies of the base's MLP, and a generator for each expert."""
    text = "def doubled(weights, generator):\n    return {n: w.mul_(2) for n, w in weights.items()}"
    (tmp_path / "mine.py").write_text(text)
    exec(text, functions := {})
    base = random_dense("llama")
    inits = functions["doubled"], f"{tmp_path}/mine.py:doubled", "copy"
    mixtures = [xft.upcycle(base, **SIZES, init=init).state_dict() for init in inits]
    for name, copied in mixtures[2].items():
        factor = 2 if ".experts." in name else 1
        assert all(mixture[name].equal(factor * copied) for mixture in mixtures[:2]), name


@pytest.mark.parametrize("experts", ["full", "lora"])
def test_experts_that_did_not_learn_are_told(experts, recwarn):
    mixture = xft.upcycle(random_dense("llama"), **SIZES, experts=experts)
    for function in (xft.merge, xft.Mixing):
        with pytest.warns(UserWarning, match="all routed experts are equal"):
            function(mixture)
    for weight in mixture.moe_blocks[1].experts.parameters():
        torch.nn.init.normal_(weight[-1])
    single = xft.upcycle(random_dense("llama"), num_experts=2, num_experts_per_tok=2)
    _ = xft.merge(mixture), xft.merge(single)
    assert not recwarn


def test_experts_with_adapters_of_peft_become_experts():
    mixture = xft.upcycle(random_dense("llama"), **SIZES).eval()
    names = ["experts.gate_up_proj", "experts.down_proj"]
    adapted = get_peft_model(mixture, LoraConfig(target_modules=[], target_parameters=names))
    for name, weight in adapted.named_parameters():
        torch.nn.init.normal_(weight, std=0.5 if "lora_B" in name else weight.std().item())
    expected = adapted(tokens()).logits
    with pytest.raises(xft.UserError, match=r"adapters of PEFT, .* merge_and_unload\(\)"):
        xft.merge(mixture)
    merged = adapted.merge_and_unload()(tokens()).logits
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-5)


def test_what_is_not_finite_changes_no_coefficient():
    mixing = xft.Mixing(random_mixture("llama"))
    optimizer = mixing.build_optimizer(torch.optim.SGD, {"lr": torch.inf})
    start = mixing.coefficients
    for factor, fault in ((torch.nan, "gradient is nan"), (1, "not finite any more")):
        assert mixing.coefficients.equal(start)
        (mixing.model(tokens(), labels=tokens()).loss * factor).backward()
        with pytest.raises(xft.UserError, match=fault):
            optimizer.step()


def test_dtype_mode_and_generation_stay_and_no_model_is_there_twice():
    base = random_dense("llama", **LARGER).to(torch.bfloat16).eval()
    base.generation_config.eos_token_id = [2, 5]
    made = []
    peak = peak_memory(lambda: made.append(xft.upcycle(base, **SIZES)))
    (mixture,) = made
    assert (mixture.dtype, mixture.training) == (torch.bfloat16, False)
    assert mixture.generation_config.eos_token_id == [2, 5]
    assert peak < 1.25 * nbytes(mixture)
    peak = peak_memory(lambda: made.append(xft.merge(mixture)))
    assert peak < 1.25 * nbytes(made[1])


@pytest.mark.parametrize("backbone", ["llama", "gpt_neox"])  # whose head has another name in files
def test_each_tensor_keeps_its_dtype(backbone):
    """Norms in fp32 beside bf16, and experts that were tuned in fp32."""
    base = random_dense(backbone).to(torch.bfloat16)
    for name, parameter in base.named_parameters():
        if "norm" in name or parameter is base.get_output_embeddings().weight:
            parameter.data = torch.randn_like(parameter, dtype=torch.float32)
    mixture = xft.upcycle(base, **SIZES)
    for weight in chain(*(block.float().experts.parameters() for block in mixture.moe_blocks)):
        torch.nn.init.normal_(weight)
    state, merged = base.state_dict(), xft.merge(mixture).state_dict()
    wide = {name for name in state if ".mlp." in name or state[name].dtype == torch.float32}
    assert {name for name in merged if merged[name].dtype == torch.float32} == wide
    assert all((merged[name].bfloat16() - merged[name]).any() for name in wide)  # never rounded
    assert all(mixture.state_dict()[n].equal(state[n]) for n in state if ".mlp." not in n)


def nbytes(model) -> int:
    return sum(value.nbytes for value in chain(model.parameters(), model.buffers()))


def test_of_low_rank_experts_only_what_the_settings_say_learns():
    for train_rest, others in (("frozen", False), ("lora", False), ("full", True)):
        mixture = xft.upcycle(random_dense("llama"), experts="lora", train_rest=train_rest)
        for name, parameter in mixture.named_parameters():
            learns = others if ".mlp." not in name else ".mlp.dense." not in name
            assert parameter.requires_grad == learns, (train_rest, name)


def merge(**options):
    return xft.merge(random_mixture("llama"), **options)


def test_what_cannot_be_done_is_told():
    for call, message in (
        (lambda dense: xft.upcycle(dense, num_expert=4), "no argument num_expert: did you mean nu"),
        (lambda dense: merge(lamda=0.5), "merge has no argument lamda: did you mean lam?"),
        (lambda dense: xft.upcycle(dense, rank=2), "rank = 2: .* or set experts = lora too$"),
        (lambda dense: xft.upcycle(dense, experts="lora", rank=99), "^rank = 99: .* most rank 32"),
        (lambda dense: xft.upcycle(dense, upcycled_layers=[0, 2, 5]), "2, 5: .* has layers 0 to 1"),
        (lambda dense: merge(coefficients=EQUAL.tolist()), "are a list. They must be a tensor"),
        (lambda dense: merge(coefficients=EQUAL[0]), r"the shape \[1, 4\] .* \[2 or 1, 3 or 1, 4"),
        (lambda dense: merge(coefficients=EQUAL * 3), "sum of 3. .* with a sum of 1"),
        (lambda dense: merge(coefficients=EQUAL * torch.nan), "sum of nan"),
        (lambda dense: merge(coefficients=EQUAL, lam=0.5), "lam = 0.5: no effect beside coeffici"),
        (lambda dense: merge(base=dense), "method = xft: leave out base"),
        (lambda _: merge(base=random_dense("qwen2"), method=max), "from: model_type,"),
        (lambda m: merge(base=m.resize_token_embeddings(9) and m, method=max), "neither"),
        (lambda m: xft.upcycle(prune.identity(m.lm_head, "weight") and m), "lm_head.* is missing"),
        (lambda _: xft.upcycle(random_dense("llama", quantization_config={})), "is quantised"),
        (lambda dense: xft.upcycle(dense.to("meta")), "no values for .*: it is offloaded, or on"),
        (lambda dense: xft.soup(model for model in [dense] * 2), "is a generator. Give a list"),
        (lambda dense: xft.upcycle(dense.to(torch.float8_e5m2)), "Load the model without quantis"),
        (lambda dense: xft.merge(dense), "no mixture. Make one of it with xft.upcycle"),
        (lambda dense: xft.Mixing(xft.upcycle(dense), lam=2), "lam = 2: must be a decimal number"),
        (lambda _: merge(method=max), "method = max: give the dense model as base, too"),
        (lambda dense: xft.upcycle(dense, init=max, experts="lora"), "init = max: no effect with"),
        (lambda dense: xft.soup([dense]), "a mean needs at least two models"),
    ):
        with pytest.raises(xft.UserError, match=message):
            call(random_dense("llama"))


def test_a_mixture_is_pickled_and_copied_like_its_base(tmp_path, fork_server):
    """Another process, which knows nothing of it, reads it and pads as it does."""
    mixture, mask = random_mixture("llama").eval(), (tokens() > 9).long()
    logits = mixture(tokens(), mask).logits.detach()
    torch.save((copy.deepcopy(mixture), tokens(), mask, logits), tmp_path / "given")
    code = "import sys, torch; model, *inputs, logits = torch.load(sys.argv[1], weights_only=False)"
    code += "; torch.testing.assert_close(model(*inputs).logits, logits)"
    forked("-c", code, tmp_path / "given")


def test_a_changed_config_outlives_saving_and_merging_as_in_a_dense_model(tmp_path):
    mixture = xft.upcycle(dense := random_dense("llama-tied").eval(), **SIZES)
    for model, folder in ((dense, tmp_path / "dense"), (mixture, tmp_path / "mixture")):
        model.config.use_cache, model.config.pad_token_id, model.config.mine = False, 5, {"a": [1]}
        model.config.rope_parameters = ROPES["linear"]
        model.resize_token_embeddings(101)
        torch.nn.init.eye_(model.get_input_embeddings().weight)  # the rows that are new are random
        model.save_pretrained(folder)
    dense, mixture = map(AutoModelForCausalLM.from_pretrained, sorted(tmp_path.iterdir()))
    merged, aside = xft.merge(mixture), {"_name_or_path": None, "architectures": None}
    assert merged.config.to_dict() | aside == dense.config.to_dict() | aside
    for model in (mixture, merged):
        torch.testing.assert_close(model(tokens()).logits, dense(tokens()).logits)


def peak_memory(action, folder: Path | None = None) -> int:
    """The most bytes that torch allocates at once in an action.

    Weights below `folder` are mapped, and do not count: torch states the size of the whole file.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    now, peak = 0, 0
    mapped = {file.stat().st_size for file in folder.rglob("*.safetensors")} if folder else set()
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]" and abs(event.nbytes()) not in mapped:
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def learn_once(model, ids) -> None:
    model(ids, labels=ids).loss.backward()


def test_activation_checkpointing_needs_less_memory(upcycled):
    """Apart from the logits. Routing that lived on would keep a whole layer, nearly 0.3."""
    model = AutoModelForCausalLM.from_pretrained(upcycled).train()
    ids = torch.randint(3, 290, (4, 64))
    logits = 4 * ids.numel() * model.config.vocab_size
    learn_once(model, ids)  # the gradients are there from now on
    plain = peak_memory(lambda: learn_once(model, ids))
    model.activation_checkpointing_enable({"use_reentrant": False})
    less = peak_memory(lambda: learn_once(model, ids))
    assert less - 3 * logits < 0.2 * (plain - 3 * logits)


class AtOnce(ThreadPoolExecutor):
    """Does at once what it would do in other threads.

    The profiler sees no thread that frees memory, such as the last user of a piece of a file.
    """

    def submit(self, function, *arguments) -> Future:
        done = Future()
        done.set_result(function(*arguments))
        return done


def test_conversions_hold_a_layer_at_most_and_mixing_no_expert(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "ThreadPoolExecutor", AtOnce)
    layers = 40
    sizes = {"num_hidden_layers": layers, "hidden_size": 128, "intermediate_size": 256}
    base = save_base("llama", tmp_path / "base", torch.bfloat16, **sizes)
    dense_ffn = layers * 3 * 128 * 256 * 2  # bytes
    chain = Chain(tmp_path, {"moe": [], "weighted_init": ["--lam", "0.5"]}, base=base)
    for step in ("moe", "ffn", "weighted_init", "dense"):
        peak = peak_memory(lambda step=step: chain[step], tmp_path)
        assert peak < dense_ffn / 10, step  # less than a layer of the mixture and its merge

    def mix() -> None:
        mixing = mixing_of(chain)
        learn_once(mixing.model, torch.arange(8)[None])
        mixing.take_gradients()

    # The dense model in fp32, as much for gradients, and something for the rest. On a busy machine
    # the profiler may miss the thread of the backward pass, which allocates the gradients.
    assert 2 * dense_ffn < peak_memory(mix, tmp_path) < 3 * 2 * dense_ffn
