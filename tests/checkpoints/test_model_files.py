"""What a model's files say: its window, its tokens against its embedding, its chat template."""

import pytest
import torch
from damage import change_json
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from workflow_scripts import base
from xft.checkpoints.model_files import check_vocabulary, embedding_size, highest_token, window
from xft.common.errors import UserError
from xft.data.tokenizers import has_chat_template

TALK = "{{ messages[0].content }}"
LONG_ROPE = {"rope_type": "yarn", "factor": 4.0}


def test_a_window_is_known_where_nothing_stretches_it():
    for config, expected in (
        ({"max_position_embeddings": 256}, 256),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"max_position_embeddings": 256, "sliding_window": 64}, None),
        ({"max_position_embeddings": 256, "rope_scaling": {"type": "linear", "factor": 4}}, None),
        ({"max_position_embeddings": 256, "rope_parameters": {"full_attention": LONG_ROPE}}, None),
        ({}, None),
    ):
        assert window(config) == expected


@pytest.mark.parametrize("added", [[], ["<new>", "<other>"]])
def test_the_highest_token_is_that_of_the_tokenizer(tmp_path, added):
    kind = models.BPE({"a": 0, "b": 1, "merges": 2, "ab": 9}, [("a", "b")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(kind))
    tokenizer.add_tokens(added)
    tokenizer.save_pretrained(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    name = max(ids, key=ids.get)
    assert highest_token(tmp_path) == (name, ids[name])


def test_a_tokenizer_is_unknown_or_cannot_be_read(tmp_path):
    assert highest_token(tmp_path) is None
    check_vocabulary(tmp_path)
    for content in ('{"model": ', "[]"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
            highest_token(tmp_path)


def test_rows_are_those_of_the_weights_or_of_the_config(model):
    loaded = AutoModelForCausalLM.from_pretrained(model)
    (model / "model.safetensors").unlink()
    change_json(model / "config.json", vocab_size=7)
    assert embedding_size(model) == 7
    loaded.save_pretrained(model, max_shard_size="20KB")
    change_json(model / "config.json", vocab_size=7)
    assert embedding_size(model) == loaded.get_input_embeddings().num_embeddings


def test_a_token_beyond_the_embedding_is_refused_as_the_model_fails_on_it(model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = len(tokenizer)
    check_vocabulary(model)
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    tokenizer.save_pretrained(model)
    with pytest.raises(IndexError):
        AutoModelForCausalLM.from_pretrained(model)(torch.tensor([[tokenizer.pad_token_id]]))
    with pytest.raises(UserError, match=f"'<new pad>' has the id {rows}.* embedding has {rows} r"):
        check_vocabulary(model)
    with pytest.raises(UserError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        base.main(["--model", str(model), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_token_for_pictures_is_no_token_of_text(model):
    """Gemma 3 has one beyond its embedding."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([AddedToken("<picture>", special=True)])
    tokenizer.save_pretrained(model)
    with pytest.raises(UserError, match="'<picture>'"):
        check_vocabulary(model)
    change_json(model / "tokenizer_config.json", image_token="<picture>")
    check_vocabulary(model)


NAMED = [{"name": name, "template": TALK} for name in ("default", "rag")]


FILES = "chat_template.jinja", *(f"additional_chat_templates/{n}.jinja" for n in ("default", "rag"))
PLACES = [(None, file) for file in (None, *FILES)]
PLACES += [(key, None) for key in (TALK, NAMED, NAMED[1:], "")]


@pytest.mark.parametrize(("key", "file"), PLACES)
def test_a_chat_template_is_there_where_transformers_finds_one(model, key, file):
    change_json(model / "tokenizer_config.json", **({} if key is None else {"chat_template": key}))
    if file:
        (model / file).parent.mkdir(exist_ok=True)
        (model / file).write_text(TALK)
    try:
        found = bool(AutoTokenizer.from_pretrained(model).get_chat_template())
    except ValueError:
        found = False
    assert has_chat_template(model) is found
