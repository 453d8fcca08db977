"""What others wrote in files is shown as text: a terminal obeys none of it."""

import pytest
from interpreter import python
from report_folders import Runs, write_solutions

from xft.artifacts.manifest import Manifest, manifest_path
from xft.common.foreign_text import without_markup
from xft.reporting.summaries import head
from xft.store.make import log_on_screen
from xft.tools import export

ORDERS = "\x1b]0;owned\x07\x1b[2J\rTake EVIL\x9b1A\u202e"  # title, clear, overwrite, up, reverse
OBEYED = {*ORDERS} - {*"]0;owned[2JTake EVIL1A"}


def obeyed(text: str) -> set[str]:
    return {*text} & OBEYED


def test_a_tool_shows_what_a_manifest_says(tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    manifest = Manifest(ORDERS, {"f": {"size": 0, "sha256": "0" * 64}}, inputs={ORDERS: "0" * 64})
    manifest_path(artifact).write_text(manifest.to_json())
    ended = python("-m", "xft.tools.xft", "verify", str(artifact), status=1)
    assert "Take EVIL" in ended.stdout and not obeyed(ended.stdout + ended.stderr)


def test_the_screen_shows_what_a_log_says(tmp_path, capfd):
    with log_on_screen(tmp_path / "log") as file:
        file.write(f"sft: {ORDERS}\nsft: step 1\n".encode() + b"\xff\n")
        file.flush()
    said = capfd.readouterr().out
    assert "Take EVIL" in said and "\nsft: step 1\n\\xff\n" in said and not obeyed(said)


def test_the_end_of_a_run_shows_a_summary_that_others_wrote():
    text = f"- Take sft.{ORDERS}\n\n| model |\n| ----- |\n| {ORDERS} |\n"
    assert head(text).count("Take EVIL") == 2 and not obeyed(head(text))


NAME = f"a|b<img src=x onerror=alert(1)>![c](https://evil.example){ORDERS}\n- Take EVIL"


@pytest.fixture
def runs(tmp_path) -> Runs:
    """A table of runs and an evaluation with names that give orders."""
    runs = Runs(tmp_path)
    about = {"problems_in_file": 100, "left_out": [NAME], "name": NAME}
    runs.add_all({"base": 40, "sft": 80}, about=about, losses=[1.0, 2.0])
    for row in runs.rows:
        row["dataset"] = NAME
    runs.rows[1]["model"] = f"sft{NAME}"
    return runs


def test_a_summary_says_names_and_obeys_none(runs, capsys):
    text, *_ = runs.summarise()
    assert not obeyed(text + capsys.readouterr().out)
    assert "&lt;img" in text and "<img" not in text and "](" not in text
    assert r"\n- Take EVIL" in text and "\n- Take EVIL" not in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:
        rows = [line for line in table if line.startswith("|")]
        columns = {line.replace(r"\|", "").count("|") for line in rows}
        assert len(columns) == 1


def test_names_of_missing_results_are_text_too(runs, capsys):
    runs.summarise()
    write_solutions(runs.root / runs.rows[0]["eval"])
    (runs.root / runs.rows[1]["eval"]).unlink()
    export.main([str(runs.root), "--to", "evalplus", "--out", str(runs.root / "out")])
    said = capsys.readouterr().err
    assert "Not finished" in said and "Take EVIL" in said and not obeyed(said)


def test_markdown_without_names_of_others_stays_as_it_is():
    text = "| < 0.001 | 38.4 % (32.2 to 45.1; 83) |\n- `seeds: [42, 43]` <- p < 0.05 (*)\tx\n"
    assert without_markup(text) == text
