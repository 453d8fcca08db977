"""Model cards, and what else travels from the base to the mixtures and the merged model."""

import json
import re
import shutil
from pathlib import Path

import pytest
from chains import Chain
from trainings import identity
from transformers import AutoTokenizer

from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import hash_file, manifest_path, short
from xft.reporting.cards import imported_card

REVISION = "0123456789" * 4
TRAVELLERS = {
    "LICENSE": "the licence",
    "LICENSE-MODEL": "the model's licence",
    "NOTICE.txt": "a notice",
    "USE_POLICY.md": "a policy",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tools.jinja": "{{ tools }}",
}
MODELS = ("moe", "moe_sft", "dense")


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_llama) -> Path:
    """A model with licences and a chat template, and a card that is not ours."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("given") / "model")
    (folder / "additional_chat_templates").mkdir()
    for name, text in TRAVELLERS.items():
        (folder / name).write_text(text)
    (folder / "README.md").write_text("the base's card")
    return folder


def make(results: Path, source: tuple[str, ...] = (), **given: Path) -> Path:
    """All artifacts from the base to the dense model, after one step of tuning."""
    rows = results / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "add", "response": "a + b"}) + "\n")
    options = {
        "base": source,
        "moe": ["--num-experts", "4", "--num-experts-per-tok", "2", "--seed", "5"],
        "moe_sft": ["--max-steps", "1", "--learning-rate", "0.001"],
        "weighted_init": ["--lam", "0.65"],
    }
    return Chain(results, options, data=rows, **given)["dense"].parent


@pytest.fixture(scope="module")
def local(tmp_path_factory, model) -> Path:
    """Results from a model folder."""
    return make(tmp_path_factory.mktemp("local"), ["--model", str(model)])


@pytest.fixture(scope="module")
def hub(tmp_path_factory, model) -> Path:
    """Results from a model on the hub, which its manifest names."""
    folder = tmp_path_factory.mktemp("from_hub")
    source = {"model": "org/name", "revision": REVISION}
    with create_artifact(folder / "base", "base", source) as draft:
        shutil.copytree(model, draft.path, dirs_exist_ok=True)
    return make(folder, base=folder / "base")


def card(results: Path, name: str) -> str:
    return (results / name / "README.md").read_text()


# Of each card what it says, as regular expressions; the file of rows is known only later.
CARDS = {
    "moe": [
        r"It computes what the base computes",
        r"- upcycling: (?!.*(upcycled_layers|init)).*num_experts 4, num_experts_per_tok 2.*seed 5, "
        r"shared_expert true\n(?!- tuning)",
    ],
    "moe_sft": [
        r"- tuning: .*learning_rate 0\.001, .*max_steps 1, .*\n- instructions: .* `{rows}`\n"
    ],
    "dense": [
        r"- lambda, the shared expert's weight: 0\.65\n",
        r"- mixing coefficients: one set per layer, equal shares\n",
        r"- tuning of the mixture: .*learning_rate 0\.001, .*max_steps 1, ",
        r"\| layer 1 \| 0\.6500 \| 0\.3333 \| 0\.3333 \| 0\.3333 \|\n",
    ],
}


@pytest.mark.parametrize("name", MODELS)
def test_cards_licences_and_templates_travel(local, hub, model, name):
    """A base on the hub is named with its revision, another one by its architecture and id."""
    assert {file: (local / name / file).read_text() for file in TRAVELLERS} == TRAVELLERS
    templates = AutoTokenizer.from_pretrained(local / name).chat_template
    assert templates == {"default": "{{ messages }}", "tools": "{{ tools }}"}
    text = card(local, name)
    for said in CARDS[name]:
        assert re.search(said.replace("{rows}", hash_file(local / "rows.jsonl")), text)
    assert "base_model" not in text
    assert f"- base: a LlamaForCausalLM, artifact {short(identity(local / 'base'))}\n" in text
    on_hub = card(hub, name)
    assert on_hub.startswith("---\nlibrary_name: transformers\nbase_model: org/name\ntags: [")
    assert f"- base: [org/name](https://huggingface.co/org/name), {REVISION}\n" in on_hub
    stated = manifest_path(local / "base").read_text()
    for said in (text, on_hub, stated):  # no places and no times
        assert not any(str(path) in said for path in (local, hub, model.parent, Path.home()))
        assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", said)


def test_a_card_names_a_beginning_that_is_no_copy(tmp_path, local):
    drop = ["--num-experts", "3", "--num-experts-per-tok", "2", "--init", "drop"]
    text = (Chain(tmp_path, {"moe": drop}, base=local / "base")["moe"] / "README.md").read_text()
    upcycling = re.search("- upcycling: .*", text)[0]
    assert 'init "drop", init_drop 0.5, ' in upcycling and "init_noise" not in upcycling
    assert "It does not compute what the base computes" in text


@pytest.mark.parametrize("name", ["moe", "moe_sft"])
def test_a_mixture_loads_as_its_card_says(local, name):
    code = re.search(r"```python\n(.*?)```", card(local, name), re.DOTALL)[1]
    known: dict = {}
    exec(code.replace("this/folder", str(local / name)), known)
    assert type(known["model"]).__name__ == "XftLlamaForCausalLM"


def test_an_imported_mixture_has_a_card_of_what_is_known(local):
    text = imported_card(json.loads((local / "moe" / "config.json").read_text()))
    assert "published code" in text and "- base: a LlamaForCausalLM\n" in text
