"""Generation by vLLM: the same as by transformers, resumed as there, refused where it cannot be.

Where vLLM is not installed, tests/stand_ins/vllm stands in for it.
"""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from damage import change_json
from evaluations import completions

from workflow_scripts import eval as step
from xft.common import optional
from xft.common.errors import UserError
from xft.data.prompt_templates import COMPLETION, TextTemplate, make_template
from xft.data.tokenizers import load_tokenizer
from xft.evaluation import vllm_backend
from xft.evaluation.forms import load_problems
from xft.evaluation.generation import Completion, Sampling
from xft.evaluation.prompts import task_prompts

generate_with_vllm = partial(completions, write=vllm_backend.write_rows)
STAND_INS = Path(__file__).parents[1] / "stand_ins"
RESOURCES = Path(__file__).parents[2] / "resources"
BASE = RESOURCES / "base"
PROBLEMS = RESOURCES / "problems.jsonl"
PROMPTS = task_prompts(load_problems(str(PROBLEMS)).first(8), make_template("magicoder", None))


@pytest.fixture
def vllm(monkeypatch):
    """vLLM, or its stand-in. On a CPU vLLM would take nearly all memory for its cache."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    for name in vllm_backend.ENVIRONMENT:
        monkeypatch.setenv(name, vllm_backend.ENVIRONMENT[name])
    if optional.installed("vllm"):
        yield
        return
    monkeypatch.syspath_prepend(STAND_INS)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


def evaluate(out, *flags, model=BASE):
    paths = ["--model", model, "--dataset", PROBLEMS, "--out", out]
    settings = ["--max-new-tokens", 24, "--limit", 4, "--batch-size", 3, "--sandbox", "none"]
    step.main([str(word) for word in (*paths, *settings, *flags)])


def content(result: Path) -> tuple[dict, list[dict]]:
    """A result and its generations, without what says by what they were made."""
    whole = json.loads(result.read_text())
    for key in ("backend", "threads", "batch_size"):
        del whole["settings"][key]
    whole["versions"] = {k: v for k, v in whole["versions"].items() if "vllm" not in k}
    lines = result.with_suffix(".generations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return whole, [{key: row[key] for key in row if key != "origin"} for row in rows]


@pytest.mark.parametrize(("limit", "prompt"), [(24, "magicoder"), (8, "completion")])
def test_it_writes_what_transformers_writes(vllm, tmp_path, limit, prompt):
    flags = ["--max-new-tokens", limit, "--prompt", prompt, "--precision", "fp32"]
    evaluate(tmp_path / "plain.json", *flags, "--batch-size", 1)
    evaluate(tmp_path / "vllm.json", "--backend", "vllm", *flags)

    assert content(tmp_path / "vllm.json") == content(tmp_path / "plain.json")
    result = json.loads((tmp_path / "vllm.json").read_text())
    assert result["settings"]["backend"] == "vllm"
    assert result["settings"]["threads"] is None
    (package,) = optional.installed("vllm")
    assert result["versions"].keys() >= {package, "torch", "transformers"}
    ends = {row["finish"] for row in result["problems"]}
    assert ("stop" if limit == 24 else "length") in ends
    assert limit < 24 or result["passed"]["plus"] > 0


def test_draws_come_from_the_seeds_alone(vllm):
    loaded = vllm_backend.load_model(BASE, threads=None)
    prompts = PROMPTS[:2] * 4

    def written(batch_size: int, first: int) -> list[str]:
        sampling = Sampling(temperature=2.0, top_p=1.0, seeds=range(first, first + 8))
        options = {"max_new_tokens": 6, "batch_size": batch_size, "sampling": sampling}
        return [c.text for c in generate_with_vllm(*loaded, prompts, **options)]

    drawn = written(4, 0)
    assert written(1, 0) == drawn
    assert len(set(drawn)) > 5
    assert written(4, 100) != drawn
    likeliest = Sampling(temperature=1.0, top_p=1e-6, seeds=range(8))
    options = {"max_new_tokens": 4, "batch_size": 4}
    assert generate_with_vllm(*loaded, [], **options, sampling=likeliest) == []
    greedy = generate_with_vllm(*loaded, prompts, **options)
    assert generate_with_vllm(*loaded, prompts, **options, sampling=likeliest) == greedy


def test_no_two_draws_of_a_text_or_of_two_come_from_one_seed(vllm, monkeypatch):
    """Else the healed first token would decide how the text goes on."""
    request, seeds = vllm_backend._request, []

    def noted(*about, seed: int, **parameters) -> None:
        seeds.append(seed)
        request(*about, seed=seed, **parameters)

    monkeypatch.setattr(vllm_backend, "_request", noted)
    loaded = vllm_backend.load_model(BASE, threads=None)
    prompts = task_prompts(load_problems(str(PROBLEMS)).first(2), COMPLETION)
    sampling = Sampling(temperature=1.0, top_p=1.0, seeds=[10, 20])
    options = {"max_new_tokens": 2, "batch_size": 2, "token_healing": True}
    generate_with_vllm(*loaded, prompts, **options, sampling=sampling)
    assert len(seeds) == len({*seeds}) == 4


def test_only_the_ends_of_the_model_and_of_a_turn_end_a_text(vllm, tmp_path, monkeypatch):
    """Those of generation_config.json, and not the tokenizer's or config.json's."""
    prompt = replace(PROMPTS[0], stops=("\x00never",))

    def written(*ends: int) -> Completion:
        folder = tmp_path / "_".join(map(str, ends))
        shutil.copytree(BASE, folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(ends)}))
        loaded = vllm_backend.load_model(folder, threads=None)
        return generate_with_vllm(*loaded, [prompt], max_new_tokens=40, batch_size=1)[0]

    own, endless = written(1), written(2)
    assert (own.finish, endless.finish) == ("eos", "length")
    assert endless.text.startswith(own.text) and len(endless.text) > len(own.text)
    tokenizer = load_tokenizer(BASE)
    third = tokenizer(own.text, add_special_tokens=False)["input_ids"][2]
    shorter = written(1, third)
    assert shorter.finish == "eos"
    assert own.text.startswith(shorter.text) and 0 < len(shorter.text) < len(own.text)
    monkeypatch.setattr(TextTemplate, "end_of_turn", tokenizer.convert_ids_to_tokens(third))
    assert written(1, 2) == shorter


def test_the_last_token_of_a_prompt_is_chosen_again(vllm, monkeypatch):
    """Each prompt ends with a newline, and the model knows tokens that go on with blanks."""
    model, tokenizer = vllm_backend.load_model(BASE, threads=None)
    prompts = task_prompts(load_problems(str(PROBLEMS)).first(4), COMPLETION)
    options = {"max_new_tokens": 12, "batch_size": 4}

    def written(**more) -> list[Completion]:
        return generate_with_vllm(model, tokenizer, prompts, **options, **more)

    assert written(token_healing=True) != written()
    monkeypatch.setattr(vllm_backend, "MOST_ALLOWED", 1)
    assert written(token_healing=True) == written()


def test_a_model_that_cannot_be_loaded_is_named(vllm, tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "model")
    for changes, message in (
        ({"model_type": "no such type"}, "^/.*model"),
        ({"base_config": {}}, r"model is a mixture of experts .* --backend transformers"),
    ):
        change_json(folder / "config.json", **changes)
        with pytest.raises(UserError, match=message):
            evaluate(tmp_path / "r.json", "--backend", "vllm", model=folder)
