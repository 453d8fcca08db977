"""What decides about a step's result, and what does not."""

import ast
import shutil

import pytest
from chains import Chain

from xft.artifacts import code
from xft.artifacts.code import LIBRARY, PRESENTATION, ROOT, STEPS, code_hashes
from xft.config.step_keys import READS

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
    for cached in (code._file_hash, code._tree):
        cached.cache_clear()
    return code._file_hash(file)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("import torch\n", "import torch  # the library\n\n\n", True),
        ('"""Twice."""', '"""Two times.\n\n    x: a number."""', True),
        ('f"no {x}"', '"there is nothing to double"', True),
        ('print("doubling")', 'say("twice")', True),
        ("return 2 * x", "return x * 2", False),
        ("2 * x", "'2.0' * x", False),
        ("x is None", "x is not None", False),
        ("def double(x)", "def double(x=1)", False),
    ],
)
def test_the_hash_is_of_what_code_does(tmp_path, old, new, same):
    assert old in SOURCE
    assert (hash_of(SOURCE, tmp_path) == hash_of(SOURCE.replace(old, new), tmp_path)) is same


def test_other_versions_of_python_give_the_same_hash(tmp_path):
    """An empty list of type parameters, which Python 3.12 adds to functions, changes nothing."""
    tree = ast.parse(SOURCE)
    plain = code._plain(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.type_params = []
            node._fields = (*ast.FunctionDef._fields, "type_params")
    assert code._plain(tree) == plain


def test_each_step_has_its_code_and_no_presentation():
    for step in READS:
        modules = set(code_hashes(step))
        assert f"{STEPS}/{step}.py" in modules
        assert not modules & PRESENTATION
    assert "xft/training/trainer.py" in code_hashes("moe_sft")
    assert "xft/modeling/router.py" in code_hashes("eval")
    assert all((ROOT / module).is_file() for module in PRESENTATION)


def test_the_files_that_modules_read_count_as_code(tmp_path, monkeypatch):
    """A changed style changes the code of the report, and of no other step."""
    data = (ROOT / LIBRARY / "reporting" / "page").glob("report.*")
    names = {path.relative_to(ROOT).as_posix() for path in data}
    assert names and names <= code_hashes("report").keys()
    for package in (STEPS, LIBRARY):
        shutil.copytree(ROOT / package, tmp_path / package)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    before = {step: code_hashes(step) for step in ("report", "summary")}
    with (tmp_path / "xft/reporting/page/report.css").open("a") as style:
        style.write("nav { color: red; }\n")
    code._file_hash.cache_clear()
    assert code_hashes("summary") == before["summary"]
    changed = code_hashes("report").items() ^ before["report"].items()
    assert {name for name, _ in changed} == {"xft/reporting/page/report.css"}


def test_presentation_decides_about_no_byte_but_the_cards(
    tiny_llama, tmp_path, monkeypatch, file_hashes
):
    """The conversions, with all cards and progress exchanged for something else."""

    def convert(folder):
        sizes = ["--num-experts", "3", "--num-experts-per-tok", "2"]
        return file_hashes(Chain(folder, {"moe": sizes}, base=tiny_llama)["dense"].parent)

    before = convert(tmp_path / "before")
    for name in ("moe_card", "dense_card"):
        monkeypatch.setattr(f"xft.reporting.cards.{name}", lambda *_: "another card")
    monkeypatch.setattr("xft.common.progress.SECONDS_BEFORE_FIRST", 0)
    after = convert(tmp_path / "after")
    changed = {name for name in before if after[name] != before[name]}
    cards = {"moe/README.md", "dense/README.md"}
    assert cards <= changed
    assert {name for name in changed - cards if not name.endswith(".manifest.json")} == set()
