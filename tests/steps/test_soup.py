"""The mean of dense models: against fp64, and what it says of itself."""

import shutil
from pathlib import Path

import pytest
import torch
from damage import change_json, change_tensors
from safetensors.torch import load_file
from trainings import learn, write_rows
from transformers import AutoModelForCausalLM

from workflow_scripts import soup
from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import manifest_path, read_manifest, short
from xft.common.errors import UserError

SINGLE = "model.safetensors"
POSITIONS = "model.positions"  # older models hold integers, too


def variant(source: Path, folder: Path, change) -> Path:
    """A copy of a model whose tensors are those that `change` returns, by name."""
    return change_tensors(shutil.copytree(source, folder), change)


def average(out: Path, *models: Path) -> dict[str, torch.Tensor]:
    soup.main(["--models", *map(str, models), "--out", str(out)])
    return load_file(out / SINGLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_each_tensor_is_the_mean_in_its_dtype(tmp_path, tiny_llama, monkeypatch, dtype):
    monkeypatch.setattr("xft.conversions.merged_tensors.STACK_BLOCK", 100)

    def noisy(tensors):
        made = {n: (t + 0.1 * torch.randn(t.shape)).to(dtype) for n, t in tensors.items()}
        return made | {POSITIONS: torch.arange(5)}

    models = [variant(tiny_llama, tmp_path / f"model{number}", noisy) for number in range(3)]
    change_json(models[1] / "config.json", use_cache=False, dtype="float16")
    made = average(tmp_path / "out", *models)
    parts = [load_file(model / SINGLE) for model in models]
    assert made.keys() == parts[0].keys()
    assert torch.equal(made.pop(POSITIONS), torch.arange(5))
    for name, tensor in made.items():
        assert tensor.dtype is dtype
        expected = torch.stack([part[name].double() for part in parts]).sum(0) / 3
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(tensor.double(), expected, rtol=rounding, atol=0)


def test_the_mean_of_equal_models_is_the_model_bit_for_bit(tmp_path, tiny_llama):
    made = average(tmp_path / "out", *[tiny_llama] * 3)
    torch.testing.assert_close(made, load_file(tiny_llama / SINGLE), rtol=0, atol=0)
    for file in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tiny_llama / file).read_bytes()


def test_the_mean_of_tunings_says_what_it_was_made_from(tmp_path, tiny_llama):
    words = ["--base", tiny_llama, "--data", write_rows(tmp_path), "--max-steps", 2]
    words += ["--per-device-train-batch-size", 2, "--learning-rate", 0.01]
    out, *seeds = (tmp_path / name for name in ("soup", "seed~1", "seed~2"))
    for place in seeds:
        learn("sft", place, *words, "--seed", place.name[-1])
    average(out, *seeds)
    manifest = read_manifest(manifest_path(out))
    tunings = [read_manifest(manifest_path(place)) for place in seeds]
    ids = [tuning.id for tuning in tunings]
    assert ids[0] != ids[1]
    assert manifest.inputs == {"model 1": ids[0], "model 2": ids[1]}
    shared = {key: tunings[0].parameters[key] for key in ("base", "template")}
    assert manifest.parameters == shared
    card = (out / "README.md").read_text()
    assert f"- models: the artifacts {short(ids[0])}, {short(ids[1])}\n" in card
    assert "max_steps 2" in card and "seed" not in card.partition("tuning of each")[2]
    assert type(AutoModelForCausalLM.from_pretrained(out)).__name__ == "LlamaForCausalLM"


# Refusals


def head(change):
    """Change the tensors of a model; change(lm_head) gives its other tensors."""
    return lambda folder: change_tensors(folder, lambda t: t | change(t.pop("lm_head.weight")))


def test_models_that_differ_in_form_are_refused(tmp_path, tiny_llama):
    keys = {"rms_norm_eps": 0.1, "new": None}
    cases = [
        (lambda f: change_json(f / "config.json", **keys), "differs in new, rms_norm_eps. Give"),
        (head(lambda t: {}), r"only one of them has the tensor lm_head\.weight"),
        (head(lambda t: {"lm_head.weight": t[1:].clone()}), r"is F32 \[\d+, 32\] and F32 \["),
        (head(lambda t: {"lm_head.weight": t.half()}), r"lm_head\.weight is F32 \[.*\] and F16 \["),
    ]
    for number, (change, fault) in enumerate(cases):
        other = shutil.copytree(tiny_llama, tmp_path / str(number))
        change(other)
        with pytest.raises(UserError, match=f"{tiny_llama} and {other} have no mean: .*{fault}"):
            average(tmp_path / "out", tiny_llama, other)
        assert not (tmp_path / "out").exists()


def test_what_has_no_mean_is_refused(tmp_path, tiny_llama):
    def sealed(name: str, kind: str) -> Path:
        with create_artifact(tmp_path / name, kind, {"template": name}) as draft:
            for file in tiny_llama.iterdir():
                shutil.copy(file, draft.path)
        return tmp_path / name

    positions = [lambda t, n=n: t | {POSITIONS: torch.arange(5) + n} for n in range(2)]
    integers = [variant(tiny_llama, tmp_path / str(n), positions[n]) for n in range(2)]
    for models, fault in (
        (integers, f"{POSITIONS} of type I64 has other values"),
        ([sealed("one", "sft"), sealed("two", "sft")], "tuned with different templates"),
        ([tiny_llama, sealed("moe", "moe")], "is of kind moe, not base or sft or dense or soup"),
    ):
        with pytest.raises(UserError, match=fault):
            average(tmp_path / "out", *models)
