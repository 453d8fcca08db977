"""The languages of problems that are programs, and where their compilers and runtimes are."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from xft.common.errors import UserError, collecting_errors

# Options for a JVM, which otherwise sizes itself by the machine. They are {small} below, and
# {javac} for the compiler.
SMALL = "-Xmx1g -XX:+UseSerialGC -XX:-UsePerfData -XX:ActiveProcessorCount=2"
JAVAC_OPTIONS = f"{SMALL} -XX:TieredStopAtLevel=1"
JAVAC = " ".join(f"-J{option}" for option in JAVAC_OPTIONS.split())
FILE = Path(__file__).with_name("languages.toml")


@dataclass(frozen=True)
class Language:
    """A language, as `languages.toml` says it. name: MultiPL-E's."""

    name: str
    fence: str
    file: str
    run: str
    version: str
    debian: str
    conda: str
    end: str
    compile: str = ""
    settings: str = ""
    start: str = ""
    in_main: bool = False


ROWS = [Language(name, **row) for name, row in tomllib.loads(FILE.read_text()).items()]
LANGUAGES = {language.name: language for language in ROWS}
CODES = {language.fence: language.name for language in reversed(ROWS)}  # such as js of javascript
GO_TESTS = LANGUAGES.pop("go_test.go")
# Texts and comments of a Java program, and what is looked for in the rest.
JAVA_TEXTS = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
JAVA_PARTS = re.compile(r"[{}]|\b(?:class|enum|record|interface)\s+(\w+)|\bvoid\s+main\s*\(")
JAVA_PUBLIC = re.compile(r"\bpublic\s+(?:\w+\s+){0,3}(?:class|enum|record|interface)\s+(\w+)")
JAVATUPLES = "org.javatuples"
# How pyenv, rbenv and others start a program of the version that is chosen.
SHIM = re.compile(r'^exec "([^"]+)" exec "\$program"', re.MULTILINE)
JARS = Path("/usr/share/java")
# What MultiPL-E's tests load beside a language's own library: by language its name in a program, a
# command that loads it, and its package of Debian.
LIBRARIES = {
    "pl": ("Test::Deep", "perl -MTest::Deep -e 1", "libtest-deep-perl"),
    "lua": ("luaunit", "lua -lluaunit -e a=1", "lua-unit"),
    "rb": ("test/unit", "ruby -rtest/unit -e exit!true", "ruby-test-unit"),
}
MULTIPL_E_LOADS = {"java": JAVATUPLES} | {name: row[0] for name, row in LIBRARIES.items()}


def find_language(name: str) -> Language:
    """A language by MultiPL-E's name, or python. Raises UserError."""
    known = "py" if name == "python" else name
    if known not in LANGUAGES:
        raise UserError(f"there is no language {name!r} here, only {', '.join(LANGUAGES)}")
    return LANGUAGES[known]


def commands(language: Language, program: str) -> tuple[str, str, str]:
    """The name of a program's file, and the commands that compile and run it."""
    main = main_class(program)
    public = JAVA_PUBLIC.search(_without_texts(program))
    file = public[1] if public else main
    words = {"main": main, "file": file, "small": SMALL, "javac": JAVAC}
    built = as_built(language, program)
    return (
        built.file.format(**words),
        built.compile.format(**words),
        built.run.format(**words),
    )


def as_built(language: Language, program: str) -> Language:
    """The language, or that of Go's tests, which are no program."""
    return GO_TESTS if language.name == "go" and "func Test" in program else language


def main_class(program: str) -> str:
    """The outermost Java class that holds the last `main`: the tests', not an answer's own."""
    with_main = "Main"
    outermost = "Main"
    depth = 0
    for part in JAVA_PARTS.finditer(_without_texts(program)):
        declared = part[1]
        if declared:
            if depth == 0:
                outermost = declared
        elif part[0] == "{":
            depth += 1
        elif part[0] == "}":
            depth -= 1
        else:
            with_main = outermost
    return with_main


def _without_texts(program: str) -> str:
    """A Java program without its texts and comments."""
    return JAVA_TEXTS.sub(" ", program)


def class_path(programs: str) -> list[Path]:
    """The jars for Java programs: the files that the variable CLASSPATH names, else javatuples.

    Raises UserError if the programs need javatuples and it is not on this machine.
    """
    named = [Path(name) for name in os.environ.get("CLASSPATH", "").split(":") if name]
    jars = [jar.absolute() for jar in named if jar.is_file()]
    if not jars:
        jars = sorted(JARS.glob("javatuples*.jar"))
    if JAVATUPLES in programs and not any("javatuples" in jar.name for jar in jars):
        raise UserError(
            f"these Java problems import {JAVATUPLES}, which is not on this machine; nothing was "
            "run. Install it (apt install libjavatuples-java), or fetch javatuples-1.2.jar from "
            "Maven Central (org.javatuples:javatuples:1.2) and set CLASSPATH to its path"
        )
    return jars


@cache
def find_executable(name: str) -> Path | None:
    """An executable on PATH: the file behind its links, if that has the same name."""
    on_path = shutil.which(name)
    if on_path is None:
        return None
    program = _behind_shim(Path(on_path)) or on_path
    real = Path(program).resolve()
    if real.name == "rustup":  # it stands for the programs of a toolchain
        words = [program, "--print", "sysroot"]
        root = subprocess.run(words, capture_output=True, text=True).stdout.strip()
        return Path(root, "bin", name)
    of_same_name = real.with_name(name)
    return of_same_name if of_same_name.exists() else Path(program).absolute()


def _behind_shim(program: Path) -> str | None:
    """The program that a script of pyenv, or of a manager made like it, starts. None: no script."""
    if program.parent.name != "shims":
        return None
    manager = SHIM.search(program.read_text(errors="replace"))
    if manager is None or not Path(manager[1]).is_file():
        return None
    words = [manager[1], "which", program.name]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or None


class Parts(NamedTuple):
    """The parts of this machine that programs of a language need.

    executables: compilers and runtimes.
    jars: for Java.
    library: a command that loads what the tests load; empty if they load nothing.
    """

    executables: tuple[Path, ...]
    jars: tuple[Path, ...]
    library: str


def find_toolchains(programs: Iterable[tuple[str, str]]) -> dict[str, Parts]:
    """The parts that programs need, by their language.

    programs: language and text. Raises UserError for all that is missing on this machine.
    """
    texts: dict[str, list[str]] = {}
    for name, text in programs:
        texts.setdefault(name, []).append(text)
    toolchains = {}
    faults = []
    for name, of_language in texts.items():
        text = "".join(of_language)
        with collecting_errors(faults):
            jars = tuple(class_path(text)) if name == "java" else ()
            executables = tuple(_find_executables(find_language(name)))
            library = _find_library(name, text)
            toolchains[name] = Parts(executables, jars, library)
    if faults:
        raise UserError("\n".join(faults))
    return toolchains


def _find_library(language: str, text: str) -> str:
    """The command that loads a library, if a text needs it. Raises UserError if that fails."""
    word, command, package = LIBRARIES.get(language, ("", "", ""))
    if not word or word not in text:
        return ""
    done = subprocess.run(command.split(), stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise UserError(
            f"{word} for problems in {language} not found: {command} fails; nothing was run. "
            f"Install it beside the language: apt install {package}"
        )
    return command


def _find_executables(language: Language) -> list[Path]:
    """The executables of a language. Raises UserError if one is missing."""
    names = [command.split()[0] for command in (language.compile, language.run) if command]
    executables = {name: find_executable(name) for name in names if not name.startswith("./")}
    missing = [name for name, file in executables.items() if file is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} for problems in {language.name} not found on PATH; nothing "
            f"was run. Install it: apt install {language.debian}, or conda install -c conda-forge "
            f"{language.conda}"
        )
    return list(executables.values())
