"""Programs as MultiPL-E has them, in all languages, which few machines have."""

import subprocess

import pytest
from problem_files import write_problems

from xft.evaluation.forms import load_problems
from xft.evaluation.languages import LANGUAGES, LIBRARIES, find_language
from xft.evaluation.scorers import open_scorer

pytestmark = pytest.mark.slow
CPP = """#include <cassert>
#include <cstdlib>
int twice(int n) { return FACTOR * n; }
int main() { assert(twice(2) == 4); }
"""
GO = """package twice_test
import (
    "testing"
    "fmt"
    "os"
)
var exit = os.Exit
func twice(n int) int { return FACTOR * n }
func TestTwice(t *testing.T) { if twice(2) != 4 { t.Error(fmt.Sprint(twice(2))) } }
"""
JAVA = """class Problem {
    static int twice(int n) { return FACTOR * n; }
    public static void main(String[] args) { assert(twice(2) == 4); }
}
"""
LUA = """local function twice(n) return FACTOR * n end
lu = require('luaunit')
function test_twice() lu.assertEquals(twice(2), 4) end
os.exit(lu.LuaUnit.run())
"""
PERL = """sub twice { return FACTOR * $_[0]; }
use Test::Deep;
if(eq_deeply(twice(2), 4)) { print "ok!" }else{ exit 1; }
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
D = "long twice(long n) { return FACTOR * n; }\nunittest { assert(twice(2) == 4); }\nvoid main(){}"
GO_MAIN = "package main\nfunc twice(n int) int { return FACTOR * n }\n"
GO_MAIN += 'func main() { if twice(2) != 4 { panic("wrong") } }'
PROGRAMS = {
    "cpp": CPP,
    "d": D,
    "go": GO,
    "go, a program": GO_MAIN,
    "java": JAVA,
    "js": "function twice(n) { return FACTOR * n; }\nrequire('node:assert').equal(twice(2), 4)",
    "lua": LUA,
    "php": "<?php function twice($n) { return FACTOR * $n; }\nif (twice(2) !== 4) { exit(1); }",
    "pl": PERL,
    "py": "def twice(n): return FACTOR * n\nassert twice(2) == 4",
    "r": "twice <- function(n) FACTOR * n\nif (!identical(twice(2), 4)) quit('no', 1)",
    "rb": RUBY,
    "rs": "fn twice(n: isize) -> isize { FACTOR * n }\nfn main() { assert_eq!(twice(2), 4); }",
    "sh": "twice() { echo $((FACTOR * $1)); }\nset -e\n[[ $(twice 2) = 4 ]]",
    "ts": TYPESCRIPT,
}
# Factors that stop the program before its tests, or stop the tests.
STOPS = {
    "cpp": [
        "(exit(0), 2)",
        "3 * n; }\nint main() { return 0; }\n#define main() other()\nint another(int n) { return 2",
        "3 * n; }\n#undef assert\n#define assert(holds)\nint other(int n) { return 2",
    ],
    "d": ["2 * n; }\nvoid main(){}\n__EOF__\nlong other(long n) { return 2"],
    "go": ["2 * n }\nfunc init() { exit(0) }\nfunc other(n int) int { return 2"],
    "java": [
        "2 * n; } static { System.exit(0); } static int other(int n) { return 2",
        "2 * n; } }\nclass Main { public static void main(String[] a) { } }\n"
        "class Other extends Problem { static int twice(int n) { return 3",
    ],
    "js": [
        "2; }\nreturn;\nfunction other(n) { return 2",
        "2; }\nprocess.on('uncaughtException', () => {});\nfunction other(n) { return 2",
    ],
    "lua": ["2 * n end\nos.exit(0)\nfunction other(n) return 2"],
    "php": ["2; }\nexit(0);\nfunction other($n) { return 2", "2; } ?> <?php function other() { 2"],
    "pl": ["2; }\n__END__\nsub other { return 2", "2; }\n=pod\nsub other { return 2"],
    "py": ["__import__('os')._exit(0)"],
    "r": ["2\nquit('no')\nother <- function(n) 2"],
    "rb": ["2\nend\n__END__\ndef other(n) 2", "exit(0)"],
    "rs": ["(std::process::exit(0) as isize)"],
    "sh": ["2)); }\nset -n\nother() { echo $((2", "2)); }\ncat <<'END'\nother() { echo $((2"],
    "ts": ["require('process').exit(0)"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_pass_or_fail(name, tmp_path, bubblewrap):
    language = find_language(name.partition(",")[0])
    library = LIBRARIES.get(name, ("", "true", ""))[1]  # MultiPL-E's tests load it
    command = f"{language.version} && {library}"
    if subprocess.run(["sh", "-c", command], capture_output=True).returncode:
        pytest.skip(f"{command} does not run here")
    start, rest = PROGRAMS[name].split("FACTOR")
    end, tests = rest.split("\n", 1)
    row = {"language": language.name, "prompt": start, "tests": tests, "stop_tokens": []}
    problem_set = load_problems(str(write_problems(tmp_path / "own.jsonl", [row | {"name": "a"}])))
    expected = {"2": "passed", "3": "failed"} | dict.fromkeys(STOPS.get(name, []), "failed")
    expected["(("] = "compile error" if language.compile else "failed"
    solutions = [(*problem_set.problems, f"{start}{factor}{end}") for factor in expected]
    verdicts = open_scorer(problem_set, bubblewrap, 2).score({}, solutions)
    assert dict(zip(expected, [v.plus for v in verdicts], strict=True)) == expected


def test_each_language_has_an_example():
    assert {name.partition(",")[0] for name in PROGRAMS} == LANGUAGES.keys() == STOPS.keys()
