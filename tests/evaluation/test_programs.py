"""Problems whose tests are a program, in any language: reading, prompts, verdicts, results."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest
from problem_files import DOUBLE, write_problems
from pyarrow import parquet
from working_folder import CONFIG, fill, wants

from workflow_scripts import eval as evaluate
from workflow_scripts import ground_truth
from xft.common.errors import UserError
from xft.common.json_files import read_json_lines
from xft.dag.problem_checks import missing_toolchains
from xft.dag.snakemake_run import SnakemakeRun
from xft.data.prompt_templates import COMPLETION, make_template
from xft.evaluation import languages, program_scoring
from xft.evaluation.forms import PROGRAMS, load_problems
from xft.evaluation.languages import commands, find_language, main_class
from xft.evaluation.prompts import task_prompts
from xft.evaluation.references import fingerprints
from xft.evaluation.result import samples_path, units_of
from xft.evaluation.sandbox import Ended
from xft.evaluation.scorers import open_scorer
from xft.hub.named_sets import Translation
from xft.tools import plan


@pytest.fixture
def statuses(make, bubblewrap):
    """Callable (rows, completions): the status of each."""

    def judge(rows: list[dict], completions: list[str]) -> list[str]:
        data_set = make(*rows)
        prompts = task_prompts(data_set, COMPLETION)
        codes = [p.solution(text) for p, text in zip(prompts, completions, strict=True)]
        solutions = list(zip(data_set.problems, codes, strict=True))
        return [v.plus for v in open_scorer(data_set, bubblewrap, 2).score({}, solutions)]

    return judge


def test_rows_are_read_from_json_lines_and_parquet(make, tmp_path):
    found = make(DOUBLE)
    (problem,) = found.problems
    assert (found.form, problem.task_id, problem.unit) == (PROGRAMS, DOUBLE["name"], "HumanEval/7")
    parquet.write_table(pyarrow.Table.from_pylist([DOUBLE]), tmp_path / "own.parquet")
    again = load_problems(str(tmp_path / "own.parquet"))
    assert (again.problems, again.name) == (found.problems, "own")
    row = DOUBLE | {"language": "python", "task_id": "A/1", "unit": "mbpp_3_is_not_prime"}
    del row["name"], row["original"]
    (problem,) = make(row).problems
    assert (problem.task_id, problem.language, problem.unit) == ("A/1", "py", "Mbpp/3")


def test_bad_rows_are_named(make):
    for changes, message in (
        ({"language": "go_test.go"}, "no language 'go_test.go' here, only py, js, .* go, sh, "),
        ({"tests": " \n"}, "line 2: tests: "),
        ({"stop_tokens": [""]}, "line 2: stop_tokens.0: "),
        ({"task_id": DOUBLE["name"]}, "a task_id more than once: HumanEval_7_double"),
    ):
        with pytest.raises(UserError, match=message):
            make(DOUBLE, DOUBLE | {"name": "second"} | changes)


def test_a_prompt_ends_where_the_row_says_and_a_tuned_model_gets_a_template(make):
    data_set = make(DOUBLE)
    (prompt,) = task_prompts(data_set, COMPLETION)
    assert prompt.text == DOUBLE["prompt"]
    assert prompt.solution("    echo 1\n}\necho 2") == DOUBLE["prompt"] + "    echo 1"
    (prompt,) = task_prompts(data_set, make_template("magicoder", None))
    code = DOUBLE["prompt"].strip()
    assert f"problem:\n```bash\n{code}\n```" in prompt.text
    assert prompt.text.endswith(f"```bash\n{code}")
    for end in ("\n}\nmore", "```\nprose"):
        assert prompt.solution("\n    echo 1" + end) == code + "\n    echo 1"


def test_no_training_row_may_hold_a_prompt_or_a_solution(make):
    long = DOUBLE | {"canonical_solution": "    local twice=$((2 * $1)); echo $twice"}
    assert [own.kind for own in fingerprints(make(long))] == ["prompt", "solution"]
    del long["canonical_solution"]
    assert [own.kind for own in fingerprints(make(long))] == ["prompt"]


def test_verdicts_on_bash(statuses, monkeypatch):
    monkeypatch.setattr(program_scoring, "SECONDS", 1.0)
    completions = {DOUBLE["canonical_solution"]: "passed", "    echo $((3 * $1))": "failed"}
    completions |= {"": "empty", "    while true; do :; done": "timed out", "    if": "failed"}
    right = DOUBLE["canonical_solution"] + "; }}; {}; other() {{ :"
    completions |= {right.format("seq 300000"): "passed", right.format("exit 0"): "failed"}
    rows = [DOUBLE | {"name": f"T/{number}"} for number in range(len(completions))]
    assert statuses(rows, [*completions]) == [*completions.values()]


def test_equal_programs_run_once_and_again_if_late(make, bubblewrap, monkeypatch):
    ran = []
    run = program_scoring.run

    def late_once(program, *about) -> Ended:
        ran.append(program)
        return run(program, *about) if len(ran) > 1 else Ended("timed out")

    data_set = make(DOUBLE)
    scorer = open_scorer(data_set, bubblewrap, 2)
    monkeypatch.setattr(program_scoring, "run", late_once)
    (problem,) = data_set.problems
    solutions = [(problem, problem.canonical_program)] * 3
    verdicts = scorer.score({}, solutions)
    assert [verdict.base for verdict in verdicts] == ["passed"] * 3 and len(ran) == 2


def test_canonical_solutions_that_do_not_pass_are_told(make, bubblewrap, capsys):
    wrong = DOUBLE | {"name": "W/1", "canonical_solution": "    echo 'no error here' >&2; echo 9"}
    without = {key: value for key, value in DOUBLE.items() if key != "canonical_solution"}
    data_set = make(DOUBLE, wrong, without | {"name": "W/2"})
    assert open_scorer(data_set, bubblewrap, 1).expected() == {}
    told = capsys.readouterr().err
    assert "1 canonical solution of" in told and "line 2, W/1: failed: no error here" in told


def test_a_missing_toolchain_is_told_with_its_packages(make, bubblewrap, monkeypatch):
    monkeypatch.setattr(languages, "find_executable", lambda name: None)
    with pytest.raises(UserError, match=r"not found on PATH; nothing was run.*apt install golang"):
        open_scorer(make(DOUBLE | {"language": "go"}), bubblewrap, 1)
    monkeypatch.setenv("CLASSPATH", "")
    monkeypatch.setattr(languages, "JARS", Path("/nonexistent"))
    java = DOUBLE | {"language": "java", "prompt": "import org.javatuples.*;\n"}
    with pytest.raises(UserError, match=r"apt install libjavatuples-java.*set CLASSPATH"):
        open_scorer(make(java), bubblewrap, 1)


def test_what_tests_load_must_be_here_and_in_the_sandbox(make, bubblewrap, monkeypatch, tmp_path):
    """Else all solutions would fail."""
    for file, message in (
        ("/nonexistent", "double for problems in sh not found.* apt install libdouble"),
        (tmp_path, f"ls {tmp_path}, for problems in sh, does not work in the sandbox; .* No such"),
    ):
        monkeypatch.setitem(languages.LIBRARIES, "sh", ("double", f"ls {file}", "libdouble"))
        with pytest.raises(UserError, match=message):
            open_scorer(make(DOUBLE), bubblewrap, 1)
    open_scorer(make(DOUBLE | {"prompt": "", "tests": "true"}), bubblewrap, 1)


PYENV_SHIM = """#!/usr/bin/env bash
set -e
program="${{0##*/}}"
export PYENV_ROOT="{root}"
exec "{root}/libexec/pyenv" exec "$program" "$@"
"""
PYENV = """#!/bin/sh
[ "$1" = exec ] && shift && shift && exec {python} "$@"
[ "$1 $2" = "which python3" ] && echo {python}
"""


def test_a_language_of_a_version_manager_runs(statuses, monkeypatch, tmp_path):
    """Its programs on PATH are scripts that start it, which no program in the sandbox sees."""
    shim, manager = tmp_path / "shims" / "python3", tmp_path / "libexec" / "pyenv"
    python = Path(sys.executable).resolve().with_name("python3")
    texts = {shim: PYENV_SHIM.format(root=tmp_path), manager: PYENV.format(python=python)}
    for script, text in texts.items():
        script.parent.mkdir()
        script.write_text(text)
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent), prepend=":")
    monkeypatch.setattr(languages, "find_executable", languages.find_executable.__wrapped__)
    row = {"task_id": "T/1", "language": "py", "prompt": "", "tests": "assert x", "stop_tokens": []}
    assert statuses([row], ["x = 1"]) == ["passed"]


def test_a_run_and_a_plan_tell_what_is_missing_before(place, monkeypatch, capsys):
    """Of the problems that a job will judge, and on this machine."""
    rows = [DOUBLE | {"name": name, "language": name} for name in ("go", "lua")]
    write_problems(Path("programs.jsonl"), rows)
    monkeypatch.setattr(languages, "find_executable", lambda name: None)
    monkeypatch.setattr(Translation, "ask", lambda chosen: None)  # the hub has it
    datasets = {"datasets": ["problems.jsonl", "programs.jsonl", "multipl-e/mbpp-rb"]}
    datasets["max_new_tokens"] = 8
    run = wants(evaluation=datasets | {"limit": 1})
    fault, other = missing_toolchains(run.to_make)
    assert re.fullmatch(r"go for problems in go not found.* conda install -c conda-forge go", fault)
    assert other.startswith("ruby for problems in rb")
    of_ruby = [node for node in run.to_make if "mbpp-rb" in node.name]
    assert missing_toolchains(of_ruby) == [other]  # other sets may be evaluated already
    digests = [SimpleNamespace(digest=node.digest) for node in run.to_make]
    for is_here in (True, False):
        jobs = [SimpleNamespace(resources={}, wildcards=digest) for digest in digests]
        workflow = SimpleNamespace(local_exec=is_here)
        started = SimpleNamespace(run=run, config=run.config, deployment=(), workflow=workflow)
        started._jobs = lambda jobs=jobs: jobs
        with pytest.raises(SystemExit, match=r"^go for") if is_here else nullcontext():
            SnakemakeRun.start(started, place)
    (place / "config.yaml").write_text(json.dumps(CONFIG | {"evaluation": datasets}))
    for flags, missing in (([], ["go", "lua", "ruby"]), (["--gpu", "h100"], [])):
        plan.main(["--config", "config.yaml", *flags])
        assert re.findall("^Missing here: (\\w+) for", capsys.readouterr().out, re.M) == missing
    fill(run)
    assert missing_toolchains(run.experiment.wanted) == []


def test_a_java_file_is_named_by_its_outermost_class_with_main():
    program = Path(__file__).with_name("classes.java").read_text()
    assert main_class(program) == "Problem"
    for words, file in (("class Last", "Problem"), ("public final class Last", "Last")):
        names = commands(find_language("java"), program.replace("class Last", words))
        assert names[0] == f"{file}.java" and names[2].endswith(" Problem")


def test_the_steps_judge_programs(tiny_llama, tmp_path, bubblewrap):
    """Programs need no expected results. Their result can be judged again."""
    file, out, truth = (tmp_path / name for name in ("double.jsonl", "r.json", "truth"))
    write_problems(file, [DOUBLE])
    ground_truth.main(["--dataset", str(file), "--out", str(truth)])
    paths = ["--model", tiny_llama, "--dataset", file, "--out", out, "--ground-truth", truth]
    flags = ["--max-new-tokens", 4, "--samples", 2, "--temperature", 1, "--threads", 1]
    command = [str(word) for word in (*paths, *flags, "--prompt", "completion")]
    evaluate.main(command)
    generations = samples_path(out)
    first, second = map(json.loads, generations.read_text().splitlines())
    first["solution"] = DOUBLE["prompt"] + DOUBLE["canonical_solution"]
    write_problems(generations, [first, second])
    evaluate.main([*command, "--rescore"])
    result = json.loads(out.read_text())
    assert result["pass@1"] == {"base": 0.5, "plus": 0.5}
    assert "bash" in result["versions"]["sh"] and "2 GiB" in result["settings"]["memory_bound"]
    found = [(row["plus"], row["unit"]) for row in result["problems"]]
    assert found == [("passed", "HumanEval/7"), ("failed", "HumanEval/7")]
    assert units_of(result) == ["HumanEval/7"]


# Wrong answers that run their program again without its assertions: in another process, or loaded
# so by a class of the answer.
RERUN = """        return 0;
    }
    static { if (System.getProperty("again") == null) Other.start(MAIN); }
    static class Other {
        static void start(String... words) {
            String[] command = {"java", "-Dagain=1", "-cp", ".", words[0], words[1], words[2]};
            try { System.exit(new ProcessBuilder(command).inheritIO().start().waitFor()); }
            catch (Exception error) { System.exit(1); }
        }
        public static void main(String[] words) throws Exception {
            var loader = ClassLoader.getSystemClassLoader();
            loader.setClassAssertionStatus("Problem", false);
            Class.forName("Problem");
            loader.setClassAssertionStatus("Problem", true);
            var main = Class.forName(words[0]).getMethod("main", String[].class);
            main.setAccessible(true);
            main.invoke(null, (Object) words);
        }"""
JAVA_MAIN = 'System.getProperty("sun.java.command")'
WITHOUT_ASSERTIONS = {
    "py": [
        """    import os, sys
    if __debug__:
        os.execv(sys.executable, [sys.executable, "-O", __file__])""",
        """    if __debug__:
        code = compile(open(__file__).read(), __file__, "exec", optimize=1)
        exec(code, {"__name__": "__main__"})
        raise SystemExit(0)""",
    ],
    "java": [
        RERUN.replace("MAIN", f'"-da", {JAVA_MAIN}, ""'),
        RERUN.replace("MAIN", f'"-ea", "Problem$Other", {JAVA_MAIN}'),
    ],
    "cpp": [
        """    return 0;
}
#include <cstdlib>
static int again = [] {
    if (getenv("AGAIN")) return 0;
    setenv("AGAIN", "1", 1);
    std::exit(system("g++ -DNDEBUG -o again main.cpp && ./again") != 0);
}();
long other() {
    return 0;"""
    ],
}
DOUBLES = {  # prompt, right, wrong, tests
    "py": ("def double(x):\n", "    return 2 * x", "    return 3 * x", "assert double(4) == 8"),
    "java": (
        "class Problem {\n    static long twice(long x) {\n",
        "        return 2 * x;",
        "        return 3 * x;",
        "    }\n    public static void main(String[] args) {\n    assert(twice(4) == 8);\n    }\n}",
    ),
    "cpp": (
        "#include <cassert>\nlong twice(long x) {\n",
        "    return 2 * x;",
        "    return 3 * x;",
        "}\nint main() {\n    assert(twice(4) == 8);\n}",
    ),
}


@pytest.mark.parametrize("language", DOUBLES)
def test_no_program_passes_with_its_assertions_off(statuses, language):
    if not shutil.which(program := find_language(language).version.split()[0]):
        pytest.skip(f"{program} is not installed")
    prompt, right, wrong, tests = DOUBLES[language]
    row = {"language": language, "prompt": prompt, "tests": tests, "stop_tokens": ["```"]}
    completions = [right, wrong, *WITHOUT_ASSERTIONS[language]]
    rows = [row | {"task_id": f"T/{number}"} for number in range(len(completions))]
    assert statuses(rows, completions) == ["passed", *["failed"] * (len(completions) - 1)]


# MultiPL-E's own files. The largest element of a list, and the smallest, are written by hand.
LARGEST = {
    "cpp": ("    return *std::max_element(l.begin(), l.end());", "max_", "min_"),
    "js": ("  return Math.max(...l);\n}", "max", "min"),
    "sh": ("    tr ' ' '\\n' <<< \"$1\" | sort -n | tail -1", "tail", "head"),
    "java": ("        return Collections.max(l);", "max", "min"),
    "php": ("    return max($l);\n}", "max", "min"),
}
COMPILED = ("cpp", "java")


@pytest.fixture
def javatuples(tmp_path, monkeypatch):
    """A jar with an empty package of that name."""
    source = tmp_path / "Pair.java"
    source.write_text("package org.javatuples;\npublic class Pair {}\n")
    subprocess.run(["javac", "-d", tmp_path / "classes", source], check=True)
    jar = tmp_path / "javatuples.jar"
    subprocess.run(["jar", "cf", jar, "-C", tmp_path / "classes", "."], check=True)
    monkeypatch.setenv("CLASSPATH", str(jar))


@pytest.mark.parametrize("language", LARGEST)
def test_multipl_e_is_judged(request, shared, statuses, language):
    if not shutil.which(program := find_language(language).version.split()[0]):
        pytest.skip(f"{program} is not installed")
    if language == "java":
        request.getfixturevalue("javatuples")
    file = shared / "data" / "multipl-e" / f"humaneval-{language}.jsonl.gz"
    known = {row["name"]: row for _, row in read_json_lines(file)}
    right, *names = LARGEST[language]
    expected = {right: "passed", right.replace(*names): "failed", "": "empty"}
    expected["    ,,"] = "compile error" if language in COMPILED else "failed"
    rows = [known["HumanEval_35_max_element"] | {"name": name} for name in "abcd"]
    assert statuses(rows, [*expected]) == [*expected.values()]
