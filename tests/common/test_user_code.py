"""Code of the user's that keys name: what is read of it, and what is told before it runs. Programs:
which files they are, and that these and no others run.
"""

import sys
from pathlib import Path

import pytest

from xft.common.errors import UserError
from xft.common.user_code import Names, UserCode, codes_in, load_program, program_files

CODE = """
def mean(tensors, base, *, share, kept=0.5, load=None):
    return tensors

class Mine:
    def __init__(self, share: float = 0.5):
        self.share = share

class Plain(Mine):
    pass

def fails(tensors, base):
    pass
"""
MERGE, CLASS = Names(("tensors", "base"), ("load",)), Names(("self",))

FILES = {
    "main.py": """
import json, os.path, pkg.deep.leaf as leaf, select, xft

def total():
    import pkg.middle
    return select.VALUE + leaf.VALUE + pkg.middle.VALUE + pkg.deep.leaf.VALUE
""",
    "select.py": "from base import *",  # the standard library has a module of this name
    "base.py": "from . import again\nVALUE = 1",
    "again.py": "import base",
    "pkg/__init__.py": "",
    "pkg/middle.py": "from .deep import leaf\nfrom ..base import VALUE as ONE\nVALUE = 10 * ONE",
    "pkg/deep/__init__.py": "",
    "pkg/deep/leaf.py": "import base\nVALUE = 100 * base.VALUE",
    "unused.py": "1 / 0",
    "json/unused.py": "1 / 0",
}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


def test_a_text_has_one_form(file):
    code = UserCode.of(f"{file}:mean(share = .5, kept=[1, 'a//b'])")
    assert code.arguments == {"kept": [1, "a//b"], "share": 0.5}
    assert code.label == "mine.py:mean(kept=[1, 'a//b'], share=0.5)"
    assert str(code) == f"{file.parent}/{code.label}" and UserCode.of(str(code)) == code
    assert str(UserCode.of("mine.py:mean()")) == "mine.py:mean"
    assert codes_in("copy") == [] and codes_in(["a.py:b", "c.py:d"])[1].name == "d"


@pytest.mark.parametrize(
    "arguments",
    [
        *("(1)", "(x=f())", "(x)", "(**{})", "(x=1))", "(x=1)(y=2)", "(x={[]: 1})"),
        "(x=1, x=2)",  # Python's parser takes it, and only a call refuses it
        *("(x={'gate', 'up'})", "(x=[{'gate'}])", "(x=set())"),  # another order in each process
        *("(x=1e999)", "(x=...)"),  # their text is no literal
        *(f"(x={10**5 * '['})", f"(x={10**5 * '-'}1)", f"(x={10**5 * '9'})"),
    ],
    ids=lambda arguments: arguments[:20],
)
def test_arguments_without_one_text_are_refused(arguments):
    with pytest.raises(ValueError, match="arguments must be literals by name") as refusal:
        UserCode.of(f"a.py:b{arguments}")
    assert len(str(refusal.value)) < 300


def test_what_does_not_fit_is_told_before_the_file_runs(file):
    assert UserCode.of(f"{file}:mean(share=1)").check(MERGE) == ["load"]
    assert UserCode.of(f"{file}:Plain").check(CLASS) == []
    for text, names, message in (
        ("other.py:mean", MERGE, "there is no file"),
        (":means(share=1)", MERGE, "defines no function means: did you mean mean?"),
        (":Mines", CLASS, "defines no class Mines"),
        (":mean", CLASS, "defines no class mean"),
        (":mean", MERGE, "mean: missing a required .*argument: 'share'. It takes: share, kept"),
        (":mean(share=1, shape=2)", MERGE, "mean: got an unexpected keyword argument 'shape'"),
        (":mean(share=1, load=2)", MERGE, "got multiple values for keyword argument 'load'"),
        (":Mine(rate=1)", CLASS, "Mine: got an unexpected keyword argument 'rate'"),
        (":fails", Names(("tensors", "shares")), "must have the parameters tensors, shares"),
    ):
        with pytest.raises(UserError, match=message):
            UserCode.of(f"{file}{text}" if text.startswith(":") else text).check(names)
    file.write_text("def mean(tensors")
    with pytest.raises(UserError, match="is not valid Python: '\\(' was never closed"):
        UserCode.of(f"{file}:mean").check(MERGE)
    file.write_text("def mean(tensors, tensors): ...")  # only the compiler refuses it
    with pytest.raises(UserError, match="is not valid Python: duplicate argument"):
        UserCode.of(f"{file}:mean").check(MERGE)
    file.write_text("def mean(tensors, base):\n    pass\n1 / 0")
    with pytest.raises(UserError, match=r"mine.py, line 3: ZeroDivisionError"):
        UserCode.of(f"{file}:mean").load(MERGE)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "main.py"


def test_a_program_is_its_file_and_those_in_its_folder_that_it_imports(tmp_path, monkeypatch):
    """Another program, the working directory and the installed modules do not change it."""
    first = write(tmp_path / "first", FILES)
    second = write(tmp_path / "second", FILES | {"base.py": "VALUE = 2"})
    used = {str(Path(name)) for name in FILES if "unused" not in name}
    before = {*tmp_path.rglob("*")}
    monkeypatch.chdir(write(tmp_path / "elsewhere", {"base.py": "1 / 0"}).parent)
    files = program_files(first)
    assert {str(file.relative_to(first.parent)) for file in files.values()} == used
    programs = load_program(first), load_program(second)
    assert [program.total() for program in programs] == [211, 422]
    assert "VALUE" not in vars(sys.modules["select"]) and "base" not in sys.modules
    write(first.parent, {"base.py": "VALUE = 3"})  # of the same size, within the same second
    assert load_program(first).total() == 633
    assert {*tmp_path.rglob("*")} - before == {*Path.cwd().rglob("*"), Path.cwd()}


def test_a_module_whose_content_would_be_unknown_is_refused(tmp_path, monkeypatch):
    """It is in the working directory, in a folder without __init__.py, or not Python."""
    files = {"near.py": "from there.a import b", "there/a.py": "", "bad.py": "1 1"}
    monkeypatch.chdir(write(tmp_path, {"far.py": ""}).parent)
    for text, message in (
        ("import far", r"main.py imports far, which .* Put far.py or far/__init__.py into .*/lib$"),
        ("def f():\n    from lib.near import x", r"main.py imports lib, which is in the working"),
        ("import near", "near.py imports there, which .*in a folder without __init__.py"),
        ("from . import bad", "bad.py is not valid Python"),
    ):
        main = write(tmp_path / "lib", files | {"main.py": text})
        with pytest.raises(UserError, match=message):
            program_files(main)
