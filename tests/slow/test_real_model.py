"""The recipe for SmolLM2-135M on the real model and data, in a few steps and problems."""

import json
import shutil
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from xft.config.sections import TokensConfig
from xft.data.preparation import prepare

pytestmark = pytest.mark.slow

SHORT = {
    "data": {"limit": 40},
    "moe_sft": {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 0},
    "mixing": {"max_steps": 2, "per_device_train_batch_size": 2},
    "evaluation": {"limit": 2, "max_new_tokens": 48, "batch_size": 2},
}


@pytest.fixture(scope="module")
def project(repository, new_project):
    shared = repository.parent / "shared"
    if not shared.exists():
        pytest.skip("needs a folder with the real model's maker and data")
    project = new_project("smollm2")
    project.overlay = SHORT
    (project.folder / "models").mkdir()
    subprocess.run(
        [sys.executable, shared / "tools" / "get-smollm2.py", "models/smollm2-135m"],
        cwd=project.folder,
        check=True,
    )
    (project.folder / "data").mkdir()
    rows = shared / "data" / "evol-codealpaca-2k-1.json"
    shutil.copy(rows, project.folder / "data" / "evol-codealpaca.json")
    return project, shared / "data"


def test_the_recipe_runs_through(project, monkeypatch):
    project, data = project
    for name, file in (("HUMANEVAL", "HumanEvalPlus"), ("MBPP", "MbppPlus")):
        monkeypatch.setenv(f"{name}_OVERRIDE_PATH", str(data / f"{file}.jsonl.gz"))
    rules = project.run("--configfile", "recipes/smollm2-135m.yaml")
    assert len(rules) == 17
    results = project.results / "smollm2-135m"
    base, dense = (
        json.loads((results / name / "config.json").read_text())
        for name in ("base", "dense/lam~0.75")
    )
    assert dense == base
    model = AutoModelForCausalLM.from_pretrained(results / "dense" / "lam~0.75")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    score = json.loads((results / "eval" / "dense" / "lam~0.75" / "humaneval.json").read_text())
    assert score["dataset"]["problems"] == 2


def test_conversations_are_marked_as_their_prefixes_are_tokenised(project, tmp_path):
    """The template has no generation marks. Its turns end with <|im_end|> and a line break."""
    project, data = project
    tokenizer = AutoTokenizer.from_pretrained(project.folder / "models" / "smollm2-135m")
    turns = [
        {"role": role, "content": row[column]}
        for row in json.loads((data / "evol-codealpaca-2k-1.json").read_text())[:160]
        for role, column in (("user", "instruction"), ("assistant", "output"))
    ]
    chats = [turns[start : start + 8] for start in range(0, len(turns), 8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    options = TokensConfig(template="chat", max_length=8192)
    examples = prepare(file, tokenizer, options)[0].training
    for example, chat in zip(examples, chats, strict=True):
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        labels = [-100] * len(ids)
        for place in range(1, len(chat), 2):
            prompt = tokenizer.apply_chat_template(
                chat[:place], add_generation_prompt=True, return_dict=False
            )
            whole = tokenizer.apply_chat_template(chat[: place + 1], return_dict=False)
            assert whole[: len(prompt)] == prompt and ids[: len(whole)] == whole
            assert tokenizer.decode(whole[-2:]) == "<|im_end|>\n"
            labels[len(prompt) : len(whole) - 1] = ids[len(prompt) : len(whole) - 1]
        assert (example["input_ids"], example["labels"]) == (ids[:-1], labels[:-1])
