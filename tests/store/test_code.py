"""What decides about a step's result, and what does not."""

import shutil

import pytest
from project import NO_BYTECODE

from tools import write_versions
from xft.config.steps import STEPS as DECLARED
from xft.dag.step_jobs import STEP_JOBS
from xft.store import code
from xft.store.code import LIBRARY, ROOT, STEPS_FOLDER, Code, read_module
from xft.store.file_hashes import FileHashCache

SOURCE = '''
"""What it is."""
import torch

def double(x):
    """Twice."""
    if x is None:
        raise ValueError(f"no {x}")
    print("doubling")
    return 2 * x
'''


def hash_of(source: str, folder) -> str:
    file = folder / "module.py"
    file.write_text(source)
    return read_module(file)[0]


def test_the_hash_is_of_what_code_does(tmp_path):
    for old, new, same in (
        ("import torch\n", "import torch  # the library\n\n\n", True),
        ('"""Twice."""', '"""Two times.\n\n    x: a number."""', True),
        ('f"no {x}"', '"there is nothing to double"', True),
        ('print("doubling")', 'say("twice")', True),
        ("return 2 * x", "return x * 2", False),
        ("    return 2", "    x.sort()\n    return 2", False),  # a call for its effect alone
        ("def double(x)", "def double(x=1)", False),
    ):
        assert old in SOURCE
        assert (hash_of(SOURCE, tmp_path) == hash_of(SOURCE.replace(old, new), tmp_path)) is same


def test_each_step_has_its_code_and_not_that_of_the_store():
    """The store's own code makes no artifact. Its versions would be in the hash of themselves."""
    of_steps = Code()
    for step in DECLARED:
        modules = of_steps.hashes(step)
        assert f"{STEPS_FOLDER}/{step}.py" in modules
        assert not [name for name in modules if name.startswith("xft/store/")] or step == "report"
    assert "xft/training/trainer.py" in of_steps.hashes("moe_sft")
    assert "xft/modeling/router.py" in of_steps.hashes("eval")
    assert "xft/conversions/dense_models.py" not in of_steps.hashes("diversity")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The steps' code is a copy that a test may change."""
    for package in (STEPS_FOLDER, LIBRARY):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=NO_BYTECODE)
    monkeypatch.setattr(code, "ROOT", tmp_path)


def test_a_module_may_become_a_package(copied, tmp_path, monkeypatch):
    """Though what the module that imports it uses was remembered before."""
    monkeypatch.setattr("xft.store.file_hashes.SETTLED_SECONDS", -1)
    hashes = FileHashCache(tmp_path / "memory.json")
    assert "xft/data/row_files.py" in Code(hashes).hashes("tokens")
    hashes.save()
    module = tmp_path / "xft" / "data" / "row_files.py"
    module.with_suffix("").mkdir()
    module.rename(module.with_suffix("") / "__init__.py")
    found = Code(FileHashCache(tmp_path / "memory.json")).hashes("tokens")
    assert "xft/data/row_files/__init__.py" in found and "xft/data/row_files.py" not in found


def test_only_one_command_accepts_edited_code_and_names_it(copied, tmp_path, monkeypatch, capsys):
    for module in (code, write_versions):
        monkeypatch.setattr(module, "VERSIONS", tmp_path / "versions.json")
    edited = tmp_path / "workflow_scripts/soup.py"
    for steps, told in (([], "unchanged, and stay: soup. "), (["soup"], "run again: soup")):
        shutil.copy(ROOT / "xft/store/versions.json", tmp_path)
        edited.write_text(edited.read_text() + "EDITED = True\n")
        write_versions.main(steps)
        first, second = capsys.readouterr().out.splitlines()
        assert first == "workflow_scripts/soup.py has changed. It belongs to: soup"
        assert told in second and Code().edited("soup") == []
    with pytest.raises(SystemExit, match="suop is no step"):
        write_versions.main(["suop"])
    assert "\tpython -m tools.write_versions" not in (ROOT / "Makefile").read_text()


def test_the_files_that_modules_read_count_as_code(copied, tmp_path):
    """A changed style changes the code of the report, and of no other step."""
    page = ROOT / LIBRARY / "reporting" / "page"
    data = [*page.glob("report.*"), *page.glob("vega/*.json")]
    names = {path.relative_to(ROOT).as_posix() for path in data}
    before = Code()
    assert names and names <= before.hashes("report").keys()
    with (tmp_path / "xft/reporting/page/report.css").open("a") as style:
        style.write("nav { color: red; }\n")
    edited = Code()
    assert edited.edited("summary") == []
    assert edited.edited("report") == ["xft/reporting/page/report.css"]
    assert edited.version_of("summary") == before.version_of("summary")
    assert len(edited.version_of("report")) == code.DIGITS


def test_what_a_job_asks_for_is_in_no_steps_code(copied, tmp_path):
    """An edit there makes nothing again. That of a key, or of a file's name, does."""
    assert STEP_JOBS.keys() == DECLARED.keys()
    for file, makes_again in (("dag/step_jobs.py", False), ("config/steps.py", True)):
        before = Code()
        versions = {step: before.version_of(step) for step in DECLARED}
        with (tmp_path / LIBRARY / file).open("a") as module:
            module.write("PRIORITY = 2\n")
        edited = Code()
        changed = [step for step in DECLARED if edited.version_of(step) != versions[step]]
        assert changed == (list(DECLARED) if makes_again else [])


def test_a_new_file_in_a_folder_of_data_is_code_that_was_edited(copied, tmp_path, monkeypatch):
    """Though the module that names the folder is in the cache."""
    monkeypatch.setattr("xft.store.file_hashes.SETTLED_SECONDS", -1)
    hashes = FileHashCache()
    assert Code(hashes).edited("moe_sft") == []
    (tmp_path / "xft/training/settings/new.json").write_text("{}")
    assert Code(hashes).edited("moe_sft") == ["xft/training/settings/new.json"]


@pytest.mark.parametrize("name", [".#new.json", ".new.json.swp"])
def test_a_hidden_file_of_an_editor_is_no_code(copied, tmp_path, name):
    before = Code().hashes("moe_sft")
    folder = tmp_path / "xft/training/settings"
    (folder / name).write_text("{}")
    assert Code().hashes("moe_sft") == before
