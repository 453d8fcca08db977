"""Programs as MultiPL-E has them, in languages that few machines have."""

import subprocess

import pytest
from problem_files import write_problems

from xft.evaluation.languages import LIBRARIES, find_language
from xft.evaluation.problem_sets import load_problems
from xft.evaluation.scorers import open_scorer

pytestmark = pytest.mark.slow
GO = """package twice_test
import (
    "testing"
    "fmt"
)
func twice(n int) int { return FACTOR * n }
func TestTwice(t *testing.T) { if twice(2) != 4 { t.Error(fmt.Sprint(twice(2))) } }
"""
LUA = """local function twice(n) return FACTOR * n end
lu = require('luaunit')
function test_twice() lu.assertEquals(twice(2), 4) end
os.exit(lu.LuaUnit.run())
"""
PERL = """sub twice { return FACTOR * $_[0]; }
use Test::Deep;
exit(eq_deeply(twice(2), 4) ? 0 : 1);
"""
RUBY = """def twice(n) FACTOR * n end
require 'test/unit'
class TestHumanEval < Test::Unit::TestCase
  def test_twice() assert_equal(4, twice(2)) end
end
"""
TYPESCRIPT = """function twice(n: number): number { return FACTOR * n; }
declare var require: any;
require('node:assert').deepEqual(twice(2), 4);
"""
PROGRAMS = {
    "d": "long twice(long n) { return FACTOR * n; }\nunittest { assert(twice(2) == 4); }",
    "go": GO,
    "lua": LUA,
    "php": "<?php function twice($n) { return FACTOR * $n; }\nif (twice(2) !== 4) { exit(1); }",
    "pl": PERL,
    "r": "twice <- function(n) FACTOR * n\nif (!identical(twice(2), 4)) quit('no', 1)",
    "rb": RUBY,
    "rs": "fn twice(n: isize) -> isize { FACTOR * n }\nfn main() { assert_eq!(twice(2), 4); }",
    "ts": TYPESCRIPT,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_pass_or_fail(name, tmp_path, bubblewrap):
    language = find_language(name)
    library = LIBRARIES.get(name, ("", "true", ""))[1]  # MultiPL-E's tests load it
    command = f"{language.version} && {library}"
    if subprocess.run(["sh", "-c", command], capture_output=True).returncode:
        pytest.skip(f"{command} does not run here")
    start, rest = PROGRAMS[name].split("FACTOR")
    end, tests = rest.split("\n", 1)
    row = {"language": name, "prompt": start, "tests": tests, "stop_tokens": []}
    problem_set = load_problems(str(write_problems(tmp_path / "own.jsonl", [row | {"name": "a"}])))
    codes = [f"{start}{factor}{end}" for factor in ("2", "3", "((")]
    solutions = [(*problem_set.problems, code) for code in codes]
    right, wrong, broken = open_scorer(problem_set, bubblewrap, 2).score({}, solutions)
    assert (right.plus, wrong.plus) == ("passed", "failed")
    assert broken.plus == ("compile error" if language.compile else "failed")
