"""The commands of the documents as a reader pastes them, in the order of the documents.

The copy of the project has the model folder of the reader that docs/hub.md names.
"""

import shutil
import sys

import pytest
from documents import ROOT, RUN, Block, blocks

pytestmark = pytest.mark.slow


def test_the_documents_commands_work_as_written(new_project):
    """Each is run where the project and the reader's files are."""
    project = new_project("reader")
    folder = project.folder
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copytree(folder / "resources" / "base", folder / "given")

    def handle(block: Block) -> None:
        match block:
            case Block(mark=("file", name)):
                (folder / name).write_text(block.text)
            case Block(language="sh" | "python", mark=None):
                block.run(folder, project.environment)

    own, *others = ([*blocks(ROOT / document)] for document in RUN)
    for block in own:
        handle(block)
    summary = (project.results / "mine" / "summary.md").read_text()
    assert "dense 0.75" in summary and "dense 0.85" in summary

    # The other documents speak of results in their usual place.
    for result in (project.results / "mine").iterdir():
        (project.results / result.name).symlink_to(result)
    for block in (block for document in others for block in document):
        handle(block)
