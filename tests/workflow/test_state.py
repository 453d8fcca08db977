"""Manifests decide which artifacts are those that a configuration wants."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from xft.artifacts.artifact import create_artifact
from xft.artifacts.files import write_manifest
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.config.runs import find_runs
from xft.config.validation import complete
from xft.dag import settings
from xft.dag.current import Current
from xft.dag.experiment import Experiment
from xft.dag.markers import marker_path, set_marker
from xft.dag.settings import write_config
from xft.dag.state import Inspector, State
from xft.dag.totals import warn_of_full_disk
from xft.dag.wanted import Wanted
from xft.estimates.disk import disk_space
from xft.estimates.resources import Requests

ROW = {"instruction": "Add.", "response": "a + b"}
PROBLEM = {
    "task_id": "Own/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "contract": "",
    "base_input": [[1]],
    "plus_input": [[2]],
    "atol": 0,
}


@pytest.fixture
def place(tmp_path, tiny_llama, monkeypatch) -> Path:
    """A working folder with a model, rows and problems of the user's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, "model")
    Path("rows.jsonl").write_text(json.dumps(ROW) + "\n")
    Path("problems.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    return tmp_path


def wants(**sections) -> Experiment:
    config = {
        "base": {"model": "model"},
        "data": {"train": "rows.jsonl", "decontaminate_against": ["problems.jsonl"]},
        "evaluation": {"models": ["base", "moe_sft", "dense"], "datasets": ["problems.jsonl"]},
    }
    for name, values in sections.items():
        both = isinstance(values, dict)
        config[name] = config.get(name, {}) | values if both else values
    own = complete(config)
    return Experiment(own, find_runs(config), own.results_dir)


def make(wanted: Wanted, content: str | None = None) -> None:
    """Put a stand-in for an artifact at its place, with the manifest that its step would write."""
    content = content or wanted.recipe.digest
    ids = {}
    for name, source in wanted.sources.items():
        manifest = read_manifest(manifest_path(source.place))
        file = manifest.files.get(source.place.name)
        ids[name] = file["sha256"] if wanted.step == "summary" else manifest.id
    if wanted.is_file:
        wanted.place.parent.mkdir(parents=True, exist_ok=True)
        wanted.place.write_text(content)
        inputs = ids | wanted.files
        write_manifest(wanted.place, wanted.step, inputs=inputs, recipe=wanted.recipe)
        return
    parameters = {"tokenizer": {}} if wanted.step == "tokens" else {}
    recipe = wanted.recipe
    with create_artifact(wanted.place, wanted.step, parameters, ids, recipe) as draft:
        (draft.path / "content.txt").write_text(content)


def make_all(wanted: Experiment) -> None:
    for part in wanted.report.chain():
        make(part)


def states(wanted: Experiment) -> dict[str, State]:
    """The state of each artifact by its place in the results folder."""
    inspector = Inspector()
    return {
        str(part.place.relative_to(wanted.results)): inspector.inspect(part).state
        for part in wanted.report.chain()
    }


def outdated(wanted: Experiment) -> set[str]:
    return {place for place, state in states(wanted).items() if state is State.OUTDATED}


def differences(wanted: Experiment, place: str) -> tuple[str, ...]:
    part = next(p for p in wanted.report.chain() if p.place == wanted.results / place)
    return Inspector().inspect(part).differences


TRAINED = {"moe_sft", "ffn", "weighted_init/lam~0.75", "weighted_trained/lam~0.75"}
SHOWN = {"summary.csv", "report.html"}
EVALUATED = {"dense/lam~0.75", "eval/dense/lam~0.75/problems.json", *SHOWN}
TUNED = TRAINED | EVALUATED | {"eval/moe_sft/problems.json", "diversity.json"}


def test_what_was_made_as_wanted_fits(place):
    assert set(states(wants()).values()) == {State.ABSENT}
    make_all(wants())
    assert set(states(wants()).values()) == {State.FITS}


def test_evaluations_on_problems_that_rows_were_not_cleaned_of_are_named(place):
    def uncleaned(**sections) -> list[str]:
        return [row.model for row in wants(**sections).rows if row.uncleaned]

    assert uncleaned() == []
    assert uncleaned(data={"decontaminate_against": []}) == ["moe_sft", "dense/lam~0.75"]


def test_the_table_has_a_row_for_each_model_of_each_run_with_the_shared_files(place):
    """vanilla does not name base, but has the same one. Its held-out rows are those of all."""
    config = {
        "base": {"model": "model"},
        "data": {"train": "rows.jsonl", "validation_rows": 1},
        "evaluation": {"models": ["base", "moe_sft"], "datasets": ["problems.jsonl"]},
        "seeds": [42, 43],
        "variants": {
            "xft": {},
            "vanilla": {"moe": {"shared_expert": False}, "evaluation": {"models": ["moe_sft"]}},
        },
    }
    runs = find_runs(config)
    rows = Experiment(runs[0].config, runs, "results").rows
    prefixes = "", "seed~43/", "moe.shared_expert~false/", "moe.shared_expert~false/seed~43/"
    about = [("", 42), ("", 43), ("vanilla", 42), ("vanilla", 43)]
    for prefix, (variant, seed), row in zip(prefixes, about, rows[1::2], strict=True):
        assert (row.model, row.variant, row.seed) == ("moe_sft", variant, seed)
        assert row.eval == Path(f"{prefix}eval/moe_sft/problems.json")
        assert row.validation_loss == Path(f"{prefix}validation/moe_sft.json")
        assert row.diversity == (None if variant else Path(f"{prefix}diversity.json"))
    assert [(row.model, row.variant, row.seed) for row in rows[::2]] == [
        ("base", *run) for run in about
    ]
    assert {row.eval for row in rows[::2]} == {Path("eval/base/problems.json")}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"moe_sft": {"learning_rate": 0.01}}, TUNED),
        ({"mixing": {"learning_rate": 0.02}}, EVALUATED | {"weighted_trained/lam~0.75"}),
        ({"seed": 7}, TUNED | {"moe"}),
        ({"data": {"max_length": 64}}, TUNED | {"tokens"}),
        ({"evaluation": {"base_prompt": "magicoder"}}, {"eval/base/problems.json", *SHOWN}),
        ({"merge": {"lambdas": [0.75, 0.85]}}, SHOWN),
        ({"gpus": 2, "report_to": ["wandb"], "moe_sft": {"save_minutes": 1}}, set()),
        ({"base": {"model": "same"}}, set()),
    ],
)
def test_a_changed_value_outdates_what_depends_on_it(place, changed, expected):
    shutil.copytree("model", "same")
    make_all(wants())
    assert outdated(wants(**changed)) == expected
    assert outdated(wants()) == set()


def append(path: str) -> None:
    file = Path(path)
    file.write_text(file.read_text() + " \n")


def remove(kind: str) -> None:
    shutil.rmtree(Path("results", kind))
    Path("results", f"{kind}.manifest.json").unlink()


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (lambda: append("rows.jsonl"), TUNED | {"tokens"}),
        (lambda: append("texts.jsonl"), EVALUATED | {"weighted_trained/lam~0.75"}),
        (lambda: make(wants().runs[0].moe_sft, "of another machine"), TUNED - {"moe_sft"}),
        (lambda: remove("moe_sft"), set()),
        (lambda: Path("results/summary.csv.manifest.json").unlink(), SHOWN),
    ],
    ids=["rows", "texts", "made elsewhere", "removed", "no manifest"],
)
def test_other_content_outdates_what_is_made_from_it(place, happens, expected):
    Path("texts.jsonl").write_text('{"text": "a"}\n')
    mixing = {"text": "texts.jsonl", "objective": "kl", "kl_weight": 1.0}
    make_all(wants(mixing=mixing))
    happens()
    assert outdated(wants(mixing=mixing)) == expected


def test_the_same_tokens_from_other_problems_run_no_training_again(place):
    make_all(wants())
    content = wants().runs[0].tokens.recipe.digest
    Path("problems.jsonl").write_text(json.dumps(PROBLEM | {"task_id": "Own/1"}) + "\n")
    assert {"tokens", "moe_sft"} <= outdated(wants())
    make(wants().runs[0].tokens, content)
    assert "ground_truth/problems" in outdated(wants())
    assert not outdated(wants()) & (TRAINED | {"tokens"})


def test_the_difference_is_named(place):
    make_all(wants())
    (found,) = differences(wants(moe_sft={"learning_rate": 0.01}), "moe_sft")
    assert found == "moe_sft.learning_rate: 5e-05 is now 0.01"
    with create_artifact(wants().runs[0].moe.place, "moe") as draft:
        (draft.path / "content.txt").write_text("made by hand, without a recipe")
    assert differences(wants(), "moe") == ("its manifest does not say how it was made",)
    assert differences(wants(), "moe_sft") == ("results/moe is made again",)


def test_another_code_outdates_and_can_be_accepted(place, monkeypatch):
    from xft.dag import wanted as module

    make_all(wants())
    hashes = module.code_hashes
    other = {"xft/training/trainer.py": "0" * 16}
    monkeypatch.setattr(
        module, "code_hashes", lambda s: hashes(s) | (other if s == "moe_sft" else {})
    )
    assert differences(wants(), "moe_sft") == ("the code of xft/training/trainer.py has changed",)
    assert outdated(wants()) == TUNED
    Current(wants()).begin((), accept_code=True)
    assert outdated(wants()) == set()
    changed = wants(moe_sft={"learning_rate": 0.01})
    Current(changed).begin((), accept_code=True)  # parameters are not accepted
    assert outdated(changed) == TUNED


def test_a_rule_or_a_file_can_be_made_again_in_any_case(place):
    make_all(wants())
    for asked in ("dense", "results/dense/lam~0.75"):
        current = Current(wants())
        current.begin((asked,), accept_code=False)
        fits = {current.experiment.name(part) for part in current.wanted() if current.fits(part)}
        assert fits == states(wants()).keys() - EVALUATED


# Runs that share


VANILLA = {"moe": {"shared_expert": False}, "evaluation": {"models": ["base", "moe_sft"]}}
OF_SEED = {"moe", *TUNED} - SHOWN


@pytest.mark.parametrize(
    ("config", "folders", "added"),
    [
        ({"seeds": [42]}, [], set()),
        ({"variants": {"xft": {}}}, [], set()),
        ({"seeds": [42, 43]}, ["seed~43"], OF_SEED),
        (
            {"variants": {"xft": {}, "vanilla": VANILLA}},
            ["moe.shared_expert~false"],
            {"moe", "moe_sft", "eval/moe_sft/problems.json"},
        ),
        (
            {"sweep": {"mixing.max_steps": [3, 4, 5]}, "mixing": {"max_steps": 3}},
            ["mixing.max_steps~4", "mixing.max_steps~5"],
            {"weighted_trained/lam~0.75", *EVALUATED} - SHOWN,
        ),
        (
            {"sweep": {"moe_sft.learning_rate": [5e-5, 1e-3]}},
            ["moe_sft.learning_rate~0.001"],
            TUNED - SHOWN,
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_only_what_is_not_shared_is_made(place, config, folders, added):
    """The base, the tokens and every stage on which two runs agree exist once."""
    make_all(wants(mixing=config.get("mixing", {})))
    absent = {name for name, state in states(wants(**config)).items() if state is State.ABSENT}
    assert absent == {f"{folder}/{name}" for folder in folders for name in added}


def test_a_data_set_of_the_evaluation_changes_no_tokens(place):
    shutil.copy("problems.jsonl", "a.jsonl")
    own = wants(evaluation={"datasets": ["problems.jsonl", "a.jsonl"]})
    assert own.runs[0].tokens.recipe == wants().runs[0].tokens.recipe


def test_what_no_run_makes_is_refused(place):
    with pytest.raises(UserError, match="no run of the configuration makes seed~7/moe_sft"):
        wants().find("seed~7/moe_sft")


# What stands where the workflow writes


def mine(path: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("years of work")
    return file


@pytest.mark.parametrize(
    "path",
    [
        *("results/moe/notes.txt", "results/dense/lam~0.75/a.txt", "results/summary.csv"),
        *("results/logs/mine.log", "results/figures/mine.svg", "results/config.yaml"),
    ],
)
def test_what_is_not_the_workflows_own_stops_it(place, path):
    file = mine(path)
    with pytest.raises(UserError, match=r"(?s)Move.*Nothing was changed"):
        Current(wants()).check([])
    assert file.read_text() == "years of work"


def test_a_file_of_the_users_within_an_outdated_artifact_stops_it(place):
    write_config(wants().config, wants().results)
    make_all(wants())
    Current(wants()).check([])
    mine("results/moe_sft/notes.txt")
    Current(wants()).check([])  # nothing is to be made there
    with pytest.raises(UserError, match=r"moe_sft/notes.txt is not in the manifest"):
        Current(wants(moe_sft={"learning_rate": 0.01})).check([])


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"base": {"model": "P/dense/lam~0.75"}, "results_dir": "P"}, "base.model"),
        ({"base": {"model": "P/base"}, "results_dir": "link"}, "base.model"),
        ({"base": {"model": "P/base"}, "results_dir": "P/base/out"}, "base.model"),
        ({"data": {"train": "P/logs/rows.jsonl"}, "results_dir": "P"}, "data.train"),
        ({"results_dir": "."}, "this file"),
    ],
)
def test_an_input_where_the_workflow_writes_stops_it(place, changed, key):
    for name in ("P/base", "P/dense/lam~0.75"):
        shutil.copytree("model", name)
    Path("P/logs").mkdir()
    shutil.copy("rows.jsonl", "P/logs")
    Path("link").symlink_to("P")
    with pytest.raises(UserError, match=rf"^config: {key}: \S+ is, holds or lies in .*input$"):
        Current(wants(**changed)).check([mine("config.yaml")])


def test_a_disk_that_may_be_too_small_is_told(place, monkeypatch):
    def warning(free: int) -> str | None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return warn_of_full_disk(Current(experiment))

    experiment = wants()
    config, request = experiment.config, Requests(experiment.config, Path("model"))
    planned = {space.name: space.nbytes for space in disk_space(request.models, config)}
    written = sum(planned[name] for name in ("moe", "moe_sft", "ffn", "dense"))
    assert warning(sum(planned.values())) is None
    for free in (0, written):
        told = warning(free)
        assert re.search(r"run writes up to \d.* [KMG]B, and the disk of results has \d", told)
    make_all(experiment)
    assert warning(0) is None
    experiment = wants(base={"model": "org/name", "revision": "0" * 40})
    assert warning(0) is None  # its size is unknown


def test_links_and_empty_folders_are_no_loss(place):
    write_config(wants().config, wants().results)
    make_all(wants())
    base = wants().runs[0].base.place
    shutil.rmtree(base)
    base.mkdir()
    (base / "content.txt").symlink_to(place / "rows.jsonl")
    Current(wants(base={"model": "model"}, seed=3)).check([])
    Path("results/moe_sft/empty").mkdir()
    Current(wants(seed=3)).check([])


def test_sharing_removes_no_artifact_that_it_does_not_hold(place):
    write_config(wants().config, wants().results)
    make_all(wants())
    Current(wants()).check([], shares=True)
    changed = wants(seed=3)
    Current(changed).check([])
    with pytest.raises(UserError, match=r"results/moe was made without the shared folder"):
        Current(changed).check([], shares=True)


# Markers and settings


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_of_the_workflow_is_kept_with_the_configuration(place, monkeypatch):
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.com", *words]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    monkeypatch.setattr(settings, "ROOT", place)
    write_config(wants().config, place)
    first, second, *_ = (place / "config.yaml").read_text().splitlines()
    assert first.startswith("# The completed configuration")
    assert second == f"# The workflow's commit: {git('rev-parse', '--short', 'HEAD')}"


def test_a_marker_is_newer_than_an_outdated_artifact_and_older_than_one_that_fits(place):
    make_all(wants())
    for part in wants().report.chain():
        set_marker(part, Inspector().inspect(part))
        assert marker_path(part).stat().st_mtime == 0
    changed = wants(seed=3).runs[0].moe
    set_marker(changed, Inspector().inspect(changed))
    made = manifest_path(changed.place).stat().st_mtime
    assert marker_path(changed).stat().st_mtime > made
    assert not any(marker_path(changed).read_bytes())
