"""Programs as MultiPL-E has them, in all languages, which few machines have."""

import subprocess
import tomllib
from pathlib import Path

import pytest
from problem_files import write_problems

from xft.evaluation.forms import load_problems
from xft.evaluation.languages import LANGUAGES, LIBRARIES, find_language
from xft.evaluation.scorers import open_scorer

pytestmark = pytest.mark.slow
EXAMPLES = tomllib.loads(Path(__file__).with_name("languages.toml").read_text())


@pytest.mark.parametrize("name", EXAMPLES)
def test_programs_pass_or_fail(name, tmp_path, bubblewrap):
    language = find_language(name.partition(",")[0])
    library = LIBRARIES.get(name, ("", "true", ""))[1]  # MultiPL-E's tests load it
    command = f"{language.version} && {library}"
    if subprocess.run(["sh", "-c", command], capture_output=True).returncode:
        pytest.skip(f"{command} does not run here")
    start, rest = EXAMPLES[name]["program"].split("FACTOR")
    end, tests = rest.split("\n", 1)
    row = {"language": language.name, "prompt": start, "tests": tests, "stop_tokens": []}
    data_set = load_problems(str(write_problems(tmp_path / "own.jsonl", [row | {"name": "a"}])))
    expected = {"2": "passed", "3": "failed"}
    expected |= dict.fromkeys(EXAMPLES[name].get("stops", []), "failed")
    expected["(("] = "compile error" if language.compile else "failed"
    solutions = [(*data_set.problems, f"{start}{factor}{end}") for factor in expected]
    verdicts = open_scorer(data_set, bubblewrap, 2).score({}, solutions)
    assert dict(zip(expected, [v.plus for v in verdicts], strict=True)) == expected


def test_each_language_has_an_example():
    assert {name for name in EXAMPLES if "stops" in EXAMPLES[name]} == {*LANGUAGES}
