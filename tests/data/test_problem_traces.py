"""Decontamination: what gives a problem away, and what does not. Duplicates: against all pairs,
compared one by one.
"""

import random
import re

import pytest
from problem_files import three_problems, write_problems

from tools.write_fingerprints import content
from xft.data import unwanted_rows
from xft.data.instruction_rows import Row
from xft.data.unwanted_rows import SHIPPED, Detector, Fingerprint, read_shipped
from xft.evaluation.forms import load_problems
from xft.evaluation.references import fingerprints, load_references
from xft.hub.named_sets import RELEASED

NGRAM, SHORTEST = 13, 30  # words that are a trace, and characters of a text that is one


def plain(texts: list[tuple[str, str, str]], row: str) -> tuple | None:
    """Every word and every 13 words of a row against all texts of problems, without hashes."""
    texts = [(problem, kind, " ".join(text.split())) for problem, kind, text in texts]
    row = " ".join(row.split())
    for match in re.finditer(r"\w+", row):
        for problem, kind, text in texts:
            inner = list(re.finditer(r"\w+", text))[1:-1]
            longest = max(inner, key=lambda word: len(word[0]), default=None)
            if longest and longest[0] == match[0] and len(text) >= SHORTEST:
                begin = match.start() - longest.start()
                if begin >= 0 and row[begin : begin + len(text)] == text:
                    return problem, kind, text
    words, bare = re.findall(r"\w+", row), [re.findall(r"\w+", text) for *_, text in texts]
    for place in range(len(words) - NGRAM + 1):
        shared = " ".join(words[place : place + NGRAM])
        for (problem, kind, _), own in zip(texts, bare, strict=True):
            if f" {shared} ".lower() in f" {' '.join(own)} ".lower():
                return problem, f"{NGRAM} words of its {kind}", shared
    return None


@pytest.mark.parametrize("seed", range(3))
def test_traces_are_those_of_the_plain_search(seed):
    """Texts of few words, which lie in each other, overlap, and repeat. Rows of their parts, with
    any whitespace.
    """
    rng = random.Random(seed)
    words = ["a", "of", "Sum", "sum", "list", "number", "numbers", "value", "İx", "x_1"]

    def text(most: int) -> str:
        chosen = rng.choices(words, k=rng.randint(1, most))
        return "".join(word + rng.choice([" ", " ", "\n", " (", "), ", "."]) for word in chosen)

    texts = [(f"T/{n}", rng.choice(["docstring", "solution"]), text(24)) for n in range(60)]
    texts += [("U/1", "solution", texts[0][2]), ("U/2", "solution", texts[1][2] + texts[2][2])]
    find = Detector([Fingerprint.of(*one) for one in texts]).find
    found = set()
    for _ in range(300):
        parts = [text(5), *(one for _, _, one in rng.choices(texts, k=2)), text(5)]
        row = rng.choice(["", " ", "\n"]).join(parts)[rng.randint(0, 60) :]
        row = row.upper() if rng.random() < 0.2 else row.replace(" ", rng.choice([" ", "\n\t"]))
        trace = find(row)
        assert (trace and (trace.problem, trace.match, trace.text)) == plain(texts, row)
        found.add(trace and trace.match)
    kinds = {"docstring", "solution"}
    assert found == {None, *kinds, *(f"{NGRAM} words of its {kind}" for kind in kinds)}


# Problems


def test_the_docstring_of_the_function_to_be_written(tmp_path):
    """Raw, behind a helper, none, and MBPP's."""
    bare, whole = "    return x", "def f(x): return x"
    for task, solution, prompt, docstring in (
        ("T/7", bare, 'def f(x):\n    """What f does."""\n', "What f does."),
        ("T/7", bare, "def f(x):\n    r'''What\n    f does.'''\n", "What\n    f does."),
        ("T/7", bare, 'def g():\n    """Help."""\n    return 1\n\ndef f(x):\n    "F."\n', "F."),
        ("T/7", bare, "def f(x):\n", "def f(x):\n"),
        ("Mbpp/7", whole, '"""\nWrite a function.\nassert f(1) == 1\n"""\n', "Write a function"),
    ):
        own = {"task_id": task, "prompt": prompt, "entry_point": "f"}
        own = three_problems()[0] | own | {"canonical_solution": solution}
        found, hashes = load_references([str(write_problems(tmp_path / "p.jsonl", [own]))])
        assert list(hashes) == ["p"]
        texts = ("docstring", docstring), ("solution", solution)
        expected = [(kind, Fingerprint.of("", kind, text).digest) for kind, text in texts]
        assert [(one.kind, one.digest) for one in found] == expected


# The real sets


@pytest.mark.ci
def test_what_comes_along_is_made_from_the_real_sets(shared):
    real = [f"{shared}/data/{chosen.release}.jsonl.gz" for chosen in RELEASED.values()]
    assert SHIPPED.read_text() == content(real)
    made = [one for file in real for one in fingerprints(load_problems(file))]
    shipped = [one for name in RELEASED for one in read_shipped(name)]
    assert len(shipped) == 2 * (164 + 378)
    for one, other in zip(made, shipped, strict=True):
        assert one.ngrams.tolist() == other.ngrams.tolist()
        assert vars(one) | {"ngrams": ()} == vars(other) | {"ngrams": ()}


WORDS = [f"word{i}" for i in range(300)]


def rows_of(*texts: tuple[str, str]) -> list[Row]:
    return [Row(*text, number) for number, text in enumerate(texts, 1)]


def test_exact_duplicates_differ_in_whitespace_alone():
    code = "def f():\n    return 1"
    rows = rows_of(
        *(("Add a b.", code), ("Add  a\tb.\n", "def f():\n\n  return 1 "), ("add a b.", code)),
        *(("Add a b.", "def f():\n    return 2"), ("Add a b. def f():", "return 1")),
        ("Add a b.", "def f(): return 1"),
    )
    assert unwanted_rows.find_exact(rows) == {2: 1, 6: 1}


def ngrams(row: Row) -> set[tuple]:
    words = row.text.split()
    size = min(5, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def slow(rows: list[Row]) -> dict[int, int]:
    """Every row against every earlier one that stays."""
    kept, found = [], {}
    for row in rows:
        own = ngrams(row)
        for other in kept:
            theirs = ngrams(other)
            if 5 * len(own & theirs) >= 4 * len(own | theirs):
                found[row.number] = other.number
                break
        else:
            kept.append(row)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_near_duplicates_are_those_of_all_pairs(seed):
    """Texts of plain words, for which splitting at blanks is the same as the product's words."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 80))) for _ in range(60)]
    for text in rng.choices(texts, k=140):  # copies with up to three changed or lost words
        words = text.split()
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice([*WORDS[:3], ""])
        texts.append(" ".join(words).strip() or "word0")
    rng.shuffle(texts)
    rows = rows_of(*((text, "word1") for text in texts))
    found = unwanted_rows.find_near(rows)
    assert found == slow(rows)
    assert 30 < len(found) < 180


@pytest.mark.parametrize(("count", "found"), [(12, {2: 1}), (11, {})])
def test_the_threshold_is_four_fifths(count, found):
    """Of 9 n-grams each, 8 are the same: 8 of 10. Of 8 each, 7: 7 of 9."""
    text = " ".join(WORDS[:count])
    assert unwanted_rows.find_near(rows_of((text, "end"), (text, "other"))) == found


def test_marks_are_words_and_whitespace_is_none():
    body = " ".join(WORDS[:40])
    pairs = (body, "a + b"), (body.replace(" ", "\n"), "a + b"), ("a - b", "x"), ("a + b", "x")
    assert unwanted_rows.find_near(rows_of(*pairs)) == {2: 1}
