"""Code of the user's that keys name: what is read of it, and what is told before it runs."""

import pytest

from xft.common.errors import UserError
from xft.common.user_code import Names, UserCode, codes_in

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


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


def test_a_text_has_one_form(file):
    code = UserCode.of(f"{file}:mean(share = .5, kept=[1, 'a//b'])")
    assert code.arguments == {"kept": [1, "a//b"], "share": 0.5}
    assert code.shown == "mine.py:mean(kept=[1, 'a//b'], share=0.5)"
    assert str(code) == f"{file.parent}/{code.shown}" and UserCode.of(str(code)) == code
    assert str(UserCode.of("mine.py:mean()")) == "mine.py:mean"
    assert codes_in("copy") == [] and codes_in(["a.py:b", "c.py:d"])[1].name == "d"
    for text in ("a.py:b(1)", "a.py:b(x=f())", "a.py:b(x)", "a.py:b(**{})", "a.py:b(x=1))"):
        with pytest.raises(ValueError, match="arguments must be literals by name"):
            UserCode.of(text)


def test_what_does_not_fit_is_told_before_the_file_runs(file):
    assert UserCode.of(f"{file}:mean(share=1)").check(MERGE) == ["load"]
    assert UserCode.of(f"{file}:Plain").check(CLASS) == []
    for text, names, message in (
        ("other.py:mean", MERGE, "there is no file"),
        (":means(share=1)", MERGE, "defines no function means: did you mean mean?"),
        (":Mines", CLASS, "defines no class Mines"),
        (":mean", CLASS, "defines no class mean"),
        (":mean", MERGE, "mean: missing a required (keyword-only )?argument: 'share'"),
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
    file.write_text("def mean(tensors, base):\n    pass\n1 / 0")
    with pytest.raises(UserError, match=r"mine.py, line 3: ZeroDivisionError"):
        UserCode.of(f"{file}:mean").load(MERGE)
