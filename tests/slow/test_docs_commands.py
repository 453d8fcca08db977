"""The commands of the documents as a reader pastes them, in the order of the documents.

The copy of the project has a quick config.yaml, and the files of the reader's that the text names.
"""

import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import yaml
from documents import ROOT, RUN, Block, blocks
from problem_files import problem, write_problems
from project import QUICK

pytestmark = pytest.mark.slow


def first(file: Path, count: int) -> list[dict]:
    with file.open() as lines:
        return [json.loads(line) for line in islice(lines, count)]


MBPP = problem("add", "+", "Mbpp/1") | {
    "prompt": '"""\nWrite a function to add two numbers.\nassert add(1, 2) == 3\n"""\n',
    "canonical_solution": "def add(a, b):\n    return a + b\n",
    "assertion": "assert add(1, 2) == 3",
}


@pytest.fixture
def reader(new_project):
    """Callable (block): write or run it, where the project and the reader's files are."""
    project = new_project("reader")
    folder, environment = project.folder, project.environment
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for section, values in QUICK.items():
        config[section] |= values
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".venv").symlink_to(sys.prefix)

    shutil.copytree(folder / "resources" / "base", folder / "given")
    problems = {
        "HUMANEVAL_OVERRIDE_PATH": first(folder / "resources" / "problems.jsonl", 4),
        "MBPP_OVERRIDE_PATH": [MBPP],
    }
    for variable, content in problems.items():
        environment[variable] = str(folder / f"{variable}.jsonl")
        write_problems(Path(environment[variable]), content)

    def handle(block: Block) -> None:
        match block:
            case Block(mark=("file", name)):
                (folder / name).write_text(block.text)
                return
            case Block(language="sh", mark=None):
                command = ["bash", "-euo", "pipefail", "-c", block.text]
            case Block(language="python", mark=None):
                command = [sys.executable, "-c", block.text]
            case _:
                return
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.where}:\n{done.stdout}{done.stderr}"

    handle.results = project.results
    return handle


def test_the_documents_commands_work_as_written(reader):
    own, *others = ([*blocks(ROOT / document)] for document in RUN)
    for block in own:
        reader(block)
    summary = (reader.results / "mine" / "summary.md").read_text()
    assert "dense/lam~0.75" in summary and "dense/lam~0.85" in summary

    # The other documents speak of results in their usual place.
    for result in (reader.results / "mine").iterdir():
        (reader.results / result.name).symlink_to(result)
    for block in (block for document in others for block in document):
        reader(block)
