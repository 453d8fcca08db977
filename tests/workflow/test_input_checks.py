"""What a config asks of its files and its base model, told before anything runs."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from damage import change_json
from interpreter import python
from problem_files import three_problems, write_problems

from xft.common.errors import UserError
from xft.dag import input_checks
from xft.dag.workflow_run import WorkflowRun
from xft.tools import plan

# What the Snakefile does when it is read: a config as JSON, then what it must not have imported.
PARSE = """
import json, sys
from xft.common.errors import UserError
from xft.dag.workflow_run import WorkflowRun
try:
    WorkflowRun(json.loads(sys.argv[1])).check_models()
except UserError as error:
    print(error)
print(sorted({"torch", "transformers", "pandas", "datasets"} & sys.modules.keys()))
"""
ROW = '{"instruction": "a", "response": "b"}\n'


@pytest.fixture
def config(tiny_llama, tmp_path, monkeypatch) -> dict:
    """A config of a base whose window is 256 tokens, which it fits, with files that are there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, "base")
    Path("rows.jsonl").write_text(64 * ROW)
    write_problems(Path("problems.jsonl"), three_problems())
    evaluation = {"datasets": ["problems.jsonl"], "max_new_tokens": 255}
    data = {"train": "rows.jsonl", "max_length": 256}
    return {"base": {"model": "base"}, "data": data, "evaluation": evaluation}


def check(config: dict, **changes) -> None:
    """Check a config with other values, by section, as the Snakefile does."""
    for name, values in changes.items():
        both = isinstance(values, dict)
        config = config | {name: config.get(name, {}) | values if both else values}
    WorkflowRun(config)


LOW_RANK = {"experts": "lora", "rank": 33}
OTHERS = {"evaluation": {"datasets": ["problems.jsonl", "gone.jsonl"]}}
PINNED = {"revision": "0" * 40}


def test_a_mistake_is_named_with_its_key(config):
    check(config)
    shutil.copytree("base", "mixture")
    change_json(Path("mixture/config.json"), base_config={}, num_experts=4)
    Path("a").mkdir()
    Path("no_row.jsonl").write_text("\n")
    for changes, message in (
        ({"data": {"train": "a\nb"}}, r'data.train = "a\nb": a path must not hold line breaks'),
        ({"results_dir": "r" * 256}, 'r": a path has at most 2,000 bytes, and each name in it 255'),
        ({"store": "my{a}"}, 'config: store = "my{a}": a path must not hold braces'),
        ({"stores": ["-x"]}, 'config: stores = "-x": a path must not begin with -'),
        ({"data": {"train": "no.jsonl"}}, "config: data.train: there is no file no.jsonl"),
        ({"evaluation": {"datasets": ["multipl-e/mbpp-javascript"]}}, "mean multipl-e/mbpp-js?"),
        ({"evaluation": {"datasets": ["humaneval-js"]}}, "did you mean multipl-e/humaneval-js?"),
        ({"data": {"limit": [1, 2]}}, "data.limit = [1, 2]: give one number for each"),
        ({"data": {"train": ["a/b", "a/c"]} | PINNED}, "Files on this machine have none"),
        ({"data": {"train": ["rows.jsonl", "no_row.jsonl"]}}, "no_row.jsonl holds no rows"),
        ({"data": {"train": "base"}}, "config: data.train: base is a folder, not a file"),
        ({"data": {"train": "a/b"}}, "a/b. If it is on the hub, set data.revision to"),
        ({"data": {"train": "a/b/c", "split": "test"} | PINNED}, "data.split = test: data.train"),
        ({"data": {"template": "x"}}, "config: data.template: x is neither a template (magicoder"),
        ({"evaluation": {"datasets": ["base/config.json"]}}, "json: the name of a file of prob"),
        ({"base": {"model": "no/such/one"}}, "base.model: there is no folder no/such/one"),
        ({"base": {"model": "rows.jsonl"}}, "base.model: rows.jsonl is a file. Name the folder"),
        ({"base": {"model": "some/model"}}, "pinned by base.revision, a commit hash"),
        ({"seeds": [1, 2], "data": {"max_length": 257}}, "base takes texts of at most 256 tokens"),
        ({"data": {"template": "chat"}}, "config: data.template = chat: base has no chat template"),
        ({"evaluation": {"base_prompt": "chat"}}, "base_prompt = chat: base has no chat template"),
        ({"moe": {"upcycled_layers": [1, 2, 5]}}, "upcycled_layers names 2, 5: base has layers 0"),
        ({"moe": LOW_RANK}, "config: moe.rank = 33: a matrix of base has at most rank 32"),
        ({"sft": {"lora_rank": 33}}, "sft.lora_rank = 33: a matrix of base has at most rank"),
        ({"sft": {"model": "gone"}}, "config: sft.model: gone is not a folder"),
        ({"moe_sft": {"model": "base"}}, "moe_sft.model: base is no mixture by section moe"),
        ({"variants": {"a": {}, "b": OTHERS}}, "evaluation.datasets: there is no file gone.jsonl"),
        ({"moe_sft": {"model": "mixture"}}, 'config.json says {"num_experts": 4}. Set this in'),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            check(config, **changes)


def test_all_wrong_paths_are_told_at_once_with_the_other_mistakes(config):
    config |= {"results_dir": "rows.jsonl"}
    config["evaluation"] |= {"datasets": ["a", "b"], "max_new_tokens": 256}
    with pytest.raises(UserError) as caught:
        WorkflowRun(config)
    wrong_paths = [f"config: evaluation.datasets: there is no file {name}" for name in "ab"]
    results, base, *others = str(caught.value).splitlines()
    assert results.startswith("config: results_dir = rows.jsonl: rows.jsonl is a file")
    assert base.startswith("config: evaluation.max_new_tokens = 256: base takes texts of at most")
    assert others == wrong_paths


# Each with the beginning of its lines. Some in one section hide each other from pydantic.
MISTAKES = [
    ("sede", 1, "sede is not a known key: did you mean seed?"),
    ("seeds", [1, 1], "seeds = [1, 1]: names 1 more than once"),
    ("results_dir", "rows.jsonl", "results_dir = rows.jsonl: rows.jsonl is a file"),
    ("moe.num_experts", "many", 'moe.num_experts = "many": should be a valid integer'),
    ("moe.num_experts_per_tok", 1, "moe: num_experts_per_tok = 1: must be at least 2"),
    ("moe.upcycled_layers", [5], "moe.upcycled_layers names 5: base has layers 0"),
    ("data.validation_row", 5, "data.validation_row is not a known key: did you mean"),
    ("data.max_length", 257, "data.max_length = 257: base takes texts of at most 256"),
    ("moe_sft.eval_steps", 5, "moe_sft: eval_steps = 5: there are no validation rows"),
    ("moe_sft.learning_rate", -1, "moe_sft.learning_rate = -1: should be greater than 0"),
    ("sft.processes", 2, "sft: launch = single: it runs one process"),
    ("mixing.max_steps", 3, "mixing: warmup_steps = 4: the training has 3"),
    ("mixing.optim", "sgd", 'mixing.optim = "sgd": should be '),
    ("merge.select", "validation", "merge.select = validation: there are no validation rows"),
    ("merge.lambdas", [2], "merge.lambdas[0] = 2: must be a decimal number"),
    ("evaluation.samples", 5, "evaluation: samples = 5: no effect with temperature"),
    ("evaluation.batch_size", 0, "evaluation.batch_size = 0: should be greater"),
    (
        *("evaluation.datasets", ["a", "b"]),
        *("evaluation.datasets: there is no file a", "evaluation.datasets: there is no file b"),
    ),
    ("variants.a/b", {}, 'variants: "a/b" is not a name'),
    ("variants.c", {"sft": {"rank": 1}}, "variants.c: sft.rank is not a known key"),
    ("variants.g", {"moe": {"num_experts": 1}}, "variants.g: moe.num_experts = 1: should be"),
    ("variants.d", {"data": {"max_length": 1}}, "variants.d: data.max_length = 1: "),
    ("variants.e", {"data": {"train": "gone.jsonl"}}, "data.train: there is no file gone.jsonl"),
    (
        *("variants.f", {"store": "x", "seed": 1}),
        *("variants.f: store cannot vary", "variants.f: seed cannot vary here"),
    ),
    ("sweep.moe.num_expert", [4], "sweep: moe.num_expert is not a known key"),
    ("sweep.data.limit", [1, -2], "sweep with data.limit = -2: data.limit = -2: should be"),
]


def test_all_mistakes_are_told_at_once(config):
    """And nothing that only follows from another one."""
    config |= {"variants": {}, "sweep": {}} | {"mixing": {"warmup_steps": 4}}
    for place, value, *_ in MISTAKES:
        section, _, key = place.partition(".")
        if key:
            config.setdefault(section, {})[key] = value
        else:
            config[section] = value
    with pytest.raises(UserError) as caught:
        WorkflowRun(config)
    told = str(caught.value).splitlines()
    starts = [f"config: {line}" for _, _, *lines in MISTAKES for line in lines]
    assert [start for start in starts if not any(line.startswith(start) for line in told)] == []
    assert [line for line in told if not line.startswith(tuple(starts))] == []


# How a model folder is damaged. The readers of the file are several.
DAMAGES = {
    "no config": lambda: Path("base/config.json").unlink(),
    "config.json": lambda: Path("base/config.json").write_text("{"),
    "no object": lambda: Path("base/config.json").write_text("[]"),
    "tokenizer.json": lambda: Path("base/tokenizer.json").write_text("{"),
    "weights": lambda: Path("base/model.safetensors").write_text("version https://git-lfs"),
    "layers": lambda: change_json(Path("base/config.json"), num_hidden_layers=3),
}
# A plan needs neither these, nor the weights.
DAMAGES_OF_RUNS = DAMAGES | {
    "no file": lambda: [file.unlink() for file in Path("base").iterdir()],
    "settings of a tokenizer in Python": lambda: (
        Path("base/tokenizer.json").rename("base/vocab.json"),
        Path("base/tokenizer_config.json").write_text("{"),
    ),
    "tokenizer_config.json": lambda: Path("base/tokenizer_config.json").write_text("{"),
    "quantised": lambda: change_json(Path("base/config.json"), quantization_config={"bits": 4}),
    "no weights": lambda: Path("base/model.safetensors").unlink(),
    "no tokenizer": lambda: Path("base/tokenizer.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES_OF_RUNS)
def test_a_faulty_model_folder_is_told_once_with_its_key(config, damage):
    config["evaluation"]["base_prompt"] = config["data"]["template"] = "chat"
    DAMAGES_OF_RUNS[damage]()
    with pytest.raises(UserError) as caught:
        check(config)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("config: base.model: ")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_plan_tells_of_a_faulty_model_folder_with_file_and_key(config, damage, capsys):
    DAMAGES[damage]()
    Path("mine.yaml").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        plan.main(["--config", "mine.yaml"])
    (line,) = str(caught.value).splitlines()
    assert line.startswith("mine.yaml: base.model: ")
    assert not capsys.readouterr().out


LACKING = '{"instruction": "a", "b": "c"}', r"no column 'response' \(columns: "


@pytest.mark.parametrize(("row", "fault"), [('"text"', "not a JSON object"), LACKING])
def test_rows_that_the_step_refuses_are_told_before_anything_runs(config, monkeypatch, row, fault):
    """Of a large file the first one."""
    Path("rows.jsonl").write_text(f"{64 * ROW}{row}\n")
    with pytest.raises(UserError, match=rf"^config: data.train: 1 bad row:\n.*, line 65: {fault}"):
        check(config)
    check(config, data={"bad_rows": "skip"})
    monkeypatch.setattr("xft.estimates.rows.MOST_COUNTED", 100)
    check(config)
    Path("rows.jsonl").write_text(f"{row}\n{64 * ROW}")
    with pytest.raises(UserError, match=rf"^config: data.train: 1 bad row:\n.*, line 1: {fault}"):
        check(config)
    Path("rows.jsonl").write_text(f"[{row}]")
    with pytest.raises(UserError, match=r"^config: data.train: (1 bad row|.* has no column 'resp)"):
        check(config, data={"bad_rows": "skip"})


def test_files_on_the_hub_and_templates_are_accepted(config):
    base, sets = {"model": "some/model"} | PINNED, {"datasets": ["humaneval", "problems.jsonl"]}
    for source in ("org/name/rows.jsonl", "org/name"):
        check(config, base=base, data={"train": source} | PINNED, evaluation=sets)
    Path("template.txt").write_text("Do this: {instruction}\n")
    check(config, data={"template": "template.txt"}, evaluation={"base_prompt": "template.txt"})


FOUR_EPOCHS = {"warmup_steps": 9, "per_device_train_batch_size": 4}


def test_too_few_rows_are_told_before_anything_runs(config):
    for sections, message in (
        ({"data": {"validation_rows": 30}}, "data.validation_rows = 30: rows.jsonl has at most 30"),
        ({"moe_sft": FOUR_EPOCHS}, None),  # 32 steps
        ({"moe_sft": FOUR_EPOCHS, "data": {"limit": 8}}, "config: sft, with at most 8 rows: warm"),
    ):
        for text in (30 * f"{ROW}\n", f"\ufeff\n [{', '.join([ROW] * 30)}]"):
            Path("rows.jsonl").write_text(text)
            with pytest.raises(UserError, match=re.escape(message)) if message else nullcontext():
                check(config, **sections)


def test_a_base_that_supports_more_is_asked_for_more(config):
    change_json(Path("base/config.json"), max_position_embeddings=512, sliding_window=64)
    Path("base/chat_template.jinja").write_text("{{ messages[0].content }}")
    low_rank = {"moe": LOW_RANK | {"rank": 32, "upcycled_layers": [0, 1]}, "sft": {"lora_rank": 32}}
    check(config, data={"max_length": 512, "template": "chat"}, **low_rank)


def test_the_tokens_of_the_base_must_fit_its_model(config):
    change_json(Path("base/tokenizer_config.json"), eos_token=None)
    with pytest.raises(UserError, match="the tokenizer of base has no EOS token"):
        check(config)
    Path("base/special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    check(config)
    Path("base/added_tokens.json").write_text('{"<new>": 300}')
    with pytest.raises(UserError, match="base: the token '<new>' has the id 300, but"):
        check(config)


def test_an_override_variable_that_names_no_file_is_told(config, monkeypatch):
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", "gone.jsonl")
    with pytest.raises(UserError, match=r"HUMANEVAL_OVERRIDE_PATH names .*gone\.jsonl"):
        check(config, evaluation={"datasets": ["humaneval"]})


ASKED, ANSWERED = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TURNS = json.dumps({"messages": [ASKED, ANSWERED]}) + "\n"
MANY_TURNS = json.dumps({"messages": [ASKED, ANSWERED] * 2}) + "\n"
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
ENDED = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
CHANGING = "{{ messages | length }}" + ENDED
REFUSING = "{{ raise_exception('no') }}"
ANOTHER = r"Put another one into chat_template\.jinja in the model's folder: docs/data\.md shows"


def test_a_set_of_problems_is_read_once_for_all_runs(config, monkeypatch):
    read = []
    load = input_checks.load_problems
    monkeypatch.setattr(input_checks, "load_problems", lambda name: [read.append(name), load(name)])
    check(config, sweep={"moe.num_experts": [7, 8, 9]})
    assert read == ["problems.jsonl"]


def test_a_chat_template_is_tried_before_the_rows_are_tokenised(config):
    config["data"] |= {"template": "chat", "bad_rows": "skip"}
    config["evaluation"]["max_new_tokens"] = 8
    for jinja, rows, fault in (
        (PLAIN, ROW, None),
        (PLAIN, "{\n" + TURNS, "has a chat template that cannot mark turns: it ends the assist"),
        (ENDED, MANY_TURNS, None),
        (CHANGING, TURNS, "has a chat template that cannot mark turns: it writes earlier turns"),
        (REFUSING, ROW, "refuses a row: no"),
    ):
        Path("base/chat_template.jinja").write_text(jinja)
        Path("rows.jsonl").write_text(rows * 64)
        run, message = WorkflowRun(config), f"^config: the .* of base {fault}.*{ANOTHER}"
        with pytest.raises(UserError, match=message) if fault else nullcontext():
            run.check_models()
    Path("rows.jsonl").write_text(TURNS)
    with pytest.raises(UserError, match=r"1 bad row:\nrows\.jsonl, line 1: .* of base refuses"):
        run.check_models()


def test_prompts_and_excluded_problems_are_checked_before_anything_runs(config, capsys):
    """In a dry run, at the start and in a plan, for each set and prompt."""
    rows = three_problems()
    rows[1]["prompt"] = rows[1]["prompt"].replace('"""', '"""' + 40 * "long ", 1)
    write_problems(Path("problems.jsonl"), rows)
    config["evaluation"] |= {"max_new_tokens": 128, "models": ["base", "sft"]}
    config["data"] |= {"template": "template.txt"}
    Path("template.txt").write_text(60 * "word " + "{instruction}")
    at, long = "config: evaluation on problems.jsonl: ", r"Arithmetic/1 \(\d+ tokens\)"
    both = rf"{at}1 prompt and .* of 256 tokens: {long}\. Lower .*\n{at}3 prompts and .*"
    unknown = "config: evaluation.exclude: no problem has the task_id Arithmetic/9: did you mean"
    for evaluation, fault in (
        ({}, both),
        ({"models": ["base"]}, f"{at}1 prompt and "),
        ({"models": ["base"], "exclude": ["Arithmetic/1"]}, None),
        ({"models": ["base"], "limit": 1}, None),
        ({"models": ["base"], "limit": 1, "exclude": ["Arithmetic/0"]}, f"{at}1 prompt and "),
        ({"too_long": "skip"}, None),
        ({"too_long": "skip", "exclude": ["Arithmetic/9"]}, unknown),
    ):
        run = WorkflowRun(config | {"evaluation": config["evaluation"] | evaluation})
        with pytest.raises(UserError, match=fault) if fault else nullcontext():
            run.check_models()
    Path("plan.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"^{at}".replace("config", "plan.json")):
        plan.main(["--config", "plan.json"])
    assert not capsys.readouterr().out
    text = "{{ 'word ' * 60 }}{{ messages[0].content }}{{ '\n' }}"
    change_json(Path(config["base"]["model"], "tokenizer_config.json"), chat_template=text)
    config["data"] |= {"template": "chat"}
    with pytest.raises(UserError, match=both):
        WorkflowRun(config).check_models()


def test_a_plan_checks_the_code_and_the_names_of_all_runs(config):
    variants = {"plain": {}, "mine": {"moe_sft": {"callbacks": ["a.py:B"]}}}
    variants["typo"] = {"evaluation": {"datasets": ["humanevl", "elsewhere.jsonl"]}}
    Path("plan.json").write_text(json.dumps(config | {"variants": variants}))
    with pytest.raises(UserError) as caught:
        plan.main(["--config", "plan.json"])
    code, name = str(caught.value).splitlines()
    assert code.startswith("plan.json: moe_sft.callbacks: there is no file a.py")
    assert name.startswith("plan.json: evaluation.datasets: there is no file humanevl: did you m")


def test_a_model_in_the_hubs_cache_is_looked_at(config, hub, run_step, tmp_path):
    """Without network and heavy imports."""
    files = {path.name: path.read_bytes() for path in Path("base").iterdir()}
    revision = hub.add("org/name", files)
    config["base"] = {"model": "org/name", "revision": revision}
    config["data"] |= {"template": "chat"}
    words = ["-c", PARSE, json.dumps(config)]
    assert python(*words).stdout == "[]\n"  # nothing is known of it yet
    assert not hub.requests
    fetched = ["--model", "org/name", "--revision", revision, "--out", tmp_path / "out"]
    assert run_step("base", *fetched).returncode == 0
    hub.requests.clear()
    told, imported = python(*words).stdout.splitlines()
    assert "config: data.template = chat: org/name has no chat template" in told
    assert imported == "[]" and not hub.requests
    shutil.rmtree(tmp_path / "out")
    for link in tmp_path.rglob("snapshots/*/tokenizer*"):
        link.unlink()  # as when the fetch was cut off
    check(config)
