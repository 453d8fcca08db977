"""The library outside of the workflow: in a notebook, and installed alone."""

import os
import subprocess
import sys

import pytest
from documents import ROOT, blocks, clone_folders

pytestmark = pytest.mark.slow
HIDDEN = ("snakemake", "evalplus", "pandas", "datasets", "accelerate")


def test_the_notebook_runs_and_draws_lambdas_curve():
    import nbclient
    import nbformat

    book = nbformat.read(ROOT / "examples" / "xft.ipynb", as_version=4)
    resources = {"metadata": {"path": ROOT / "examples"}}
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = book.cells[-1].outputs
    assert any("image/png" in output.get("data", {}) for output in outputs)
    (text,) = [output.text for output in outputs if output.output_type == "stream"]
    untuned, plain, merged = (float(part.split()[-1]) for part in text.split(", "))
    assert merged < untuned and plain < untuned


def test_the_page_runs_where_the_core_alone_is_installed(tmp_path):
    python = tmp_path / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", ROOT], check=True)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    page = [block.text for block in blocks(ROOT / "docs" / "library.md")]
    absent = f"from importlib.util import find_spec\nassert not any(map(find_spec, {HIDDEN}))"
    subprocess.run([python, "-c", "\n".join([absent, *page])], cwd=tmp_path, check=True)


def test_the_page_runs_beside_a_clone(tmp_path):
    """In the folder in which the documents clone the project, which is installed from the clone."""
    (folder,) = {*clone_folders(ROOT / "docs" / "environments.md")}
    (tmp_path / folder).symlink_to(ROOT)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    page = "\n".join(block.text for block in blocks(ROOT / "docs" / "library.md"))
    environment = {name: os.environ[name] for name in os.environ.keys() - {"PYTHONPATH"}}
    subprocess.run([sys.executable, "-c", page], cwd=tmp_path, env=environment, check=True)
