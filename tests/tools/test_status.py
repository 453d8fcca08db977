"""`xft status`: what is finished, what runs or failed, and what the next run makes."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from interpreter import python
from working_folder import CONFIG, begin, fill, wants

from xft.artifacts.artifact import ENTRY_FILE, seal
from xft.common.errors import UserError
from xft.common.progress import LINE_FORMAT
from xft.config.runs import overlaid
from xft.dag.nodes import Node
from xft.evaluation.result import journal_path
from xft.store.job_records import COSTS_FILE
from xft.store.store import claimed, log_of, owner, partial
from xft.tools import status

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def told(capsys):
    """Callable (words): what `xft status` prints."""

    def told(*words: str) -> str:
        status.main(list(words or ["results"]))
        return capsys.readouterr().out

    return told


def begun(name: str) -> Node:
    """A job of a run that has begun, with a line of progress in its log."""
    run = begin(wants())
    part = run.experiment.by_name[name]
    log = run.store.log(part.step, part.digest)
    log.parent.mkdir(parents=True, exist_ok=True)
    values = {"desc": name, "n_fmt": 3, "total_fmt": 40, "unit": "step", "elapsed": "00:06"}
    values |= {"remaining": "01:14", "rate_fmt": "0.50step/s", "postfix": ""}
    log.write_text(f"{LINE_FORMAT.format(**values)}\n")
    return part


def test_what_is_finished_is_counted_and_what_is_not_is_listed(told):
    run = wants()
    fill(run)
    begin(run)
    total = len(run.experiment.wanted)
    assert re.search(rf"^finished: {total} of {total}\n  base +1 of 1$", told(), re.MULTILINE)
    assert told().endswith("next run: nothing to do\nAll is finished.\n")
    changed = overlaid(CONFIG, {"mixing": {"max_steps": 3}})
    Path("mine.yaml").write_text(yaml.safe_dump(changed))
    lines = told("results", "--config", "mine.yaml").splitlines()
    made = wants(mixing={"max_steps": 3}).to_make
    listed = lines[lines.index(f"next run: {len(made)}") + 1 :][: len(made)]
    assert [line.split() for line in listed] == [[part.name, str(part.entry)] for part in made]
    assert lines[-1] == "To go on: run `snakemake --cores all --configfile mine.yaml`."
    assert lines[0] == f"finished: {total - len(made)} of {total}"
    assert "  eval              2 of 3" in lines


def test_what_was_deleted_and_is_not_needed_is_told_unless_runs_remove_it(told):
    run = wants()
    fill(run)
    moe, dense = (run.experiment.by_name[name] for name in ("moe", "dense/lam~0.75"))
    begin(run)
    for part in (moe, dense):
        shutil.rmtree(part.entry)
    title = "no longer in the store, and not needed:"
    lines = f"  moe             {moe.entry}\n  dense/lam~0.75  {dense.entry}\nnext run: noth"
    assert f"{title} 2\n{lines}" in told()
    Path("mine.yaml").write_text(yaml.safe_dump(overlaid(CONFIG, {"merge": {"keep": "none"}})))
    assert f"{title} 1\n  moe  {moe.entry}\nnext run: " in told("results", "--config", "mine.yaml")


def test_a_job_that_runs_is_told_with_its_progress(told):
    part = begun("moe_sft")
    run = wants()
    fill(run)
    run.begin()
    for node in run.experiment.wanted:
        entry = node.entry
        if node.step in ("moe_sft", "eval", "summary", "report"):
            (entry / ENTRY_FILE).unlink()
            entry = entry.with_name("0" * 16)  # of an earlier job
            entry.mkdir(exist_ok=True)
        (entry / COSTS_FILE).write_text('{"attempts": [{"seconds": 60}]}')
    with claimed(part.entry):
        lines = told()
        run.close()
        orphaned = told()
    with run.store.open():
        others = told().rstrip()
    assert others.endswith(" uses the store for other results. To go on: wait until it has ended.")
    running = r"^running: 1\n  moe_sft  step 3 of 40, .* left \(\d+ s ago; process \d+ of .*\)$"
    assert re.search(running, lines, re.M)
    going_on = (
        r"\nSnakemake is running \(process .*\), about \d+ (s|min) left\. `next run` lists .*\n$"
    )
    assert re.search(going_on, lines)
    assert orphaned.endswith(
        "\nNo run is going on here.\nTo go on: wait until the jobs above have "
        "ended, or stop their processes, then run the same snakemake command again.\n"
    )


def test_a_job_of_another_machine_runs_while_its_log_changes(told):
    part = begun("moe_sft")
    partial(part.entry).mkdir(parents=True)
    owner(part.entry).write_text("process 7 of me on node-7")
    assert re.search(r"^running: 1\n  moe_sft  step 3 of 40, .* on node-7\)$", told(), re.M)
    os.utime(log_of(part.entry), (1000, 1000))
    assert "cut off: 1\n  moe_sft  step 3 of 40, " in told()
    owner(part.entry).unlink()
    owner(part.entry).mkdir()  # a damaged store is told too
    assert "cut off: 1\n  moe_sft  step 3 of 40, " in told()


def test_a_job_that_failed_is_told_with_its_message(told):
    part = begun("moe_sft")
    log = Path("store/logs/moe_sft", f"{part.digest}.log")
    for text, message in (
        ("moe_sft: error: the disk\nis full\n", "the disk\n           is full\n"),
        ("Traceback (most recent call last):\n  File\nKeyError: 1\n", "KeyError: 1\n"),
    ):
        log.write_text(text)
        shown = told()
        assert f"failed: 1\n  moe_sft  {message}" in shown and f"(log: {log})" in shown
        assert shown.endswith("correct what failed, then run the same snakemake command again.\n")


def test_a_job_that_was_cut_off_is_told_with_what_is_kept(told):
    part = begun("moe_sft")
    for step in (1, 2):
        checkpoint = partial(part.entry) / f".artifact.training/ab/checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        seal(checkpoint, "checkpoint")
        os.utime(checkpoint, (step, step))
    evaluation = wants().experiment.by_name["eval/base/problems.json"]
    partial(evaluation.entry).mkdir(parents=True)
    journal_path(partial(evaluation.entry) / "result.json").write_text("run\n1\n2\n")
    lock = Path(".snakemake/locks/0.output.lock")
    lock.parent.mkdir(parents=True)
    lock.touch()
    lines = told()
    assert "cut off: 2\n" in lines
    assert re.search(r"^  moe_sft .*; checkpoint of step 2$", lines, re.M)
    assert re.search(r"^  eval/base/problems.json .*; 2 solutions kept$", lines, re.M)
    assert lines.endswith("`snakemake --unlock`, then run the same snakemake command again.\n")


def test_a_renamed_results_folder_goes_on_under_its_new_name(told):
    begun("moe_sft")
    Path("results").rename("new name")
    lines = told("new name").splitlines()
    assert lines[-1].endswith(" same snakemake command again with --config results_dir='new name'.")
    Path("elsewhere").mkdir()
    Path("new name").rename("elsewhere/results")
    with pytest.raises(UserError, match="results_dir = results, not elsewhere/results"):
        told("elsewhere/results")


def test_nothing_is_changed_and_nothing_heavy_imported(place):
    begun("moe_sft")
    before = contents(place)
    done = python("-X", "importtime", "-m", "xft.tools.xft", "status", "results")
    assert not re.search(r"\| +(torch|transformers|pandas)$", done.stderr, re.MULTILINE)
    assert contents(place) == before


def contents(folder: Path) -> dict[str, tuple]:
    """Size, times and rights of everything in a folder."""
    found = {str(path): path.lstat() for path in folder.rglob("*")}
    return {name: (s.st_size, s.st_mtime_ns, s.st_mode) for name, s in found.items()}


def test_a_folder_that_no_run_served_is_refused():
    with pytest.raises(UserError, match=r"store is no results folder: it has no config\.yaml"):
        status.main(["store"])
    Path("mine.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(UserError, match="results_dir = results, not other"):
        status.main(["other", "--config", "mine.yaml"])
