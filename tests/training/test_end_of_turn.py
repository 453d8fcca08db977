"""Models that were tuned on conversations stop at the end of a turn, in plain transformers."""

import json
import shutil
from pathlib import Path

import pytest
from chains import Chain
from trainings import write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from workflow_scripts import soup
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.data.prompt_templates import make_template
from xft.data.tokenizers import GENERATION_CONFIG, tuned_generation_config
from xft.evaluation.generation import generate
from xft.evaluation.model_loading import load_model
from xft.evaluation.prompts import TaskPrompt

pytestmark = pytest.mark.numeric

END = "<|im_end|>"
EOS, END_ID = 1, 292
CHATML = Path(__file__).with_name("end_of_turn.jinja").read_text()
QUESTION, ANSWER = "Add 2 to x.", "x + 2"
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
TUNING = ["--max-steps", 40, "--learning-rate", 0.01, "--warmup-steps", 0, "--template", "chat"]


def plainly_written(folder: Path) -> str:
    """What plain transformers writes after the question."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    prompt = tokenizer.apply_chat_template(TURNS[:1], **options)
    written = model.generate(**prompt, do_sample=False, max_new_tokens=60)[0]
    return tokenizer.decode(written[prompt["input_ids"].shape[1] :])


@pytest.fixture(scope="module")
def chain(tiny_llama, tmp_path_factory) -> Chain:
    """Its base has a chat template, and a token of its own at the end of a turn."""
    root = tmp_path_factory.mktemp("chain")
    base = shutil.copytree(tiny_llama, root / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"additional_special_tokens": [END]})
    assert (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)) == (EOS, END_ID)
    tokenizer.chat_template = CHATML
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(base), model.save_pretrained(base)
    options = dict.fromkeys(["sft", "moe_sft"], TUNING)
    return Chain(root, options, base=base, data=write_rows(root, [{"messages": TURNS}]))


@pytest.mark.parametrize("name", ["dense", "soup"])
def test_a_tuned_model_stops_at_the_end_of_a_turn(chain, tmp_path, name):
    folder = tmp_path / "soup" if name == "soup" else chain[name]
    if name == "soup":
        soup.main(["--models", *[str(chain["sft"])] * 2, "--out", str(folder)])
    assert plainly_written(folder) == ANSWER + END
    assert f'end_of_turn "{END}"' in (folder / "README.md").read_text()
    stated = read_manifest(manifest_path(folder)).parameters
    assert stated["end_of_turn"] == END
    files = (place / GENERATION_CONFIG for place in (folder, chain["base"]))
    settings, base = (json.loads(file.read_text()) for file in files)
    assert (base.pop("eos_token_id"), settings.pop("eos_token_id")) == (EOS, [EOS, END_ID])
    assert settings.items() <= base.items()


def test_the_end_of_a_turn_is_added_to_what_the_base_states(chain, tmp_path):
    """Without a generation config, in its config.json, or in what a mixture keeps of it."""
    tokenizer = AutoTokenizer.from_pretrained(chain["base"])
    template = make_template("chat", tokenizer)
    config = json.loads((chain["base"] / "config.json").read_text())
    expected = {"bos_token_id": 0, "pad_token_id": 2, "eos_token_id": [EOS, END_ID]}
    for stated in (config, {"base_config": config}):
        made = tuned_generation_config(tmp_path, stated, tokenizer, template)
        assert expected.items() <= made.items()
    others = CHATML.replace(END, "</s>"), CHATML.replace(END, ""), None
    for jinja, eos, expected in (
        *((CHATML, EOS, [EOS, END_ID]), (CHATML, [5, EOS], [5, EOS, END_ID])),
        *((CHATML, [EOS, END_ID], None), *((other, EOS, None) for other in others)),
    ):
        tokenizer.chat_template = jinja
        template = make_template("chat" if jinja else "magicoder", tokenizer)
        settings = {"_from_model_config": True, "top_p": 0.8, "eos_token_id": eos}
        (tmp_path / GENERATION_CONFIG).write_text(json.dumps(settings))
        made = tuned_generation_config(tmp_path, {}, tokenizer, template)
        assert made == (expected and {"top_p": 0.8, "eos_token_id": expected})


def test_an_evaluation_by_chat_stops_there_whatever_the_model_states(chain, tmp_path):
    """As for an instruct model whose generation config lacks the end of a turn."""
    folder = shutil.copytree(chain["sft"], tmp_path / "model")
    shutil.copy(chain["base"] / GENERATION_CONFIG, folder)
    model, tokenizer = load_model(folder, threads=1)
    prompt = TaskPrompt("T/0", QUESTION, "", ("\0",), make_template("chat", tokenizer))
    ((_, completion),) = generate(model, tokenizer, [prompt], max_new_tokens=60, batch_size=1)
    assert (completion.text, completion.finish) == (ANSWER, "eos")
