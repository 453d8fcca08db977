"""Model cards, and what else travels from the base to the mixtures and the merged model."""

import re
import shutil
from pathlib import Path

import pytest
from chains import Chain, run_here
from huggingface_hub import ModelCard
from mixtures import init_example, merge_example
from trainings import write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

import xft
from xft.artifacts.manifest import hash_file, manifest_path, read_manifest, short, write_manifest

REVISION = "0123456789" * 4
TRAVELLERS = {"LICENSE": "the licence", "LICENSE-MODEL": "the model's", "NOTICE.txt": "a notice"}
TRAVELLERS |= {"USE_POLICY.md": "a policy", "chat_template.jinja": "{{ messages }}"}
TRAVELLERS["additional_chat_templates/tools.jinja"] = "{{ tools }}"
MODELS = ("moe", "moe_sft", "dense")


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_llama) -> Path:
    """A model with licences and a chat template, and a card that is not ours."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("given") / "model")
    (folder / "additional_chat_templates").mkdir()
    for name, text in TRAVELLERS.items():
        (folder / name).write_text(text)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, model) -> Path:
    """All artifacts from a base on the hub to the dense model, after one step of tuning."""
    results, cache = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("hub")
    rows = write_rows(results, [{"instruction": "add", "response": "a + b"}])
    write_manifest(rows, "data", {"datasets": ["org/rows"]})
    shutil.copytree(model, cache / "models--org--name" / "snapshots" / REVISION)
    moe = ["--num-experts", "4", "--num-experts-per-tok", "2", "--seed", "5"]
    options = {"base": ["--model", "org/name", "--revision", REVISION], "moe": moe}
    options["moe_sft"] = ["--max-steps", "1", "--learning-rate", "0.001"]
    options["weighted_init"] = ["--lam", "0.65"]
    tokens = results / "tokens"
    words = ["--model", model, "--data", rows, "--problems", "", "--out", tokens]
    run_here("tokens", words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        return Chain(results, options, data=tokens)["dense"].parent


def card(results: Path, name: str) -> str:
    return (results / name / "README.md").read_text()


PROMPT = r"\n## Prompt\n\n    You are an .*\n\n    @@ Instruction\n    {instruction}\n"
# Of each card what it says, as regular expressions; the file of rows is known only later.
CARDS = {
    "moe": [
        r"It computes what the base computes",
        r"- upcycling: (?!.*(upcycled_layers|init)).*num_experts 4, num_experts_per_tok 2.*seed 5, "
        r"shared_expert true\n(?!- tuning)",
    ],
    "moe_sft": [
        r"- tuning: (?!.*num_train_epochs).*learning_rate 0\.001, .*max_steps 1, .*\n"
        r"- instructions: .* `{rows}`\n",
        PROMPT,
    ],
    "dense": [
        r"- lambda, the shared expert's weight: 0\.65\n",
        r"- mixing coefficients: one set per layer, equal shares\n",
        r"- tuning of the mixture: .*learning_rate 0\.001, .*max_steps 1, .*\n"
        r"- instructions: .* `{rows}`\n",
        PROMPT,
        r"\| layer 1 \| 0\.6500 \| 0\.3333 \| 0\.3333 \| 0\.3333 \|\n",
    ],
}


def without_places_and_times(text: str, *places: Path) -> bool:
    found = re.search(r"20\d\d-\d\d|\d\d:\d\d", text)
    return not found and not any(str(path) in text for path in (*places, Path.home()))


@pytest.mark.parametrize("name", MODELS)
def test_cards_licences_and_templates_travel(made, model, name):
    """A base on the hub is named with its revision, and a data set from there."""
    assert {file: (made / name / file).read_text() for file in TRAVELLERS} == TRAVELLERS
    templates = AutoTokenizer.from_pretrained(made / name).chat_template
    assert templates == {"default": "{{ messages }}", "tools": "{{ tools }}"}
    text = card(made, name)
    for said in CARDS[name]:
        assert re.search(said.replace("{rows}", hash_file(made / "rows.jsonl")), text)
    facts = {"base_model": "org/name", "license": "mit", "pipeline_tag": "text-generation"}
    facts |= {} if name == "moe" else {"datasets": ["org/rows"]}
    stated = ModelCard(text).data.to_dict()
    assert stated == facts | {"library_name": "transformers", "tags": ["code", "xft"]}
    assert f"- base: [org/name](https://huggingface.co/org/name), {REVISION}\n" in text
    assert without_places_and_times(text, made, model.parent)


def test_a_card_names_a_beginning_that_is_no_copy_and_a_base_by_its_id(tmp_path, model):
    options = {"base": ["--model", str(model)]}
    options["moe"] = ["--num-experts", "3", "--num-experts-per-tok", "2"]
    options["moe"] += ["--init", init_example("drop")]
    text = card(Chain(tmp_path, options)["moe"].parent, "moe")
    upcycling = re.search("- upcycling: .*", text)[0]
    assert 'init "drop.py:drop", ' in upcycling
    assert "It does not compute what the base computes" in text
    manifest = manifest_path(tmp_path / "base")
    identity = short(read_manifest(manifest).id)
    assert "base_model" not in text and f"- base: a LlamaForCausalLM, artifact {identity}\n" in text
    for said in (text, manifest.read_text()):
        assert without_places_and_times(said, tmp_path, model.parent)


@pytest.mark.parametrize("name", ["moe", "moe_sft"])
def test_a_mixture_loads_as_its_card_says(made, name):
    code = re.search(r"```python\n(.*?)```", card(made, name), re.DOTALL)[1]
    known: dict = {}
    exec(code.replace("this/folder", str(made / name)), known)
    assert type(known["model"]).__name__ == "XftLlamaForCausalLM"


def test_the_library_saves_a_card_of_what_is_known(made, model, tmp_path):
    """By the card in the folder that a model came from, or by its name on the hub."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    base, named, mixture = map(AutoModelForCausalLM.from_pretrained, (model, model, made / "moe"))
    named.config._name_or_path = "org/other"
    mixtures = (xft.upcycle(base), None, "mit"), (xft.upcycle(named), "org/other", None)
    for saved, *facts in (*mixtures, (xft.merge(mixture), "org/name", "mit")):
        xft.save(saved, tokenizer, tmp_path)
        stated = ModelCard.load(tmp_path / "README.md").data
        assert [stated.base_model, stated.license] == facts
        assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_the_librarys_card_says_how_a_model_was_made(made, model, tmp_path):
    """By the names of its arguments, which give the same model again."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model)
    base.config._name_or_path = str(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    mixture = xft.upcycle(base, num_experts=3, num_experts_per_tok=2, seed=7)
    loaded = AutoModelForCausalLM.from_pretrained(made / "moe")

    def lines(saved) -> dict[str, str]:
        xft.save(saved, tokenizer, tmp_path / "out")
        text = (tmp_path / "out/README.md").read_text()
        assert without_places_and_times(text, tmp_path, model.parent)
        return dict(re.findall(r"^- ([\w. ]+): (.*)$", text, re.MULTILINE))

    of_mixture = lines(mixture)
    assert of_mixture["made from"] == "a LlamaForCausalLM in the folder `mine`"
    names = ["num_experts", "num_experts_per_tok", "init", "upcycle.seed"]
    assert [of_mixture[name] for name in names] == ["3", "2", "copy", "7"]
    merged = lines(xft.merge(mixture, lam=0.6))
    assert of_mixture.items() <= merged.items()
    assert (merged["merge.lam"], merged["merge.method"]) == ("0.6", "xft")
    learned = lines(xft.merge(mixture, coefficients=xft.Mixing(mixture, 0.7).coefficients))
    assert learned["merge.coefficients"] == "0.7, 0.15, 0.15 (means)"

    def first(tensors, coefficients, base):
        return tensors[0]

    for method, shown in ((merge_example("ties"), "ties.py:ties"), (first, "first")):
        assert lines(xft.merge(mixture, base=base, method=method))["merge.method"] == shown
    assert lines(xft.soup([base, base]))["soup.models"] == "2"
    assert lines(loaded)["num_experts"] == str(loaded.config.num_experts)
