"""The steps' command lines: flags from the schema, errors without a stack trace, --help at once."""

import argparse
import errno
import json
import os
import shlex
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_scripts import cli, configuration
from workflow_scripts.errors import UserError

STEPS = {
    "base": ["--model", "--out", "--revision"],
    "moe": ["--base", "--out", "--num-experts", "--num-experts-per-tok", "--seed"],
    "moe_sft": ["--moe", "--data", "--out", "--metrics", "--learning-rate"],
    "ffn": ["--moe", "--out"],
    "weighted_init": ["--moe", "--ffn", "--lam", "--out", "--granularity"],
    "weighted_trained": ["--weighted", "--moe", "--ffn", "--data", "--out", "--learning-rate"],
    "dense": ["--weighted", "--moe", "--ffn", "--out"],
    "eval": ["--model", "--dataset", "--out", "--prompt", "--limit", "--rescore"],
    "verify": ["PATH", "--full"],
    "import_reference": ["--model", "--out"],
    "fetch_data": ["--train", "--revision", "--out"],
    "summary": ["--evals", "--out"],
}
HEAVY = {"torch", "transformers", "datasets", "pandas", "evalplus", "deepspeed", "accelerate"}
SECTIONS = ("moe", "data", "training", "mixing")


def parse(section: str, words: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    cli.add_options(parser, section)
    return cli.options(parser.parse_args(words), section)


@pytest.mark.parametrize("step", STEPS)
def test_help_names_the_flags_and_imports_nothing_heavy(step, repository):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{step}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('workflow_scripts.{step}', run_name='__main__')\n"
        "finally:\n"
        "    print('MODULES', *sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    text, _, modules = result.stdout.partition("MODULES")
    assert result.returncode == 0, result.stderr
    assert f"usage: python -m workflow_scripts.{step} " in text
    assert [flag for flag in STEPS[step] if flag not in text] == []
    assert HEAVY & set(modules.split()) == set()


@pytest.mark.parametrize("step", STEPS)
def test_help_takes_less_than_a_second(step, run_step):
    seconds = []
    while len(seconds) < 3 and not (seconds and min(seconds) < 1):
        start = time.perf_counter()
        run_step(step, "--help")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize("section", SECTIONS)
def test_flags_have_the_defaults_of_the_config(section):
    required = {"data": ["--train=x"]}.get(section, [])
    config = configuration.complete({"base": {"model": "x"}, "data": {"train": "x"}})
    assert parse(section, required) == config[section]


@pytest.mark.parametrize("section", ["moe", "training", "mixing"])
def test_a_default_that_is_given_changes_nothing(section):
    """Not even 4 to 4.0: parameters go into manifests."""
    defaults = parse(section, [])
    again = parse(section, shlex.split(cli.to_flags(defaults)))
    assert json.dumps(defaults) == json.dumps(again)


def values(subschema: dict):
    """Values that a key of the schema may have."""
    if "enum" in subschema:
        return st.sampled_from(subschema["enum"])
    kinds = subschema["type"] if isinstance(subschema["type"], list) else [subschema["type"]]
    low = subschema.get("minimum", subschema.get("exclusiveMinimum"))
    strategies = {
        "boolean": st.booleans(),
        "integer": st.integers(low),
        "number": st.floats(low, exclude_min="minimum" not in subschema, allow_infinity=False),
        "string": text(subschema.get("pattern")),
        "null": st.none(),
        "array": st.lists(st.integers(0), min_size=1, unique=True),
    }
    return st.one_of([strategies[kind] for kind in kinds])


def text(pattern: str | None):
    if pattern:
        return st.from_regex(pattern, fullmatch=True)
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@pytest.mark.parametrize("section", SECTIONS)
@given(data=st.data())
def test_flags_carry_every_value(section, data):
    properties = configuration.properties(section)
    given_values = {name: data.draw(values(sub), name) for name, sub in properties.items()}
    assert parse(section, shlex.split(cli.to_flags(given_values))) == given_values


@pytest.mark.parametrize("value", ["-x", "--limit", "two words", "'", "$HOME", "a=b", " "])
def test_flags_carry_text_that_looks_like_something_else(value):
    flags = cli.to_flags({"train": value, "limit": None})
    assert parse("data", shlex.split(flags))["train"] == value


@pytest.mark.parametrize(
    ("section", "words", "message"),
    [
        ("moe", "--num-experts 1", "command line: num_experts = 1: must be at least 2"),
        ("moe", "--balance-loss-coef -1", "balance_loss_coef = -1.0: must be at least 0"),
        ("training", "--learning-rate nan", "learning_rate = NaN: must be of type number"),
        ("training", "--warmup-steps -3", "warmup_steps = -3: must be at least 0"),
        ("data", "--train x --max-length 7", "max_length = 7: must be at least 8"),
        ("data", "--train x --instruction-column=", "instruction_column = "),
    ],
)
def test_values_out_of_range_are_named(section, words, message):
    with pytest.raises(UserError) as caught:
        parse(section, words.split())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "words", "message"),
    [
        ("moe", "--num-experts eight", "invalid int value: 'eight'"),
        ("moe", "--router tree", "invalid choice: 'tree'"),
        ("moe", "--nonsense 1", "unrecognized arguments: --nonsense 1"),
        ("training", "--learning-rate fast", "invalid float value: 'fast'"),
    ],
)
def test_what_argparse_refuses_ends_in_its_usage(section, words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(section, words.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("base --model nowhere --out out", "base.model: there is no folder nowhere"),
        ("base --model some/model --out out", "pin it: base.revision must be a commit hash"),
        ("base --model a/b --out out --revision main", 'revision = "main": must be a commit'),
        ("moe --base nowhere --out out", "nowhere is not a folder"),
        ("moe --base nowhere --out out --num-experts 1", "num_experts = 1: must be at least 2"),
        ("moe --base nowhere --out out --num-experts 4", "must be at most num_experts = 4"),
        ("moe --base nowhere --out out --seed -1", "seed = -1: must be at least 0"),
        ("moe_sft --moe nowhere --data x --out out", "nowhere is not a folder"),
        ("ffn --moe nowhere --out out", "nowhere is not a folder"),
        ("weighted_init --moe x --ffn x --out out --lam abc", "--lam = abc: must be a decimal"),
        ("weighted_init --moe x --ffn x --out out --lam 1.5", "--lam = 1.5: must be a decimal"),
        ("weighted_init --moe nowhere --ffn x --out out --lam 1", "nowhere is not a folder"),
        ("weighted_trained --weighted x --moe x --ffn x --data x --out out", "x is not a folder"),
        ("dense --weighted x --moe nowhere --ffn x --out out", "nowhere is not a folder"),
        ("import_reference --model nowhere --out out", "nowhere is not a folder"),
        ("fetch_data --train a/b --out out", "data.train = a/b: a file on the hub is named"),
        ("verify nowhere", "nowhere: no manifest beside it and none below it"),
    ],
)
def test_a_users_mistake_ends_in_one_message(arguments, message, run_step, tmp_path):
    step, *words = arguments.split()
    result = run_step(step, *words, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"{step}: error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EISDIR])
def test_the_systems_refusals_are_messages(number):
    def main(argv):
        raise OSError(number, os.strerror(number), "some/file")

    with pytest.raises(SystemExit) as caught:
        cli.run("moe", main)
    expected = f"moe: error: {os.strerror(number)} (some/file). Nothing was changed."
    assert caught.value.code == expected


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), ValueError("a bug")])
def test_a_bug_keeps_its_stack_trace(error):
    def main(argv):
        raise error

    with pytest.raises(type(error)):
        cli.run("moe", main)
