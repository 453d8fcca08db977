"""Command lines: flags from the classes, errors without a stack trace, --help at once."""

import errno
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import forked, python

from xft.cli import running
from xft.cli.running import check_config_files
from xft.cli.step import StepParser, to_flags
from xft.common.errors import UserError
from xft.config.reading import complete, validated
from xft.config.section import Section, keys, schemas
from xft.config.sections import MixingConfig, MoeConfig, MoeSftConfig, TokensConfig
from xft.tools.xft import TOOLS

ROOT = Path(__file__).parents[2]
STEPS = sorted(file.stem for file in (ROOT / "workflow_scripts").glob("[a-z]*.py"))
COMMANDS = {step: importlib.import_module(f"workflow_scripts.{step}") for step in STEPS} | TOOLS
HEAVY = {"torch", "transformers", "datasets", "pandas", "evalplus", "deepspeed", "accelerate"}
SECTIONS = {"moe": MoeConfig, "data": TokensConfig, "moe_sft": MoeSftConfig}
SECTIONS |= {"mixing": MixingConfig}
COMPUTING = {"moe_sft": ["moe"], "sft": ["base"], "validation_loss": ["model"]}
COMPUTING |= {"weighted_trained": ["weighted", "moe", "ffn"], "eval": ["model"]}


def parse(section: str, words: list[str]) -> Section:
    parser = StepParser("any", "")
    parser.add_options(SECTIONS[section])
    return validated(SECTIONS[section], vars(parser.parse_args(words)), "command line")


HELP = """
import contextlib, io, json, runpy, sys

help = {}
for words in sys.argv[1:]:
    module, *arguments = words.split()
    sys.argv = [module, *arguments, "--help"]
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), write_through=True)) as out:
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            help[words] = [end.code, out.buffer.getvalue().decode(), list(sys.modules)]
json.dump(help, sys.stdout)
"""


def test_help_imports_nothing_heavy():
    """In one process, one after the other."""
    usages = {f"workflow_scripts.{step}": f"python -m workflow_scripts.{step}" for step in STEPS}
    usages |= {f"xft.tools.xft {tool}": f"xft {tool}" for tool in TOOLS}
    shown = json.loads(python("-c", HELP, *usages).stdout)
    assert list(shown) == list(usages)
    for words, (code, text, modules) in shown.items():
        assert code == 0
        assert f"usage: {usages[words]} " in text
        assert (words, HEAVY & set(modules)) == (words, set())


@pytest.mark.parametrize(
    ("flags", "folder", "module", "heavy"),
    [
        ("-B", ".", "xft.store.make", {"pydantic"}),
        ("-IS", "xft/evaluation", "driver", {"dataclasses", "hashlib", "pathlib"}),
        pytest.param("-B", ".", "xft.training.losses", {"peft"}, marks=pytest.mark.ci),
    ],
)
def test_what_starts_often_loads_little(flags, folder, module, heavy):
    """The first with each job, the second with each program, the third with each loss."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / folder)!r}); import {module}"
    done = python(flags, "-c", f"{code}; print(*sys.modules)")
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("section", SECTIONS)
def test_flags_have_the_defaults_of_the_config(section):
    config = complete({"base": {"model": "x"}, "data": {"train": "x"}})
    default = getattr(config, section).model_dump()
    assert default | parse(section, []).model_dump() == default


def values(section: type[Section], key: str):
    """Values that a key may have."""
    first, *_ = found = schemas(section, key)
    if choices := first.get("enum"):
        return st.sampled_from(choices)
    if "pattern" in first.get("items", {}):  # code of the user's
        return st.sampled_from([[], ["a.py:B", "c d.py:E(f='g')"], ["none"]])
    low, above = first.get("minimum"), first.get("exclusiveMinimum")
    is_open = {"exclude_min": low is None, "allow_infinity": False}
    strategies = {"boolean": st.booleans(), "integer": st.integers(low), "string": TEXT}
    strategies |= {"number": st.floats(above if low is None else low, **is_open), "null": st.none()}
    strategies["array"] = st.lists(st.integers(0), min_size=1, unique=True).map(sorted)
    return st.one_of([strategies[schema["type"]] for schema in found])


LIKE_FLAGS = st.sampled_from(["-x", "--limit", "two words", "'", "$HOME", "a=b", " "])
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
# argparse drops the value --, which the configuration refuses.
TEXT = LIKE_FLAGS | ANY_TEXT.filter("--".__ne__)


@pytest.mark.parametrize("section", SECTIONS)
@settings(max_examples=30)
@given(data=st.data())
def test_flags_carry_every_value(section, data):
    """Flags accept and refuse the same values as the configuration."""
    owner = SECTIONS[section]
    given_values = {name: data.draw(values(owner, name), name) for name in keys(owner)}
    words = shlex.split(to_flags(given_values))
    try:
        expected = validated(SECTIONS[section], given_values, "command line")
    except UserError as error:
        with pytest.raises(UserError) as refusal:
            parse(section, words)
        assert str(refusal.value) == str(error)
    else:
        assert parse(section, words) == expected


def test_a_users_mistake_ends_in_one_message(call_step, tmp_path):
    for arguments, message in (
        ("moe --base nowhere --out out --num-experts 4", "must be at most num_experts = 4"),
        ("fetch_data --train a/b --out out", "data.train = a/b: a data set on the hub is named"),
    ):
        step, *words = arguments.split()
        assert_one_message(step, message, call_step(step, *words, cwd=tmp_path))
        assert list(tmp_path.iterdir()) == []


def test_words_that_snakemake_cannot_read_are_told(monkeypatch):
    for words, message in (
        ("--config merge.lambdas=[0.5]", ": write --config 'merge={lambdas: [0.5]}'"),
        ("-C seed=1 results/moe", "--config results/moe: there is no =. All words after --config "),
        ("--configfile config.yaml docs -n", "there is no file docs. All words after --conf"),
        ("results/moe --configfile no.yaml", "there is no file no.yaml"),
    ):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["snakemake", *words.split()])
        with pytest.raises(SystemExit) as caught:
            check_config_files()
        assert message in caught.value.code


@pytest.mark.parametrize("step", COMPUTING)
def test_a_gpu_that_is_not_there_is_told_first(step, tmp_path, call_step, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    inputs = [*COMPUTING[step], "dataset" if step == "eval" else "data", "out"]
    words = [word for name in inputs for word in (f"--{name}", name)]
    done = call_step(step, *words, "--gpus", "1", cwd=tmp_path)
    assert_one_message(step, "gpus = 1: ", done)
    assert "torch" in done.stderr and "gpus: 0 in the config" in done.stderr


def assert_one_message(step: str, message: str, done: subprocess.CompletedProcess) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{step}: error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_systems_refusals_are_messages_and_a_bug_keeps_its_stack_trace(monkeypatch):
    def run(error: BaseException) -> None:
        def main(argv):
            raise error

        running.run("moe", main)

    monkeypatch.setattr("resource.getrlimit", lambda _: (1_500_000, -1))
    limit = r" A file may have 1\.5 MB here: raise this limit \(ulimit -f\)\."
    for number, more in ((errno.EACCES, ""), (errno.ENOSPC, " The disk .*"), (errno.EFBIG, limit)):
        text = os.strerror(number)
        with pytest.raises(SystemExit) as caught:
            run(OSError(number, text, "some/file"))
        told = rf"moe: error: {text} \(some/file\)\.{more} Nothing was changed\."
        assert re.fullmatch(told, caught.value.code)
    for error in (OSError(errno.EIO, "broken"), ValueError("a bug")):
        with pytest.raises(type(error)):
            run(error)
    with pytest.raises(SystemExit, match=str(128 + signal.SIGINT)):
        run(KeyboardInterrupt())


FULL_GPU = {
    "allocator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
    "cublas": RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "nccl": RuntimeError(
        "NCCL error in: ProcessGroupNCCL.cpp:94, unhandled cuda error\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
        "Cuda failure 2 'out of memory'"
    ),
}


@pytest.mark.parametrize("cause", FULL_GPU)
def test_a_full_gpu_is_told_whichever_part_of_cuda_notices_it(cause):
    assert running.full_memory("moe_sft", FULL_GPU[cause]).startswith(
        "the memory of the GPU is full"
    )
    assert (
        running.full_memory("moe_sft", RuntimeError("CUDA error: unspecified launch failure"))
        is None
    )


# Outputs that are inputs


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders, the files rows and a/x, and links to them, where one stands."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a/b", "links", "humaneval"):
        Path(folder).mkdir(parents=True)
    Path("rows").touch()
    Path("a/x").touch()
    for link, target in (("link", "a"), ("rows_link", "rows"), ("links/rows", "../a/x")):
        Path(link).symlink_to(target)


def test_an_output_that_is_an_input_is_refused_and_one_elsewhere_is_taken(places):
    for words, output, source in (
        ("--base a --out a/b/new", "--out a/b/new", "--base a"),
        ("--base a/b --out a", "--out a", "--base a/b"),
        ("--base link --out a", "--out a", "--base link"),
        ("--base a --out link/new", "--out link/new", "--base a"),
        ("--base links --out a", "--out a", "--base links"),
        ("--data rows_link --out rows", "--out rows", "--data rows_link"),
        ("--evals a/x rows --out rows", "--out rows", "--evals rows"),
        ("--template rows --out rows", "--out rows", "--template rows"),
        ("--base a --tracker-dir a/b", "--tracker-dir a/b", "--base a"),
    ):
        with pytest.raises(UserError) as caught:
            some_parser().parse_args(words.split())
        message = str(caught.value)
        assert message.startswith(f"{output} overlaps {source}")
        assert message.endswith(", which the step reads. Choose another place")
    for elsewhere in (
        *("--base a --out ab", "--dataset humaneval --out humaneval/result.json"),
        "--template humaneval --out humaneval/tokens",
        *("--data rows --out rows2 --metrics rows3", "--data a/x --tracker-dir a"),
    ):
        some_parser().parse_args(elsewhere.split())
    with pytest.raises(UserError, match="a exists, and an artifact is never overwritten"):
        some_parser().parse_args(["--out", "a"])


def some_parser() -> StepParser:
    parser = StepParser("any", "")
    for flag in ("--base", "--data"):
        parser.path(flag, "DIR", "", required=False)
    parser.path("--evals", "FILE", "", required=False, nargs="+")
    parser.name_or_file("--dataset", "")
    parser.add_options(TokensConfig, ["template"])
    for flag in ("--out", "--metrics"):
        parser.output(flag, "FILE", "", required=False)
    parser.output("--tracker-dir", "DIR", "", required=False, shared=True)
    return parser


@pytest.mark.parametrize("command", COMMANDS)
def test_no_path_of_a_command_escapes_the_check(command, places, monkeypatch):
    """Each argument for a path is declared as an input or an output, and no output is an input."""
    parsers = []
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(StepParser, "parse_args", lambda self, *_: exit(parsers.append(self)))
        COMMANDS[command].main([])
    (parser,) = parsers
    paths = parser.reads | parser.writes
    for action in (*parser._actions, *parser._mutually_exclusive_groups):
        action.required = False
    named = {action.dest: [*action.option_strings[:1], "a/x"] for action in parser._actions}
    for action in parser._actions:
        if action.type is Path or re.search("FILE|DIR|PATH", str(action.metavar)):
            assert action.dest in paths
    for read, written in product(parser.reads, parser.writes):
        with pytest.raises(UserError, match="overlaps"):
            parser.parse_args(named[read] + named[written])


def test_the_command_xft_names_its_tools_and_runs_them(fork_server):
    xft = partial(forked, "-m", "xft.tools.xft")
    help = xft("--help").stdout
    assert [name for name in TOOLS if f"\n  {name} " not in help] == []
    refused = xft("verify", "nowhere", status=1)
    assert refused.stderr.startswith("verify: error: nowhere: ")
    assert "plan" in xft("plam", status=2).stderr
    assert xft().stdout == help
    assert xft("--version").stdout == f"xft {version('xft-pipeline')}\n"


def test_a_program_and_what_it_starts_can_load_mixtures(tmp_path, fork_server):
    script, show = tmp_path / "script.py", "print('xft' in t.CONFIG_MAPPING, sys.argv[1:])"
    script.write_text(f"import sys, transformers as t; {show}")
    script.with_name("words.py").write_text("import sys; print(sys.argv[1:])")
    run = partial(forked, "-m", "xft.tools.xft", "with-mixtures", cwd=ROOT)
    assert run(script.with_name("words.py"), "--help").stdout == "['--help']\n"
    assert run("sh", "-c", f"{sys.executable} {script}").stdout == "True []\n"
    assert "is no program" in run("lm_evil", status=1).stderr


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path, repository):
    pipeline = f"{sys.executable} -m workflow_scripts.eval --help | head -c 1"
    words = ["bash", "-o", "pipefail", "-c", pipeline]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("u", "")
