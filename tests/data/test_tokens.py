"""Tokenised rows: what they hold, what was left out, and the trainings that read them."""

import json
import shutil

import numpy as np
import pytest
from chains import Chain
from damage import change_json
from problem_files import three_problems, write_problems
from trainings import ROWS, write_rows

from workflow_scripts import tokens
from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common import system
from xft.common.errors import UserError
from xft.config.sections import TokensConfig
from xft.data import row_files
from xft.data.instruction_rows import Row
from xft.data.preparation import prepare, summary
from xft.data.tokenized_rows import open_tokens
from xft.data.tokenizers import load_tokenizer
from xft.data.unwanted_rows import Detector, Fingerprint

TRAINING = ["--max-steps", "2", "--per-device-train-batch-size", "4", "--learning-rate", "0.01"]


def make(model, rows, out, *flags):
    words = ["--model", model, "--data", rows, "--out", out, *flags]
    tokens.main([str(word) for word in words])
    return out


# What is left out


def test_everything_that_is_left_out_is_reported(tokenizer, tmp_path, monkeypatch, capsys):
    solution = "def f(a, b):\n    return sorted([a, b], reverse=True)[0]"
    near = "word " * 4 + " ".join(f"w{i}" for i in range(40))
    texts = [
        *(("Add 0 to x.", "x"), ("Add 0  to x.\n", "x"), (near, "x"), (near, "x y"), ("none", "")),
        *(("How?", solution), ("long " * 400, "r"), ("Add 1 to x.", "x + 1")),
    ]
    rows = [dict(zip(("instruction", "response"), text, strict=True)) for text in texts]
    file = write_rows(tmp_path, rows)
    options = TokensConfig(bad_rows="skip", deduplicate="near", max_length=300)
    find = Detector([Fingerprint.of("T/9", "solution", solution)]).find
    made, report = prepare([file], tokenizer, options, find)
    assert capsys.readouterr().err.startswith("left out 1 bad row:\n")
    assert made.numbers.tolist() == [1, 3, 8]
    assert report["removed_rows"] == [
        {"row": 2, "reason": "duplicate", "of": 1},
        {"row": 4, "reason": "near duplicate", "of": 3},
        {"row": 5, "reason": "bad", "fault": "column 'response' is empty"},
        {"row": 6, "reason": "contaminated", "problem": "T/9", "match": "solution"}
        | {"text": " ".join(solution.split())},
        {"row": 7, "reason": "prompt fills the window"},
    ]
    assert report["removed"] == {entry["reason"]: 1 for entry in report["removed_rows"]}
    assert (report["rows"], report["training"], report["validation"]) == (8, 3, 0)
    monkeypatch.setattr(system, "FEW", 0)
    monkeypatch.setattr(system, "usable_cpus", lambda: 3)
    shared, same = prepare([file], tokenizer, options, find)
    assert (shared.input_ids[:].tolist(), same) == (made.input_ids[:].tolist(), report)
    exact, _ = prepare([file], tokenizer, TokensConfig(bad_rows="skip", deduplicate="exact"))
    assert exact.numbers.tolist() == [1, 3, 4, 6, 8]
    every, _ = prepare([file], tokenizer, TokensConfig(bad_rows="skip", deduplicate="none"))
    assert every.numbers.tolist() == [1, 2, 3, 4, 6, 8]


def test_cut_rows_are_counted_and_lengths_not_warned_of(model, tmp_path, run_step):
    """The tokenizer's own limit, which transformers warns of, is shorter than the rows."""
    settings = {"model_max_length": 8, "chat_template": "{{ messages[0].content }}\n"}
    change_json(model / "tokenizer_config.json", **settings)
    rows = [{"instruction": f"Say {n}.", "response": "y" * n} for n in (1, 400, 2, 300)]
    file, report = write_rows(tmp_path, rows), tmp_path / "report.json"
    words = ["--model", model, "--data", file, "--out", tmp_path / "tokens", "--report", report]
    done = run_step("tokens", *words, "--max-length", "290", "--template", "chat")
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["cut"] == 2
    assert done.stderr == f"tokens: 4 rows of {file}: 4 to train on; cut at max_length: 2\n"


def test_nothing_left_is_told_with_the_reasons(tokenizer, data):
    with pytest.raises(UserError, match=r"no row of .*rows\.jsonl is left: 12 contaminated"):
        prepare([data], tokenizer, TokensConfig(), lambda text: Row("", "", 0))


# Validation


def test_rows_are_held_out_by_their_text_whatever_the_order(tokenizer, tmp_path):
    def held_out(rows, count):
        file = write_rows(tmp_path, rows)
        made, _ = prepare([file], tokenizer, TokensConfig(validation_rows=count))
        chosen = {rows[example["row"] - 1]["instruction"] for example in made.validation}
        others = {rows[example["row"] - 1]["instruction"] for example in made.training}
        assert len(chosen) == count and not chosen & others
        assert chosen | others == {row["instruction"] for row in rows}
        return chosen

    six = held_out(ROWS, 6)
    assert held_out(ROWS[::-1], 6) == six
    assert held_out(ROWS, 5) < six
    assert held_out(ROWS, 0) == set()
    assert six != {row["instruction"] for row in ROWS[:6]}


def test_the_rows_that_are_held_out_do_not_depend_on_rows_that_fill_the_window(tokenizer, tmp_path):
    def held_out(rows) -> set[str]:
        file = write_rows(tmp_path, rows)
        options = TokensConfig(validation_rows=4, max_length=300, deduplicate="none")
        made, _ = prepare([file], tokenizer, options)
        return {rows[example["row"] - 1]["instruction"] for example in made.validation}

    long = [{"instruction": f"{n} {'long ' * 400}", "response": "r"} for n in range(8)]
    mixed = [row for pair in zip(long, ROWS, strict=False) for row in pair] + ROWS[8:]
    assert held_out(mixed) == held_out(ROWS)


def test_few_rows_to_train_on_are_told(tokenizer, data, capsys):
    prepare([data], tokenizer, TokensConfig(validation_rows=6))
    assert "WARNING" not in capsys.readouterr().err
    prepare([data], tokenizer, TokensConfig(validation_rows=7))
    told = "WARNING: 7 of 12 rows are held out, and the training has only the other 5"
    assert told in capsys.readouterr().err
    with pytest.raises(UserError, match="validation_rows = 12: only 12 rows are left"):
        prepare([data], tokenizer, TokensConfig(validation_rows=12))


# The artifact


def test_an_array_on_the_disk_is_read_in_blocks_to_its_end(monkeypatch):
    monkeypatch.setattr(row_files, "BLOCK", 3)
    stored = row_files.DiskArray(np.int32)
    for part in (np.arange(5), np.arange(5, 7)):
        stored.append(part)
    for values in (stored, np.arange(7)):
        blocks = [block.tolist() for block in row_files.blocks(values)]
        assert blocks == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_message_names_the_model_of_the_user(model, tmp_path):
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with create_artifact(tmp_path / "base", "base", {"model": "org/name"}) as draft:
        for file in model.iterdir():
            (draft.path / file.name).symlink_to(file)
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")]
    file = write_rows(tmp_path, [{"messages": turns}])
    with pytest.raises(UserError, match="the tokenizer of org/name has a chat"):
        make(tmp_path / "base", file, tmp_path / "tokens", "--template", "chat")


def test_the_manifest_holds_the_options_and_a_templates_text(tiny_llama, data, tmp_path):
    (tmp_path / "template.txt").write_text("Do: {instruction}\n")
    flags = ["--template", tmp_path / "template.txt", "--limit", "9"]
    manifest = read_manifest(manifest_path(make(tiny_llama, data, tmp_path / "tokens", *flags)))
    tokenizer = manifest.parameters.pop("tokenizer")
    options = TokensConfig(limit=9, template="Do: {instruction}\n")
    assert manifest.parameters == options.stated()
    assert {"model", "normalizer", "added_tokens", "chat template"} < tokenizer.keys()


def test_the_step_reports_rows_that_give_problems_away(tiny_llama, tmp_path, capsys):
    text = "Give back the larger one of two numbers."
    problem = {"prompt": f'def f(a, b):\n    """{text}"""\n', "entry_point": "f"}
    problems = write_problems(tmp_path / "sums.jsonl", [three_problems()[0] | problem])
    leak = {"instruction": text, "response": "max"}
    rows = write_rows(tmp_path, [*ROWS[:2], leak])
    report = tmp_path / "reports" / "report.json"
    flags = ["--problems", problems, "--report", report]
    make(tiny_llama, rows, tmp_path / "tokens", *flags)
    content = json.loads(report.read_text())
    assert content["removed"] == {"contaminated": 1}
    assert list(content["problems"]) == ["sums"]
    line = f"3 rows of {rows}: 2 to train on; left out: 1 contaminated"
    assert line in capsys.readouterr().err


# Trainings


def train(moe, data, out, *flags):
    """Tune a mixture; the manifest."""
    chain = Chain(out, {"moe_sft": [*TRAINING, *flags]}, moe=moe, data=data)
    return read_manifest(manifest_path(chain["moe_sft"]))


def test_a_training_on_tokens_is_one_on_their_rows(upcycled, tiny_llama, data, tmp_path):
    made = make(tiny_llama, data, tmp_path / "tokens", "--max-length", "220")
    on_tokens = train(upcycled, made, tmp_path / "a")
    on_rows = train(upcycled, data, tmp_path / "b", "--max-length", 220)
    assert on_tokens.files["model.safetensors"] == on_rows.files["model.safetensors"]
    assert on_tokens.parameters == on_rows.parameters
    assert on_tokens.parameters["template"] == "magicoder"
    assert on_tokens.inputs == on_rows.inputs | {"tokens": read_manifest(manifest_path(made)).id}

    given = {"moe_sft": tmp_path / "a" / "moe_sft", "data": made}
    mixed = Chain(tmp_path, {"weighted_trained": TRAINING}, **given)["weighted_trained"]
    trained = read_manifest(manifest_path(mixed))
    assert trained.inputs["tokens"] == on_tokens.inputs["tokens"]
    assert trained.parameters["template"] == "magicoder"


def test_an_upcycled_model_has_the_tokenizer_of_its_base(tiny_llama, tmp_path):
    """transformers chooses another class by the type of some models."""
    plain = {"model_type": "qwen2"}
    found = []
    for config in (plain, {"model_type": "xft", "base_config": plain}):
        folder = shutil.copytree(tiny_llama, tmp_path / config["model_type"])
        change_json(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
        (folder / "config.json").write_text(json.dumps(config))
        found.append(load_tokenizer(folder))
    base, upcycled = found
    assert type(base) is type(upcycled)
    assert base.backend_tokenizer.to_str() == upcycled.backend_tokenizer.to_str()


TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
MARKS = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized", "special"], False)
ADDED = json.dumps({"id": 300, "content": "new"} | MARKS)


def test_tokens_of_another_tokenizer_are_refused(upcycled, tiny_llama, data, tmp_path):
    for file, edit, differs in (
        (SETTINGS, ('"</s>"', '"<pad>"'), "special tokens"),
        (SETTINGS, ("{", '{"chat_template": "{{ messages }}",'), "chat template"),
        (TOKENIZER, ('"normalizer": null', '"normalizer": {"type": "Lowercase"}'), "normalizer"),
        (TOKENIZER, ('"Z": ', '"ZZ": '), "model"),
        (TOKENIZER, ('"added_tokens": [', f'"added_tokens": [{ADDED},'), "added_tokens"),
    ):
        other = shutil.copytree(tiny_llama, tmp_path / differs)
        text = (other / file).read_text()
        assert edit[0] in text
        (other / file).write_text(text.replace(*edit))
        made = make(other, data, tmp_path / f"tokens of {differs}")
        message = f"{made} was made with another tokenizer than that of {upcycled}: {differs} diff"
        with pytest.raises(UserError, match=message):
            train(upcycled, made, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_a_trainer_saved_is_the_same(tiny_llama, data, tmp_path):
    made, saved = make(tiny_llama, data, tmp_path / "tokens"), tmp_path / "saved"
    shutil.copytree(tiny_llama, saved)
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
    tokenizer(["a", "two words"], padding=True, truncation=True, max_length=3)
    tokenizer.save_pretrained(saved)
    for file in (TOKENIZER, SETTINGS):
        assert (saved / file).read_bytes() != (tiny_llama / file).read_bytes()
    opened, _ = open_tokens(made, saved)
    assert not opened.input_ids.flags.owndata  # a memory map's


def test_options_of_tokens_and_folders_of_others_are_refused(upcycled, tiny_llama, data, tmp_path):
    made = make(tiny_llama, data, tmp_path / "tokens")
    flags = ["--max-length", 1024, "--template", "chat"]
    for folder, more, fault in (
        (made, flags, "were made with a fixed max_length, template"),
        *((upcycled, [], "is of kind moe, not"), (upcycled.parent, [], "without a m")),
    ):
        with pytest.raises(UserError, match=fault):
            train(upcycled, folder, tmp_path / "out", *more)


def test_choice_rows_are_disjoint_from_validation_rows_and_come_after_them(tokenizer, tmp_path):
    """Near duplicates are removed before: no row has one on the other side."""
    words = " ".join(f"w{number}" for number in range(200))
    near = [{"instruction": f"{words} {row['instruction']}", "response": "r"} for row in ROWS]
    file = write_rows(tmp_path, [*near, *ROWS])

    def split(validation: int, choice: int, deduplicate: str = "near") -> list[list[int]]:
        rows = {"validation_rows": validation, "choice_rows": choice}
        made, report = prepare([file], tokenizer, TokensConfig(deduplicate=deduplicate, **rows))
        parts = [made.validation, made.choice, made.training]
        numbers = [[example["row"] for example in part] for part in parts]
        assert report.get("choice", 0) == len(numbers[1]) == choice
        return numbers

    validation, choice, training = split(3, 4)
    assert sorted([*validation, *choice, *training]) == [1, *range(13, 25)]
    assert {*validation}.isdisjoint(choice)
    alone, _, _ = split(3, 0)
    assert alone == validation
    both, _, _ = split(7, 0)
    assert {*both} == {*validation, *choice}
    with pytest.raises(UserError, match="validation_rows = 9 and choice_rows = 4: only 13 rows"):
        split(9, 4)


@pytest.mark.parametrize(("validation", "choice"), [(0, 0), (5, 0), (0, 4), (4, 5), (9, 8)])
def test_held_out_rows_whose_text_is_elsewhere_are_counted(tokenizer, tmp_path, validation, choice):
    """Texts differ in whitespace alone. Those that are held out together do not count."""
    copies = [f"Add{spaces}{n} to x." for n in range(5) for spaces in (" ", "  ", "\n")[: 1 + n]]
    texts = [*copies, *copies[:3], *(f"Multiply x by {n}." for n in range(8))]
    file = write_rows(tmp_path, [{"instruction": text, "response": "x"} for text in texts])
    options = {"validation_rows": validation, "choice_rows": choice}
    made, report = prepare([file], tokenizer, TokensConfig(deduplicate="none", **options))
    words = [" ".join(texts[number - 1].split()) for number in made.numbers.tolist()]
    with_parts = list(zip(words, made.held_out.tolist(), strict=True))
    expected = 0
    for text, part in with_parts:
        others = {theirs for other, theirs in with_parts if other == text} - {part}
        expected += bool(part and others)
    assert report.get("held_out_repeated", 0) == expected
    told = f"{expected} of these with the text of a row to train on"
    assert (told in summary([file], report)) == bool(expected)
    assert bool(expected) == bool(validation + choice)
    _, clean = prepare([file], tokenizer, TokensConfig(**options | {"choice_rows": 0}))
    assert "held_out_repeated" not in clean
