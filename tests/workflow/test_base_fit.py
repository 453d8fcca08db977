"""What a config asks of its base model, told before anything runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from problem_files import three_problems, write_problems

from xft.common.errors import UserError
from xft.config.validation import complete
from xft.dag.input_checks import check_files

# What the Snakefile does when it is read: a config as JSON, then what it must not have imported.
PARSE = """
import json, sys
from xft.config.validation import complete
from xft.dag.input_checks import check_files
from xft.common.errors import UserError
config = complete(json.loads(sys.argv[1]))
try:
    check_files(config)
except UserError as error:
    print(error)
print(sorted({"torch", "transformers", "pandas", "datasets"} & sys.modules.keys()))
"""


@pytest.fixture
def config(tiny_llama, tmp_path, monkeypatch) -> dict:
    """A config of a base whose window is 256 tokens, which it fits, with files that are there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, "base")
    Path("rows.jsonl").touch()
    write_problems(Path("problems.jsonl"), three_problems())
    return {
        "base": {"model": "base"},
        "data": {"train": "rows.jsonl", "max_length": 256},
        "evaluation": {"datasets": ["problems.jsonl"], "max_new_tokens": 255},
    }


def fault(config: dict) -> str:
    with pytest.raises(UserError) as caught:
        check_files(complete(config))
    return str(caught.value)


def change_base(file: str, **changes) -> None:
    path = Path("base", file)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_text_must_fit_the_window(config):
    check_files(complete(config))
    config["data"]["max_length"] = 257
    assert fault(config).startswith(
        "config: data.max_length = 257: base takes texts of at most 256 tokens, by its config.json"
    )
    change_base("config.json", max_position_embeddings=257)
    check_files(complete(config))


def test_what_is_written_must_leave_room_for_the_prompt(config):
    config["evaluation"]["max_new_tokens"] = 256
    assert "config: evaluation.max_new_tokens = 256: base takes texts of at most 256" in fault(
        config
    )
    change_base("config.json", sliding_window=64)
    check_files(complete(config))


@pytest.mark.parametrize("key", ["data.template", "evaluation.base_prompt"])
def test_a_chat_needs_a_chat_template(config, key):
    section, name = key.split(".")
    config[section][name] = "chat"
    assert f"config: {key} = chat: base has no chat template" in fault(config)
    Path("base/chat_template.jinja").write_text("{{ messages[0].content }}")
    check_files(complete(config))


def test_a_token_that_the_model_has_not_is_told(config):
    (Path("base") / "added_tokens.json").write_text('{"<new>": 300}')
    assert "config: base.model: base: the token '<new>' has the id 300, but" in fault(config)


def test_a_layer_that_the_model_has_not_is_told(config):
    config["moe"] = {"upcycled_layers": [0, 1]}
    check_files(complete(config))
    config["moe"]["upcycled_layers"] = [1, 2, 5]
    assert fault(config) == (
        "config: moe.upcycled_layers names 2, 5: base has layers 0 to 1, by its config.json"
    )


def test_a_tokenizer_without_eos_is_told(config):
    change_base("tokenizer_config.json", eos_token=None)
    assert "config: base.model: the tokenizer of base has no EOS token. Each" in fault(config)
    Path("base/special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    check_files(complete(config))


def test_a_folder_that_is_no_model_is_left_to_its_step(config):
    shutil.rmtree("base")
    Path("base").mkdir()
    check_files(complete(config))


def parse(config: dict, repository: Path) -> str:
    """What a new process says of a config."""
    return subprocess.run(
        [sys.executable, "-c", PARSE, json.dumps(config)],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_nothing_heavy_is_imported(config, repository):
    config["data"]["template"] = "chat"
    Path("base/chat_template.jinja").write_text("{{ messages[0].content }}")
    assert parse(config, repository) == "[]\n"


def test_a_model_in_the_hubs_cache_is_looked_at_without_network(
    config, hub, run_step, repository, tmp_path
):
    files = {path.name: path.read_bytes() for path in Path("base").iterdir()}
    revision = hub.add("org/name", files)
    config["base"] = {"model": "org/name", "revision": revision}
    config["data"] |= {"template": "chat"}
    assert parse(config, repository) == "[]\n"  # nothing is known of it yet
    assert not hub.requests
    words = ["--model", "org/name", "--revision", revision, "--out", tmp_path / "out"]
    assert run_step("base", *words).returncode == 0
    hub.requests.clear()
    assert "config: data.template = chat: org/name has no chat template" in parse(
        config, repository
    )
    config["data"] |= {"template": "magicoder", "max_length": 257}
    assert "data.max_length = 257: org/name takes texts of at most 256" in parse(config, repository)
    assert not hub.requests
    shutil.rmtree(tmp_path / "out")
    for link in tmp_path.rglob("snapshots/*/tokenizer*"):
        link.unlink()  # as when the fetch was cut off
    config["data"] |= {"template": "chat", "max_length": 256}
    assert parse(config, repository) == "[]\n"


def test_the_ranks_of_low_rank_products_must_fit_the_matrices(config):
    config |= {"moe": {"experts": "lora", "rank": 32}, "sft": {"lora_rank": 32}}
    check_files(complete(config))
    config["sft"]["lora_rank"] = 33
    assert fault(config).startswith("config: sft.lora_rank = 33: the matrices of base have at most")
    config["moe"]["rank"] = 33
    assert fault(config).startswith("config: moe.rank = 33: the matrices of base have at most rank")
