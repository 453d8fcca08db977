"""How far experts have moved apart: against fp64, in plain torch."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from chains import Chain
from damage import change_tensors
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import xft
from workflow_scripts import diversity
from xft.artifacts.manifest import DIVERSITY, hash_file, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.tools import verify

SINGLE = "model.safetensors"
LAYERS = [0, 1]


@pytest.fixture(scope="module")
def untrained(tiny_llama, tmp_path_factory) -> Chain:
    return Chain(tmp_path_factory.mktemp("untrained"), {"base": ["--model", tiny_llama]})


def measure(chain: Chain, out: Path, *words: object) -> dict:
    given = ["--base", chain["base"], "--ffn", chain["ffn"], "--out", out]
    diversity.main([str(word) for word in [*given, *words]])
    return json.loads(out.read_text())


def vectors(chain: Chain, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All weights of each expert of a layer [E, n], and those of the base's MLP [n], in fp64."""
    made, given = (load_file(chain[name] / SINGLE) for name in ("ffn", "base"))
    prefix, names = f"model.layers.{layer}.mlp", ("gate_proj", "up_proj", "down_proj")

    def joined(tensors) -> torch.Tensor:
        return torch.cat([tensor.double().flatten() for tensor in tensors])

    base = joined(given[f"{prefix}.{name}.weight"] for name in names)
    shared = joined(made[f"{prefix}.shared_expert.{name}.weight"] for name in names)
    fused = [made[f"{prefix}.experts.{name}"] for name in ("gate_up_proj", "down_proj")]
    return torch.stack([shared, *map(joined, zip(*fused, strict=True))]), base


def expected(experts: torch.Tensor, base: torch.Tensor) -> dict[str, float]:
    mean = experts.mean(dim=0)
    apart = (experts - mean).norm(dim=1).square().mean().sqrt()
    moved = (mean - base).norm()
    named = {"spread": apart / moved, "deviation": apart / base.norm()}
    named["shift"] = moved / base.norm()
    return {name: value.item() for name, value in named.items()}


def test_the_values_are_their_equations(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr("xft.conversions.merged_tensors.STACK_BLOCK", 100)

    def tune(tensors: dict) -> dict:
        moved = {n: t + 0.1 + 0.05 * torch.randn(t.shape) for n, t in tensors.items()}
        return tensors | {name: moved[name] for name in moved if "expert" in name}

    tuned = change_tensors(shutil.copytree(untrained["moe"], tmp_path / "tuned"), tune)
    chain = Chain(tmp_path, moe_sft=tuned, base=untrained["base"])
    result = measure(chain, tmp_path / "out.json")
    parts = [vectors(chain, layer) for layer in LAYERS]
    whole = [torch.cat(own, dim=-1) for own in zip(*parts, strict=True)]
    names = expected(*whole).keys()
    assert {name: result[name] for name in names} == pytest.approx(expected(*whole), rel=1e-5)
    assert result["experts"] == 4
    for layer, own in zip(LAYERS, parts, strict=True):
        found = dict(result["layers"][layer])
        assert found.pop("layer") == layer
        assert found == pytest.approx(expected(*own), rel=1e-5)
    models = (AutoModelForCausalLM.from_pretrained(chain[name]) for name in ("moe_sft", "base"))
    assert xft.diversity(*models).items() <= result.items()


def test_in_an_untrained_mixture_nothing_has_a_spread(untrained, tmp_path, capsys):
    result = measure(untrained, tmp_path / "out.json")
    for values in (result, *result["layers"]):
        assert (values["spread"], values["deviation"], values["shift"]) == (None, 0, 0)
    assert "spread of the experts none, as they did not move\n" in capsys.readouterr().err


def test_the_file_says_what_was_measured(untrained, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("")
    out = tmp_path / "out.json"
    result = measure(untrained, out, "--metrics", metrics)
    ids = {name: read_manifest(manifest_path(untrained[name])).id for name in ("base", "ffn")}
    for name in ids:
        assert result[name] == {"path": str(untrained[name]), "id": ids[name]}
    manifest = read_manifest(manifest_path(out))
    assert manifest.kind == "diversity"
    assert manifest.inputs == ids | {"metrics": hash_file(metrics)}
    assert DIVERSITY.read(out) == result
    verify.main([str(out), "--full"])


# Routers


def line(step: int, entropy: list[float], load: list[list[float]]) -> str:
    return json.dumps({"step": step, "loss": 1.0, "entropy": entropy, "load": load}) + "\n"


def test_the_routers_are_those_of_the_last_steps(untrained, tmp_path):
    early = [line(step, [9.0, 9.0], [[1.0, 0.0], [1.0, 0.0]]) for step in range(5)]
    late = [line(step, [0.6, 0.4], [[0.5, 0.5], [0.75, 0.25]]) for step in range(5, 15)]
    others = '{"step": 14, "validation_loss": 1.0}\n'
    routing = {"entropy": 0.5, "imbalance": 0.25, "steps": 10}
    for text, expected in (("".join([*early, *late, others]), routing), (others, None)):
        metrics = tmp_path / "metrics.jsonl"
        metrics.write_text(text)
        result = measure(untrained, tmp_path / "out.json", "--metrics", metrics)
        assert result["routing"] == expected


def test_a_file_of_no_metrics_is_refused(untrained, tmp_path):
    file = tmp_path / "file"
    file.write_text("loss 2.0\n")
    with pytest.raises(UserError, match=r"file is not a file of metrics"):
        measure(untrained, tmp_path / "out.json", "--metrics", file)
