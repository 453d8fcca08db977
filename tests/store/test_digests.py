"""What a configuration wants: the digest of a recipe decides what is made and what is shared."""

import gzip
import json
import os
import re
import shutil
import subprocess
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pytest
from damage import change_json, flip_a_bit
from fork_server import PYTHON
from interpreter import ROOT
from mixtures import init_example
from working_folder import CONFIG, ROW, begin, fill, wants

from tools import write_versions
from xft.artifacts.artifact import ENTRY_FILE, check_artifact, create_artifact
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.common.results_folder import CONFIG_FILE
from xft.config.runs import overlaid
from xft.config.sections import MODELS, TRAINING
from xft.config.steps import METRICS
from xft.config.training import IDLE_BESIDE
from xft.dag import workflow_run as module
from xft.dag.graph import Model
from xft.dag.job_resources import Requests
from xft.dag.messages import names_line, pace_line, time_left, warn_of_full_disk, warnings
from xft.dag.workflow_run import WorkflowRun
from xft.estimates.jobs import configured_job
from xft.estimates.memory_and_disk import artifact_bytes, checkpoint_bytes
from xft.store.file_hashes import content_hash
from xft.store.job_records import COSTS_FILE
from xft.store.make import link_declared, make
from xft.store.store import claimed, log_of, partial

TRAINED = {"moe_sft", "ffn", "weighted_init/lam~0.75", "weighted_trained/lam~0.75"}
SHOWN = {"summary.csv", "report.html"}
EVALUATED = {"dense/lam~0.75", "eval/dense/lam~0.75/problems.json", *SHOWN}
TUNED = TRAINED | EVALUATED | {"eval/moe_sft/problems.json", "diversity.json"}
ALL = {"base", "moe", "tokens", "ground_truth/problems", "eval/base/problems.json", *TUNED}


pytestmark = pytest.mark.usefixtures("place")


def new(run: WorkflowRun) -> set[str]:
    """The names of what a run would make."""
    return {name for part in run.to_make for name in part.names}


def test_a_changed_value_makes_what_depends_on_it():
    """The report shows paths, so it alone is made again for another path to the same content.

    Of the base's config.json, tokens depend on the type of the model alone.
    """
    for name in ("same", "tuned", "typed"):
        shutil.copytree("model", name)
    change_json(Path("tuned/config.json"), torch_dtype="float16")
    change_json(Path("typed/config.json"), model_type="mistral")
    flip_a_bit(Path("tuned/model.safetensors"))
    assert new(wants()) == ALL
    fill(wants())
    of_lambda = EVALUATED | TRAINED - {"moe_sft", "ffn"}
    for changed, expected in (
        ({"moe_sft": {"learning_rate": 0.01}}, TUNED),
        ({"mixing": {"learning_rate": 0.02}}, EVALUATED | {"weighted_trained/lam~0.75"}),
        ({"seed": 7}, TUNED | {"moe"}),
        ({"data": {"max_length": 65}}, TUNED | {"tokens"}),
        ({"data": {"train": ["rows.jsonl"]}}, set()),
        ({"data": {"train": ["rows.jsonl", "rows.jsonl"]}}, TUNED | {"tokens"}),
        ({"evaluation": {"base_prompt": "magicoder"}}, {"eval/base/problems.json", *SHOWN}),
        ({"merge": {"lambdas": [0.85]}}, {name.replace("0.75", "0.85") for name in of_lambda}),
        ({"merge": {"lambdas": ["0.750"]}, "moe": {"num_experts": 8}}, set()),
        ({"gpus": 2, "report_to": ["wandb"], "moe_sft": {"save_minutes": 1}}, set()),
        ({"results_dir": "other", "store": "store"}, set()),
        ({"base": {"model": "same"}}, {"report.html"}),
        ({"base": {"model": "tuned"}}, ALL - {"tokens", "ground_truth/problems"}),
        ({"base": {"model": "typed"}}, ALL - {"ground_truth/problems"}),
        ({"merge": {"select": "benchmark"}}, {*SHOWN}),
    ):
        assert new(wants(**changed)) == expected, changed
    assert new(wants()) == set()
    drawn = {"evaluation": {"temperature": 0.5}}
    fill(wants(**drawn))
    assert "eval/base/problems.json" in new(wants(**drawn, seed=7))


# Changes of keys that the same artifacts depend on, each with what is made again for it. The table
# holds beside each other of its group, but for the pairs in BESIDE.
EVALS = {f"eval/{model}/problems.json" for model in ("base", "moe_sft", "dense/lam~0.75")}
JUDGED = {"ground_truth/problems", *EVALS, *SHOWN}
OF_LAMBDA = {name.replace("0.75", "0.85") for name in EVALUATED | TRAINED if "0.75" in name}
OF_SFT = {"sft", "eval/sft/problems.json"}
GROUPS = {
    "rows": {
        "data.train": (["more.jsonl", "rows.jsonl"], TUNED | {"tokens"}),
        "data.max_length": (65, TUNED | {"tokens"}),
        "data.limit": (1, TUNED | {"tokens"}),
        "data.template": ("template.txt", TUNED | {"tokens"}),
    },
    "trainings": {
        "seed": (7, TUNED | {"moe"}),
        "moe.router": ("linear", TUNED | {"moe"}),
        "moe_sft.max_steps": (3, TUNED),
        "mixing.max_steps": (3, EVALUATED | {"weighted_trained/lam~0.75"}),
    },
    "evaluations": {
        "evaluation.limit": (2, JUDGED),
        "evaluation.exclude": (["Own/1"], JUDGED),
        "evaluation.temperature": (0.5, EVALS | SHOWN),
        "evaluation.too_long": ("skip", EVALS | SHOWN),
        "evaluation.base_prompt": ("magicoder", {"eval/base/problems.json", *SHOWN}),
        "seed": (7, TUNED | {"moe"}),
    },
    "tables": {
        "merge.select": ("benchmark", SHOWN),
        "merge.lambdas": (["0.75", "0.85"], OF_LAMBDA | SHOWN),
        "evaluation.models": (["base", "sft", "moe_sft", "dense"], OF_SFT | SHOWN),
    },
}
BESIDE = {  # the key that is set already, and the changed one
    ("evaluation.temperature", "seed"): TUNED | {"moe", "eval/base/problems.json"},
    ("evaluation.too_long", "evaluation.base_prompt"): EVALS | SHOWN,
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_changed_key_makes_the_same_results_beside_each_other_one(group):
    Path("more.jsonl").write_text(json.dumps(ROW | {"response": "b + a"}) + "\n")
    Path("template.txt").write_text("{instruction}")
    changes = GROUPS[group]
    for key, other in permutations(changes, 2):
        before, after = digests(other), digests(other, key)
        made = {name for name in after if after[name] not in before.values()}
        assert made == BESIDE.get((other, key), changes[key][1]), f"{key} beside {other}"


@pytest.mark.parametrize("key", IDLE_BESIDE)
@pytest.mark.parametrize("section", TRAINING)
def test_a_key_that_decides_nothing_beside_another_one_is_in_no_recipe(section, key):
    """And in no name. Without the other one it is. The report shows the configuration as it is."""
    models = {"evaluation": {"models": ["base", "sft", "sft_flops", "moe_sft", "dense"]}}

    def nodes(**values) -> dict[str, set[str]]:
        experiment = wants(**models | {section: values}).experiment
        measured = [node for node in experiment.wanted if node != experiment.report]
        return {node.digest: (*node.names, *sorted(node.keys)) for node in measured}

    given = {IDLE_BESIDE[key]: 7}
    with_default = nodes(**given)
    assert nodes(**given, **{key: 3}) == with_default
    assert all(f"{section}.{key}" not in keys for _, *keys in with_default.values())
    assert nodes(**{key: 3}).keys() != nodes().keys()
    assert any(f"{section}.{key}" in keys for _, *keys in nodes().values())


def value_of(key: str) -> object:
    return next(group[key][0] for group in GROUPS.values() if key in group)


def digests(*keys: str) -> dict[str, str]:
    """The digests of the results, by name, with the values of these keys."""
    config = {"data": {"train": ["rows.jsonl", "more.jsonl"]}}
    for key in keys:
        section, _, name = key.rpartition(".")
        value = value_of(key)
        config = overlaid(config, {section: {name: value}} if section else {key: value})
    return {name: node.digest for node in wants(**config).experiment.wanted for name in node.names}


def test_different_results_have_different_names():
    """Else one would hide the other in the results folder."""
    models = {"evaluation": {"models": list(MODELS)}, "seeds": [42, 43]}
    for sweep in (
        {"moe.num_experts_per_tok": [2, 3], "moe_sft.max_steps": [1, 2]},
        {"moe.router": ["mlp", "linear"], "sft.max_steps": [1, 2]},
        {"data.max_length": [64, 65], "mixing.max_steps": [1, 2]},
        {"evaluation.limit": [1, 2], "evaluation.temperature": [0, 0.5]},
    ):
        known = wants(sweep=sweep, **models).experiment.known
        names = [name for node in known for name in node.names]
        assert sorted(names) == sorted({*names}), sweep


def append(path: str) -> None:
    file = Path(path)
    file.write_text(file.read_text() + " \n")


def test_other_content_and_a_target_that_is_gone_make_what_is_made_from_it():
    """An intermediate artifact that is gone makes nothing."""
    run = wants()
    fill(run)
    shutil.rmtree(run.experiment.by_name["moe_sft"].entry)
    assert new(wants()) == set()
    shutil.rmtree(run.experiment.summary.entry)
    assert new(wants()) == {"summary.csv"}
    append("rows.jsonl")
    assert new(wants()) == TUNED | {"tokens"}
    Path("template.txt").write_text("{instruction}")
    fill(wants(data={"template": "template.txt"}))
    append("template.txt")
    assert new(wants(data={"template": "template.txt"})) == TUNED | {"tokens"}


def test_a_file_of_rows_stands_for_its_content_and_csv_for_its_format_too():
    """The ending tells CSV from JSON Lines: the same bytes may be both, with other rows."""

    def content(name: str) -> str:
        tokens = wants(data={"train": name}).experiment.by_name["tokens"]
        return tokens.recipe.inputs["data"]

    Path("rows.csv").write_text("instruction,response\na,b\n")
    shutil.copy("rows.jsonl", "rows")
    assert content("rows.jsonl") == content("rows") == content_hash(Path("rows"))
    shutil.copy("rows.csv", "ROWS.CSV")
    assert content("rows.csv") == content("ROWS.CSV") != content_hash(Path("rows.csv"))


def test_a_merge_by_a_function_depends_on_its_files_and_not_on_their_folder():
    def digest(file: str, text: str, helper: str = "pass") -> str:
        place = Path(file).with_name("helper.py")
        write_whole(place, helper)
        Path(file).write_text(f"import helper\ndef mean(tensors, coefficients, base): {text}\n")
        run = wants(merge={"method": f"{file}:mean"})
        dense = run.experiment.by_name["dense/lam~0.75"]
        assert dense.flags["method"] == f"{file}:mean"
        job = run.jobs[dense.digest]
        assert job.contents == {str(path): content_hash(path) for path in (Path(file), place)}
        assert job.programs == [file]
        return dense.digest

    same = digest("a.py", "return base"), digest("b/a.py", "return base")
    other = digest("a.py", "return -base"), digest("a.py", "return base", "import os")
    assert len({*same}) == 1 and not {*same} & {*other}
    with pytest.raises(UserError, match=r"merge.method: a.py defines no function main: did you"):
        wants(merge={"method": "a.py:main"})


def test_a_training_depends_on_its_callbacks_and_not_on_their_folder():
    def digest(file: str, text: str) -> str:
        code = f"class Mine(Base):\n    def __init__(self, a=1):\n        {text}\n"
        write_whole(Path(file), code)
        callbacks = [f"{file}:Mine(a=2)"]
        run = wants(mixing={"callbacks": callbacks}, sft={"callbacks": [f"{file}:Mine"]})
        trained = run.experiment.by_name["weighted_trained/lam~0.75"]
        assert trained.flags["callbacks"] == callbacks
        assert {item.name: item.paths for item in trained.inputs}["code"] == (file,)
        assert run.jobs[trained.digest].programs == [file]
        return trained.digest

    same = digest("a.py", "pass"), digest("b/a.py", "pass")
    assert len({*same}) == 1 and digest("a.py", "self.a = a") not in same
    texts = ("a.py:Mine(a=2, b='c d')", "a.py:Mine( b = 'c d',a=2)")
    variants = {f"v{n}": {"sft": {"callbacks": [text]}} for n, text in enumerate(texts)}
    with pytest.raises(UserError, match=r"variants.v1: it is the same as \S+ variants.v0"):
        wants(variants=variants)
    with pytest.raises(UserError, match=r"moe_sft.callbacks: a.py: Mine: got an unexpected"):
        wants(moe_sft={"callbacks": ["a.py:Mine(b=2)"]})


def test_a_job_knows_the_file_that_an_override_variable_names(monkeypatch):
    """Its result is not kept if the file changes after the run began."""
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", "problems.jsonl")
    run = wants(evaluation={"datasets": ["humaneval"]})
    job = run.jobs[run.experiment.by_name["problems/humaneval.jsonl"].digest]
    assert job.contents == {"problems.jsonl": content_hash(Path("problems.jsonl"))}
    assert job.flags == "--dataset=humaneval"


def test_two_sets_of_problems_cannot_have_one_name():
    problems = gzip.compress(Path("problems.jsonl").read_bytes())
    write_whole(Path("more/problems.jsonl.gz"), problems)
    for changes in (
        {"evaluation": {"datasets": ["problems.jsonl", "more/problems.jsonl.gz"]}},
        {"data": {"decontaminate_against": ["more/problems.jsonl.gz"]}},
        {"variants": {"xft": {}, "a": {"evaluation": {"datasets": ["more/problems.jsonl.gz"]}}}},
    ):
        with pytest.raises(UserError, match="would both have the name problems in the results"):
            wants(**changes)


def test_a_changed_default_raises_the_version_of_the_steps_that_read_it(monkeypatch):
    """Otherwise an artifact of the old default would be taken for one of the new."""
    stated = json.loads(write_versions.VERSIONS.read_text())
    assert write_versions.contents(stated) == stated, "run: python -m tools.write_versions"
    steps = stated["steps"]
    steps["moe_sft"]["defaults"]["moe_sft.learning_rate"] = 0.5
    del steps["moe_sft"]["defaults"]["moe_sft.optim"]  # as if it were a new option
    del steps["tokens"]["defaults"]["data.limit"]
    found = write_versions.contents(stated, ["sft"])["steps"]
    raised = {step for step in found if found[step]["version"] != steps[step]["version"]}
    assert raised == {"moe_sft", "sft"}


# Runs that share


VANILLA = {"moe": {"shared_expert": False}, "evaluation": {"models": ["base", "moe_sft"]}}
OF_SEED = {"moe", *TUNED} - SHOWN


def test_only_what_is_not_shared_is_made():
    """The base, the tokens and every stage on which two runs agree exist once."""
    variants = {"variants": {"xft": {}, "vanilla": VANILLA}}
    of_variant = {"moe", "moe_sft", "eval/moe_sft/problems.json"}
    steps = {"sweep": {"mixing.max_steps": [3, 4, 5]}, "mixing": {"max_steps": 3}}
    of_steps = {"weighted_trained/lam~0.75", *EVALUATED} - SHOWN
    rates = {"sweep": {"moe_sft.learning_rate": [5e-5, 1e-3]}}
    for config, folders, added in (
        *(({"seeds": [42]}, [], set()), ({"variants": {"xft": {}}}, [], set())),
        ({"seeds": [42, 43]}, ["seed~43"], OF_SEED),
        (variants, ["moe.shared_expert~false"], of_variant),
        (steps, ["mixing.max_steps~4", "mixing.max_steps~5"], of_steps),
        (rates, ["moe_sft.learning_rate~0.001"], TUNED - SHOWN),
    ):
        fill(wants(mixing=config.get("mixing", {})))
        made = new(wants(**config)) - SHOWN
        assert made == {f"{folder}/{name}" for folder in folders for name in added}


def test_a_further_seed_makes_another_soup():
    soup = {"evaluation": {"models": ["soup"]}}
    fill(wants(seeds=[42, 43], **soup))
    made = new(wants(seeds=[42, 43, 44], **soup)) - SHOWN
    assert made == {"soup", "seed~44/sft", "eval/soup/problems.json"}
    assert new(wants(seeds=[43, 42], **soup)) <= SHOWN


def test_sft_flops_has_the_rows_of_the_mixtures_tuning():
    """Also if section sft has more steps, or a larger batch, than section moe_sft."""
    tuning = {"max_steps": 6, "warmup_steps": 2, "per_device_train_batch_size": 2}
    config = {"sweep": {"moe_sft.max_steps": [6, 8]}, "evaluation": {"models": ["sft_flops"]}}
    for sft, steps in (
        ({"max_steps": 30, "warmup_steps": 9}, {"max_steps": 6, "warmup_steps": 6}),
        ({"per_device_train_batch_size": 4}, {"max_steps": 3, "warmup_steps": 2}),
    ):
        found = wants(moe_sft=tuning, sft=sft, **config).experiment.by_name
        recipe = found["sft_flops"].recipe.options
        assert {key: recipe[f"sft.{key}"] for key in steps} == steps
        assert "moe_sft.max_steps~8/sft_flops" in found


def test_sft_flops_depends_on_the_mixtures_shape_alone():
    """Its steps do not depend on the mixture's weights, which it does not read."""

    def digest(**moe) -> str:
        run = wants(evaluation={"models": ["sft", "sft_flops"]}, moe=moe)
        assert not any(name.endswith("moe") for name in new(run))
        return run.experiment.by_name["sft_flops"].digest

    same = {"init": init_example("drop", share=0.1)}, {"balance_loss_coef": 0.1}
    assert {digest(**moe) for moe in same} == {digest()}
    others = {"num_experts_per_tok": 2}, {"router": "linear"}, {"router_noise": False}
    assert len({digest(), *(digest(**moe) for moe in others)}) == 4


def test_rows_that_were_not_cleaned_of_a_set_are_searched_for_its_problems():
    """Once for all models that learned from them, and for each of the sets."""
    shutil.copy("problems.jsonl", "more.jsonl")
    append("more.jsonl")
    sets = {"datasets": ["problems.jsonl", "more.jsonl"]}
    learned = {"moe_sft", "dense/lam~0.75"}
    fill(wants())
    made = new(wants(evaluation=sets))
    models = {"base", *learned}
    evaluated = {f"eval/{model}/more.json" for model in models}
    assert made == evaluated | {"ground_truth/more", "contamination/more.json", *SHOWN}
    for cleaned, searched in (["problems.jsonl"], {"more"}), ([], {"problems", "more"}):
        experiment = wants(evaluation=sets, data={"decontaminate_against": cleaned}).experiment
        found = {(row.model, row.dataset): row.contamination for row in experiment.rows}
        place = {name: part.place for name, part in experiment.by_name.items()}
        files = {label: place[f"contamination/{label}.json"] for label in searched}
        expected = {(model, label): files[label] for model in learned for label in files}
        assert {key: file for key, file in found.items() if file} == expected


def test_the_table_has_a_row_for_each_model_of_each_run_with_the_shared_files():
    """vanilla does not name base, but has the same one. Its validation rows are those of all."""
    Path("rows.jsonl").write_text(4 * (json.dumps(ROW) + "\n"))
    vanilla = {"moe": {"shared_expert": False}, "evaluation": {"models": ["moe_sft"]}}
    keys = {"data": {"validation_rows": 1}, "evaluation": {"models": ["base", "moe_sft"]}}
    runs = {"seeds": [42, 43], "variants": {"xft": {}, "vanilla": vanilla}}
    experiment = wants(**keys, **runs).experiment
    rows, named = experiment.rows, {part.place: part.name for part in experiment.wanted}
    prefixes = "", "seed~43/", "moe.shared_expert~false/", "moe.shared_expert~false/seed~43/"
    about = [("", 42), ("", 43), ("vanilla", 42), ("vanilla", 43)]
    for prefix, (variant, seed), row in zip(prefixes, about, rows[1::2], strict=True):
        assert (row.model, row.variant, row.seed) == ("moe_sft", variant, seed)
        assert named[row.eval] == f"{prefix}eval/moe_sft/problems.json"
        assert named[row.validation_loss] == f"{prefix}validation/moe_sft.json"
        assert (row.diversity is None) == (variant == "vanilla")
    others = [(row.model, row.variant, row.seed) for row in rows[::2]]
    assert others == [("base", *run) for run in about]
    assert {named[row.eval] for row in rows[::2]} == {"eval/base/problems.json"}
    graph, tunings = experiment.graphs[0], {Model("base"): None, Model("sft"): "sft"}
    tunings |= {Model("moe_sft"): "moe_sft", Model("dense", "0.75"): "moe_sft"}
    for model, tuning in tunings.items():  # whose curve comes with the loss
        metrics = tuning and getattr(graph, tuning).entry / METRICS
        assert graph.validation_loss(model).flags.get("metrics") == metrics


def test_the_configs_own_value_comes_first_in_the_table_of_a_sweep():
    """The others are compared with it."""
    sweep = {"moe_sft.max_steps": [2, 3, 4]}
    rows = wants(moe_sft={"max_steps": 3}, sweep=sweep).experiment.rows
    variants = [row.variant for row in rows if row.model == "moe_sft"]
    assert variants == [f"moe_sft.max_steps={steps}" for steps in (3, 2, 4)]


# What stands where the workflow writes


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("results/moe/notes.txt", "results/moe is where the workflow makes a link"),
        ("results/dense", "results/dense is where the workflow makes a link"),
        ("results/logs/moe.log", "results/logs/moe.log is where"),
        ("results/config.yaml", "results/config.yaml is where the workflow writes"),
        ("store/thesis.txt", "store: it is there but is no store"),
        ("store", "store: it is there but is no store"),
    ],
)
def test_what_is_not_the_workflows_own_stops_it(path, message):
    write_whole(Path(path), "years of work")
    with pytest.raises(UserError, match=f"(?s){message}.* Move it"):
        wants().check()
    assert Path(path).read_text() == "years of work"


def test_a_results_folder_that_overlaps_an_input_stops_the_run():
    shutil.copytree("model", "P/base")
    Path("P/logs").mkdir()
    shutil.copy("rows.jsonl", "P/logs")
    Path("link").symlink_to("P")
    write_whole(Path("here/config.yaml"), "")
    for changed, key in (
        ({"base": {"model": "P/base"}, "results_dir": "P"}, "base.model"),
        ({"base": {"model": "P/base"}, "results_dir": "link"}, "base.model"),
        ({"base": {"model": "P/base"}, "results_dir": "P/base/out"}, "base.model"),
        ({"data": {"train": "P/logs/rows.jsonl"}, "results_dir": "P"}, "data.train"),
        ({"results_dir": "."}, "base.model"),
        ({"results_dir": "mine", "store": "mine/store"}, "store"),
        ({"results_dir": "mine/results", "store": "mine"}, "store"),
        ({"results_dir": "here"}, "this file"),
    ):
        with pytest.raises(UserError, match=rf"^config: {key}: \S+ overlaps results_dir = "):
            wants(**changed).check(["here/config.yaml"])


def test_a_disk_that_may_be_too_small_is_told(monkeypatch):
    def warning(free: int) -> str | None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return warn_of_full_disk(run, run.to_make)

    run = wants()
    request = Requests(run.config, Path("model"))
    written = sum(artifact_bytes(request.models, step) for step in ("moe", "moe_sft", "dense"))
    checkpoints = checkpoint_bytes(request.models, configured_job(run.config, "moe_sft"))
    assert warning(written + checkpoints) is None
    for free in (0, written):
        told = warning(free)
        assert re.search(r"run writes up to \d.* [KMG]B, and the disk of store has \d", told)
    fill(run)
    assert warning(0) is None
    run = wants(base={"model": "org/name", "revision": "0" * 40})
    assert warning(0) is None  # its size is unknown


# What a run does first


def test_the_time_left_is_what_jobs_of_the_same_rules_took(monkeypatch):
    """Two jobs of the run took 60 s within 35 s. An earlier evaluation took 400 s, then 26 s, then
    2 s.
    """
    run = begin(wants())
    names = ["base", "tokens", "moe", "moe_sft", "eval/base/problems.json"]
    names.append("eval/moe_sft/problems.json")
    base, tokens, moe, tuned, *evals = (run.experiment.by_name[name].entry for name in names)
    for folder, seconds in {base: 20, tokens: 40, evals[0].with_name("0" * 16): 400}.items():
        write_whole(folder / ENTRY_FILE, "")
        write_whole(folder / COSTS_FILE, json.dumps({"attempts": [{"seconds": seconds}]}))
    monkeypatch.setattr("time.time", lambda: run.began + 35)
    outputs = [str(entry) for entry in (base, tokens, *evals)]
    assert time_left(run, [*outputs, "results/config.yaml"]) == ", about 8 min left"
    assert time_left(run, [*outputs, str(moe)]) == ", more than 8 min left"
    assert time_left(run, [*outputs, str(tuned)]) == ""  # no training has ended
    for seconds, known, more in ((26, "about 30 s", "more than 30 s"), (2, "about 10 s", "")):
        costs = json.dumps({"attempts": [{"seconds": seconds}]})
        write_whole(evals[0].with_name("0" * 16) / COSTS_FILE, costs)
        assert time_left(run, outputs) == f", {known} left"  # two evaluations in 35 / 60 of it
        assert time_left(run, [*outputs, str(moe)]) == (more and f", {more} left")


def test_the_pace_of_evaluations_says_what_more_problems_would_take():
    """Two models took 10 s a problem for 378 of MBPP+ and 161 of HumanEval in C++."""
    sets = {"datasets": ["mbpp", "multipl-e/humaneval-cpp", "problems.jsonl"]}
    run = wants(evaluation=sets | {"models": ["base", "sft"]})
    for name, seconds in {"mbpp": 3780, "humaneval-cpp": 1610}.items():
        for model in ("base", "sft"):
            assert not pace_line(run)
            folder = run.experiment.by_name[f"eval/{model}/{name}.json"].entry
            cost = {"seconds": seconds, "processor_seconds": seconds, "memory_gib": 1}
            costs = {"attempts": [cost], "asked": {"memory_gib": 1, "minutes": 1}}
            write_whole(folder / COSTS_FILE, json.dumps(costs))
    # 164 of HumanEval+ and 397 of MBPP in C++: 561 problems, 20 s each
    assert pace_line(run) == "Those 561 problems would take about 3.1 hours at this run's pace."


def test_a_store_and_a_results_folder_have_one_run_at_a_time(place):
    first, other = wants(), wants(store="theirs", results_dir=str(place / "results"))
    first.begin()
    before = Path("results", CONFIG_FILE).read_text()
    with pytest.raises(UserError, match=r"store is in use by process \d+ of .*`stores`"):
        wants(seed=1).begin()
    with pytest.raises(UserError, match=r"results is in use by process \d+ .*another results_dir"):
        other.begin()
    gone = {"data": {"train": "gone.jsonl"}}
    with pytest.raises(UserError, match="store is in use by process"):  # before it reads anything
        WorkflowRun(overlaid(CONFIG, gone), begins=True)
    with pytest.raises(UserError, match="there is no file gone"):  # a dry run works beside another
        wants(**gone)
    assert Path("results", CONFIG_FILE).read_text() == before
    first.close(), other.close()
    begin(wants(store="theirs"))  # though the file of the lock is there
    moe = first.experiment.by_name["moe"]
    with claimed(moe.entry), pytest.raises(UserError, match=rf"moe is still .*{moe.digest}\.log"):
        wants().begin()  # while a job has outlived its run


def test_names_that_a_results_folder_lacks_are_told():
    fill(wants())
    begin(wants())
    assert names_line(wants()) == ""
    Path("results/dense/lam~0.75").unlink()
    assert "results lacks 1 name of them, such as results/dense/lam~0.75" in names_line(wants())
    Path("results/dense/lam~0.75").symlink_to("../moe_sft")  # of another configuration
    assert len(wants().names_to_lay()) == 1
    shutil.rmtree("results")
    names = wants().names_to_lay()
    begin(wants())
    assert names and all(map(os.path.exists, names)) and names_line(wants()) == ""


def test_tables_stay_with_what_was_changed_until_there_are_new_ones():
    def shown(**config) -> str:
        begin(wants(**config))
        return Path("results/summary.md").read_text()

    run, old = wants(), "- a verdict\n\n| a table |\n"
    total = len(run.experiment.wanted)
    assert shown().startswith(f"There are no tables yet: {total} of {total} results are missing (")
    fill(run)
    (run.experiment.summary.entry / "summary.md").write_text(old)
    assert shown() == old
    changed = {"mixing": {"max_steps": 3}}
    for config, since in (
        (changed, "mixing.max_steps: None -> 3"),
        (changed, "mixing.max_steps: None -> 3"),
        ({"seed": 7}, "mixing.max_steps: None -> 3; mixing.max_steps: 3 -> None; seed: 42 -> 7"),
    ):
        first, count, *rest = shown(**config).split("\n", 2)
        assert first == f"These tables are of an earlier configuration. Changed since then: {since}"
        assert re.match(rf"\d+ of {total} results of the present one are missing \(", count)
        assert rest == [f"\n{old}"]
    assert shown(gpus=0) == old
    Path("rows.jsonl").write_text(json.dumps(ROW | {"response": "b + a"}))
    assert "Changed since then: a file or the code\n" in shown()


def reasons(run: WorkflowRun) -> list[str]:
    return [line for line in warnings(run, run.to_make) if line.startswith("Runs again: ")]


@pytest.mark.parametrize("goes_back", [False, True])
def test_a_value_that_goes_back_to_the_default_is_a_reason_too(goes_back):
    plain, changed = {}, {"moe_sft": {"max_steps": 3}}
    before, now = (changed, plain) if goes_back else (plain, changed)
    values = ["the default", "3"]
    first, second = reversed(values) if goes_back else values
    fill(begin(wants(**before)))
    begin(wants(**before))
    told = f"Runs again: moe_sft (moe_sft.max_steps: {first} -> {second})"
    assert reasons(wants(**now)) == [told]


def test_a_run_says_why_steps_run_again():
    assert reasons(wants()) == []
    fill(begin(wants()))
    begin(wants())
    assert reasons(wants()) == []
    changed = {"moe_sft": {"max_steps": 3}, "evaluation": {"max_new_tokens": 7}}
    told = [
        "Runs again: eval (evaluation.max_new_tokens: 16 -> 7)",
        "Runs again: moe_sft (moe_sft.max_steps: the default -> 3)",
    ]
    assert reasons(wants(**changed)) == told
    assert reasons(begin(wants(**changed))) == told  # though it has removed the earlier names
    begin(wants())
    Path("rows.jsonl").write_text(json.dumps(ROW | {"response": "b + a"}))
    assert reasons(wants()) == ["Runs again: tokens (other content of rows.jsonl)"]


def test_merged_models_of_another_results_folder_stay():
    mine, other = begin(wants()), wants(merge={"keep": "none"}, results_dir="other")
    assert mine.keeps_merges and not other.keeps_merges
    fill(mine)
    assert other.keeps_merges
    shutil.rmtree("results")
    assert not other.keeps_merges
    assert not begin(other).keeps_merges  # though its own plan wants them


def test_a_run_does_not_begin_with_an_entry_that_is_gone_or_damaged(place):
    """Snakemake would take a part of an entry for the artifact, and fail at a link to nothing."""
    run = begin(wants())
    entry = run.experiment.by_name["moe_sft"].entry
    (entry / "artifact").mkdir(parents=True)
    with pytest.raises(UserError, match=f"{entry} is no whole entry"):
        run.check()
    shutil.rmtree(entry)
    entry.symlink_to(place / "theirs")
    with pytest.raises(UserError, match=f"{entry} leads to {place}/theirs, .* -maxdepth 2 "):
        run.check()
    entry.unlink()
    base = run.experiment.by_name["base"]
    with create_artifact(base.place, "base") as draft:
        (draft.path / "config.json").touch()
    (base.entry / ENTRY_FILE).touch()
    run.check()
    (base.place / "config.json").unlink()
    message = f"config.json.* is not there. Delete {base.entry}, so that it leads to"
    with pytest.raises(UserError, match=message):
        run.check()
    (base.place / "config.json").symlink_to(place / "moved" / "config.json")
    with pytest.raises(UserError, match=message):
        run.check()
    shutil.rmtree(base.entry)
    run.check()


def test_a_base_whose_store_or_model_was_moved_gets_its_links_again(monkeypatch, fork_server):
    """When a run begins, not when one is planned. None leads to other content than before, and
    those in the store of somebody else stay as they are.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = wants()
    run.begin()
    base = run.experiment.by_name["base"]
    step = ["workflow_scripts.base", "--model=model", f"--out={partial(base.entry)}/artifact"]
    link_declared(log_of(base.entry))
    assert make(base.entry, [str(PYTHON), "-m", *step]) == 0
    run.close()
    Path("group").mkdir()
    for moved in ("store", "model"):
        Path(moved).rename(f"group/{moved}")
        model = "group/model" if Path("group/model").exists() else "model"
        run = wants(store="group/store", base={"model": model})
        links = [*run.experiment.by_name["base"].place.iterdir()]
        run.check()
        assert links and not any(link.exists() for link in links)
        begin(run)
        check_artifact(run.experiment.by_name["base"].place, "base", full=True)
        assert all(link.samefile(Path(model, link.name)) for link in links)
        assert not any(link.readlink().is_absolute() for link in links)
    for link in links:
        link.unlink()
    entry, theirs = run.experiment.by_name["base"].entry, Path("theirs").absolute()
    entry.rename(theirs)
    entry.symlink_to(theirs)
    with pytest.raises(UserError, match=r"config\.json is not there\. Delete .*, so that it leads"):
        run.check()
    run.begin()
    run.close()
    assert not any(link.is_symlink() for link in links)
    entry.unlink()
    theirs.rename(entry)
    flip_a_bit(Path(model, "model.safetensors"))
    with pytest.raises(UserError, match=r"safetensors is not there\. Delete .*, so that it leads"):
        run.check()


def test_a_base_that_gets_a_file_after_the_run_began_is_not_kept(monkeypatch, fork_server):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = wants()
    run.begin()
    base, new_file = run.experiment.by_name["base"], Path("model/added_tokens.json")
    step = ["workflow_scripts.base", "--model=model", f"--out={partial(base.entry)}/artifact"]
    command = [str(PYTHON), "-m", *step]
    new_file.write_text("{}")
    link_declared(log_of(base.entry))
    with pytest.raises(UserError, match=r"^added_tokens\.json was added to the model while"):
        make(base.entry, command)
    assert not base.entry.exists() and not partial(base.entry).exists()
    new_file.unlink()
    assert make(base.entry, command) == 0 and base.place.is_dir()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_of_the_workflow_is_kept_with_the_configuration(place, monkeypatch):
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.com", *words]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    monkeypatch.setattr(module, "ROOT", place)
    wants().begin()
    first, second, *_ = Path("results", CONFIG_FILE).read_text().splitlines()
    assert first.startswith("# The completed configuration")
    assert second == f"# The workflow's commit: {git('rev-parse', '--short', 'HEAD')}"
