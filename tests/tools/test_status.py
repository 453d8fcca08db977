"""`xft status`: what is finished, what runs or failed, and what `snakemake -n` would do."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import yaml
from project import Project

from xft.artifacts.artifact import seal
from xft.common.progress import LINE_FORMAT, Bar
from xft.config.runs import find_runs, overlaid
from xft.config.text import read_config
from xft.config.validation import complete
from xft.dag.current import Current
from xft.dag.experiment import Experiment
from xft.dag.next_run import NextRun
from xft.dag.places import log_path
from xft.dag.settings import write_config

MOE_SFT_AGAIN = "moe_sft.learning_rate: 0.002 is now 0.001"
# Two rates for moe_sft, and with them for sft, whose section names none.
SWEEP = {
    "seeds": [42, 43],
    "sweep": {"moe_sft.learning_rate": [1e-4, 2e-4]},
    "evaluation": {"models": ["base", "sft", "soup", "dense", "uniform"]},
}
AFTER_TUNING = ("ffn", "weighted_init", "weighted_trained", "dense", "diversity.json", "eval")
AFTER_TUNING += ("summary.csv", "report.html")
HUB = "recipes/deepseek-coder-1.3b.yaml"


def config_of(project: Project) -> dict:
    return read_config(project.results / "config.yaml")


def write(project: Project, config: dict) -> str:
    (project.folder / "mine.yaml").write_text(yaml.safe_dump(config))
    return "mine.yaml"


def planned(project: Project, config: str) -> str:
    """What `snakemake -n` prints for a configuration file."""
    bare = Project(project.folder, {})
    done = bare.snakemake("-n", "--configfile", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules(output: str) -> Counter:
    """How often each rule would run, from the output of `snakemake -n`."""
    found = re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE)
    return Counter(rule for rule in found if rule != "all")


def jobs(status: str) -> Counter:
    """The same from the output of `xft status`: what is wanted of each rule and not finished."""
    lines = re.findall(r"^  (\w+) +(\d+) of (\d+)$", status, re.MULTILINE)
    found = Counter({rule: int(all_) - int(done) for rule, done, all_ in lines})
    head = re.search(r"^next run: (\d+|nothing to do)$", status, re.MULTILINE)
    assert head[1] == str(found.total() or "nothing to do")
    return +found


def remove(project: Project, *names: str) -> None:
    for name in names:
        place = project.results / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        place.with_name(f"{place.name}.manifest.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("removed", "changes"),
    [
        ([], {}),
        (["ffn"], {"mixing": {"learning_rate": 0.5}}),
        (["dense/lam~0.75"], {"evaluation": {"max_new_tokens": 8}}),
        ([], {"merge": {"lambdas": ["0.75", "1"], "keep": "best"}}),
    ],
)
def test_the_next_run_is_that_of_snakemake(finished_copy, call_step, removed, changes):
    project = finished_copy
    remove(project, *removed)
    config = write(project, overlaid(config_of(project), changes))
    expected = rules(planned(project, config))
    status = call_step("status", "results", "--config", config, cwd=project.folder)
    assert status.returncode == 0, status.stderr
    assert jobs(status.stdout) == expected
    assert ("All is finished." in status.stdout) == (not expected)


def test_each_line_says_why(finished_copy, call_step):
    project = finished_copy
    remove(project, "ffn")
    (project.folder / "own.yaml").write_text("moe_sft: {learning_rate: 0.001}")
    words = ["--config", write(project, config_of(project)), "own.yaml"]
    status = call_step("status", "results", *words, cwd=project.folder).stdout
    lines = [" ".join(line.split()) for line in status.splitlines()]
    assert f"results/moe_sft {MOE_SFT_AGAIN}" in lines
    assert "results/ffn missing" in lines
    assert "results/eval/moe_sft/problems.json results/moe_sft is made again" in lines
    assert "eval 1 of 3" in lines
    assert lines[-1] == "To go on: snakemake --cores all --configfile mine.yaml own.yaml"


def test_the_kept_configuration_holds_variants_seeds_and_the_sweep(finished_copy, call_step):
    project = finished_copy
    own = overlaid(read_config(project.folder / "config.yaml"), {**project.overlay, **SWEEP})
    expected = rules(planned(project, write(project, own)))
    write_config(complete(own), project.results)
    status = call_step("status", "results", cwd=project.folder).stdout
    assert jobs(status) == expected
    assert expected["sft"] == 4
    assert "\n  sft               4\n" in status  # too many jobs for a line each


def test_logs_and_jobs_of_all_rules_are_those_of_snakemake(finished, monkeypatch):
    models = ["base", "sft", "sft_flops", "moe_sft", "soup", "uniform", "experts_only", "dense"]
    evaluation = {"models": [*models, "heal"], "datasets": ["humaneval", "mbpp"]}
    values = {
        "seeds": [1, 2],
        "evaluation": evaluation | {"lm_eval": ["arc_easy"]},
        "data": {"validation_rows": 5, "decontaminate_against": ["humaneval", "mbpp"]},
        "merge": {"keep": "best"},
    }
    config = overlaid(read_config(finished.folder / HUB), values)
    output = planned(finished, write(finished, config))
    monkeypatch.chdir(finished.folder)
    whole = complete(config)
    run = NextRun(Current(Experiment(whole, find_runs(config), whole.results_dir)))
    assert Counter(job.rule for job in run.jobs) == rules(output)
    results = finished.folder / whole.results_dir
    logs = {str(log_path(job, results.relative_to(finished.folder))) for job in run.jobs}
    assert logs == set(re.findall(r"^    log: (\S+)", output, re.MULTILINE))


@pytest.fixture
def interrupted(finished_copy):
    """A project whose moe_sft has not ended: its log, after two lines of progress."""
    remove(finished_copy, "moe_sft", *AFTER_TUNING)
    log = finished_copy.results / "logs" / "moe_sft.log"
    meters = [
        Bar.format_meter(step, 150, 60.0, bar_format=LINE_FORMAT, **words)
        for step, loss in ((40, 0.72), (129, 0.2803))
        for words in [{"prefix": "moe_sft: train", "unit": "step", "postfix": f"loss={loss}"}]
    ]
    log.write_text("\n".join(meters) + "\n")
    return finished_copy


@pytest.fixture
def keep_checkpoint(interrupted):
    """Callable (machine): a checkpoint of step 120, and the owner of the training."""

    def keep(machine: str) -> None:
        root = interrupted.results / ".moe_sft.training"
        (root / "0123" / "checkpoint-120").mkdir(parents=True)
        seal(root / "0123" / "checkpoint-120", "checkpoint")
        (root / "owner").write_text(f"process 7 on {machine}")

    return keep


def begun(project: Project, call_step) -> dict[str, str]:
    """The lines about jobs that have begun, by phase."""
    status = call_step("status", "results", cwd=project.folder).stdout
    found = re.findall(r"^(running|failed|cut off): 1\n  results/moe_sft  (.*)", status, re.M)
    return dict(found)


STEP = r"step 129 of 150, 00:\d\d left, loss=0.2803"


def test_a_job_runs_as_long_as_a_process_writes_its_log(interrupted, call_step):
    log = interrupted.results / "logs" / "moe_sft.log"
    os.utime(log, (0, 0))
    with log.open("a"):
        found = begun(interrupted, call_step)
        assert re.fullmatch(STEP + r" \(\d+ s ago\)", found["running"])
    with log.open():
        assert begun(interrupted, call_step) == {}


def test_a_training_of_another_machine_runs_as_long_as_its_log_changes(
    interrupted, keep_checkpoint, call_step
):
    keep_checkpoint("node7")
    found = begun(interrupted, call_step)
    assert re.fullmatch(STEP + r" \(\d+ s ago on node7\)", found["running"])
    os.utime(interrupted.results / "logs" / "moe_sft.log", (0, 0))
    assert list(begun(interrupted, call_step)) == ["cut off"]


def test_a_training_that_ended_early_names_its_checkpoint(interrupted, keep_checkpoint, call_step):
    keep_checkpoint(platform.node())
    found = begun(interrupted, call_step)
    assert re.fullmatch(STEP + "; checkpoint of step 120", found["cut off"])


def test_an_evaluation_that_was_cut_off_keeps_its_solutions(finished_copy, call_step):
    project = finished_copy
    remove(project, "eval/base/problems.json", "summary.csv", "report.html")
    journal = project.results / "eval" / "base" / ".problems.generations.jsonl.part"
    journal.write_text('{}\n[0, "a", "eos"]\n[3, "b", "eos"]\n[1, "c')
    os.utime(project.results / "logs" / "eval" / "base" / "problems.log", (0, 0))
    status = call_step("status", "results", cwd=project.folder).stdout
    assert re.search(r"^cut off: 1\n  results/eval/base/.*; 2 solutions are kept$", status, re.M)


def test_a_failed_job_shows_its_message_and_its_log(interrupted, call_step):
    fault = "moe_sft: error: step 3: loss nan"
    with (interrupted.results / "logs" / "moe_sft.log").open("a") as log:
        log.write(f"{fault}\n")
    found = begun(interrupted, call_step)
    assert found == {"failed": f"{fault} (log: results/logs/moe_sft.log)"}


def test_nothing_changes_and_torch_stays_out(interrupted):
    (interrupted.results / ".moe.abc.tmp").mkdir()  # as a killed step leaves it
    before = contents(interrupted)
    command = [sys.executable, "-X", "importtime", "-m", "xft.tools.status", "results"]
    folder = interrupted.folder
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\| +(torch|transformers|pandas)$", done.stderr, re.MULTILINE)
    assert contents(interrupted) == before


def contents(project: Project) -> dict[str, tuple]:
    """Size, times and rights of everything in a project, without Python's caches."""
    paths = (path for path in project.folder.rglob("*") if "__pycache__" not in str(path))
    found = {str(path): path.lstat() for path in paths}
    return {name: (s.st_size, s.st_mtime_ns, s.st_mode) for name, s in found.items()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resources"], "resources is no results folder: it has no config.yaml that a run of"),
        (
            ["results", "--config", "other.yaml"],
            "other.yaml: results_dir = other, not results. Name",
        ),
    ],
)
def test_mistakes_end_in_one_message(finished, call_step, words, message):
    other = config_of(finished) | {"results_dir": "other"}
    (finished.folder / "other.yaml").write_text(yaml.safe_dump(other))
    done = call_step("status", *words, cwd=finished.folder)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
