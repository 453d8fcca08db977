"""What a configuration with `choose` wants: the graph of methods at their chosen settings."""

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from working_folder import ROW, begin, fill, wants

from workflow_scripts import measure_chosen
from xft.artifacts.manifest import CHOICE, DIVERGED, DIVERGED_FILE, LOSS_RESULT, read_manifest
from xft.common.errors import UserError
from xft.config.runs import overlaid
from xft.config.steps import CHOSEN, RESULT
from xft.dag.choices import NAMES
from xft.dag.workflow_run import WorkflowRun
from xft.reporting.run_table import MEASURED
from xft.store import make as module
from xft.store.job_records import Job, write_plan
from xft.store.make import make
from xft.store.store import Recipe, Store, is_whole, partial

RATES = [1e-3, 5e-4]
MODELS = ["base", "sft", "moe_sft", "dense"]
CONFIG = {
    "choose": "validation",
    "data": {"choice_rows": 2, "validation_rows": 2},
    "sweep": {"moe_sft.learning_rate": RATES},
    "merge": {"lambdas": ["0.5", "0.75"]},
    "seeds": [42, 43],
    "evaluation": {"models": MODELS},
}
# The rows and the epochs of a method's trainings, with batches of 6 and 3 experts for a token.
COSTS = {
    "sft": (10 * 6, 0),
    "sft_flops": (0, 2 * 3),
    "moe_sft": (0, 2 * 3),
    "uniform": (0, 2 * 3),
    "dense": (5 * 6, 2 * 3),
}


@pytest.fixture(autouse=True)
def nine_rows(place) -> None:
    rows = [ROW | {"response": f"a + b + {number}"} for number in range(9)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def chosen(**keys) -> WorkflowRun:
    return wants(**overlaid(CONFIG, keys))


def new(run: WorkflowRun) -> dict[str, list[str]]:
    """The names of what a run would make, by step."""
    names: dict[str, list[str]] = {}
    for node in run.to_make:
        names.setdefault(node.step, []).append(node.name)
    return names


def table(node) -> list[dict]:
    return list(csv.DictReader(StringIO(node.texts["candidates.csv"])))


def test_each_result_has_a_name_in_the_folder_of_a_method():
    """A result that is forgotten here would end the runs with `choose` alone."""
    assert {*NAMES, "choose"} == {*MEASURED}


def test_all_settings_are_trained_and_only_methods_are_evaluated():
    run = chosen()
    made = new(run)
    assert len(made["sft"]) == len(made["moe_sft"]) == len(RATES) * 2
    assert len(made["dense"]) == len(RATES) * 2 * 2
    assert made["choose"] == ["chosen/sft.json", "chosen/moe_sft.json", "chosen/dense.json"]
    assert made["eval"] == ["eval/base/problems.json"]  # it has one setting
    results = {name for name in made["measure_chosen"] if "/eval/" in name}
    methods = MODELS[1:]
    prefixes = "", "seed~43/"
    assert results == {f"{p}chosen/{m}/eval/problems.json" for p in prefixes for m in methods}
    assert f"chosen/{methods[0]}/validation.json" in made["measure_chosen"]
    of_dense = table(run.experiment.by_name["chosen/dense.json"])
    settings = list(dict.fromkeys(row["setting"] for row in of_dense))
    assert settings[:2] == [f"lambda={lam}, moe_sft.learning_rate=0.001" for lam in (0.5, 0.75)]
    assert len(settings) == 4 and [row["seed"] for row in of_dense[:2]] == ["42", "43"]
    of_sft = table(run.experiment.by_name["chosen/sft.json"])
    assert {row["setting"] for row in of_sft} == {
        f"sft.learning_rate={rate}" for rate in ("0.001", "0.0005")
    }
    rows = run.experiment.rows
    assert {row.model for row in rows} == {*MODELS} and {row.variant for row in rows} == {""}
    assert [row.choose is None for row in rows] == [row.model == "base" for row in rows]


def test_a_choice_waits_for_all_losses_and_its_results_for_all_models():
    run = chosen()
    known = run.experiment.by_name
    choice = known["chosen/dense.json"]
    losses = [source for source in choice.sources if source.step == "validation_loss"]
    assert len(losses) == 8 and all(loss.recipe.options == {"rows": "choice"} for loss in losses)
    result = known["chosen/dense/eval/problems.json"]
    models = {source for source in result.sources if source.step == "dense"}
    assert choice in result.sources and len(models) == 4  # of this seed
    assert [one.step for one in result.one_of] == ["eval"] * 4
    assert run.jobs[result.digest].one_of == [one.digest for one in result.one_of]
    # The order of the numbers in chosen.json.
    places = {row["model"] for row in table(choice) if row["seed"] == "42"}
    made_from = {f"../../dense/{one.source('model').digest}/artifact" for one in result.one_of}
    assert places == made_from


def test_nothing_that_is_not_about_the_choice_has_another_digest():
    """Runs with and without `choose` share trainings, merges and evaluations."""
    plain = wants(**{key: value for key, value in CONFIG.items() if key != "choose"})
    with_choice = chosen().experiment.by_name
    for node in plain.experiment.wanted:
        if node.step not in ("summary", "report"):
            assert with_choice[node.name].digest == node.digest, node.name


def test_a_value_that_is_added_makes_only_what_is_new():
    fill(chosen())
    added = {"sweep": {"moe_sft.learning_rate": [*RATES, 2e-3]}}
    made = new(chosen(**added))
    trained = {"sft", "moe_sft", "ffn", "weighted_init", "weighted_trained", "dense"}
    assert made.keys() == trained | {
        "validation_loss",
        "choose",
        "measure_chosen",
        "summary",
        "report",
    }
    for step in (*trained, "validation_loss"):
        assert all("sft.learning_rate~0.002" in name for name in made[step]), step


def test_the_result_of_a_setting_comes_from_the_store_of_others(monkeypatch):
    """Another choice may have evaluated the same model there."""
    run = chosen()
    evaluation, *_ = run.experiment.by_name["chosen/sft/eval/problems.json"].one_of
    asked = []
    monkeypatch.setattr("xft.store.others.take", lambda stores, nodes: asked.extend(nodes))
    begin(run)
    assert evaluation in asked
    assert evaluation in run.offered(run.experiment.ends, {evaluation})


def test_one_setting_needs_no_choice():
    one = chosen(sweep={"moe_sft.learning_rate": RATES[:1]})
    assert [name.rpartition("/")[2] for name in new(one)["choose"]] == ["dense.json"]
    with pytest.raises(UserError, match="there is one setting"):
        wants(**{key: value for key, value in CONFIG.items() if key not in ("sweep", "merge")})


def test_a_variant_has_its_own_choice_and_shares_what_it_does_not_change():
    """A merge of the user's is a value like any other."""
    Path("mine.py").write_text("def mean(tensors, coefficients, base): return base\n")
    methods = {"merge.method": ["xft", "mine.py:mean"]}
    narrow = {"moe": {"num_experts": 4, "num_experts_per_tok": 2}}
    run = chosen(variants={"xft": {}, "narrow": narrow}, sweep=CONFIG["sweep"] | methods)
    choices = [node for node in run.experiment.wanted if node.step == "choose"]
    front = "moe.num_experts~4/moe.num_experts_per_tok~2/chosen"
    assert [node.name for node in choices] == [
        *("chosen/sft.json", "chosen/moe_sft.json", "chosen/dense.json"),
        *(f"{front}/moe_sft.json", f"{front}/dense.json"),
    ]
    settings = {row["setting"] for row in table(choices[2])}
    assert len(settings) == 8
    assert "lambda=0.5, merge.method=mine.py:mean, moe_sft.learning_rate=0.001" in settings
    rows = {(row.model, row.variant): row for row in run.experiment.rows if row.seed == 42}
    assert {variant for _, variant in rows} == {"", "narrow"}
    assert rows["sft", ""].eval == rows["sft", "narrow"].eval
    assert rows["dense", ""].eval != rows["dense", "narrow"].eval
    assert rows["dense", "narrow"].control == ""


@pytest.mark.parametrize("control", ["", "xft", "narrow"])
def test_a_variant_has_the_control_that_it_has_without_a_choice(control):
    variants = {"xft": {}, "narrow": {"moe": {"num_experts": 4, "num_experts_per_tok": 2}}}
    keys = overlaid(CONFIG, {"variants": variants} | ({"control": control} if control else {}))
    del keys["sweep"]
    plain = wants(**{key: value for key, value in keys.items() if key != "choose"})
    asked = [
        {(row.variant, row.control, row.own_name) for row in run.experiment.rows}
        for run in (wants(**keys), plain)
    ]
    assert asked[0] == asked[1]


def test_the_cost_that_breaks_ties_is_the_rows_that_the_trainings_see():
    """Each once for each expert that computes a token: one in the plain model, and in the mixing,
    whose experts are merged.
    """
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    run = chosen(
        moe={"num_experts": 4, "num_experts_per_tok": 3},
        sft=batch | {"max_steps": 10},
        moe_sft=batch | {"num_train_epochs": 2},
        mixing=batch | {"max_steps": 5},
        evaluation={"models": ["base", *COSTS]},
    )
    for kind, (rows, epochs) in COSTS.items():
        costs = table(run.experiment.by_name[f"chosen/{kind}.json"])
        assert {(float(cost["rows"]), float(cost["epochs"])) for cost in costs} == {(rows, epochs)}


def test_what_cannot_be_chosen_is_told_before_anything_runs():
    for keys, message in (
        ({"data": {"choice_rows": 0}}, r"choose = validation: .* no rows .* Set data.choice_rows"),
        ({"sweep": {"data.limit": [7, 8]}}, "sweep: data.limit cannot be chosen .* `variants`"),
        ({"sweep": {"evaluation.temperature": [0, 1]}}, "sweep: evaluation.temperature cannot"),
        ({"choose": "benchmark"}, "choose = .*benchmark"),
        ({"data": {"choice_rows": 7}}, "data.choice_rows = 7: rows.jsonl has at most 9 rows"),
    ):
        with pytest.raises(UserError, match=message):
            chosen(**keys).check()


# The jobs


def jobs_of(*steps: str, **about) -> list[Job]:
    """A job for each step that makes a result of its own. about: more fields."""
    asked = {"file": RESULT, "online": False, "mem_mb": 1000, "minutes": 10}
    recipes = [Recipe(step, 1, {"number": n}, {}) for n, step in enumerate(steps)]
    return [Job(recipe.step, recipe, {}, "", asked, {}, {}, **about) for recipe in recipes]


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, list[str]]]:
    """The steps that ran, each with its command. They write losses, but for measure_chosen."""
    commands = []

    def run(entry, command, job, lock):
        out = partial(entry) / RESULT
        commands.append((job.recipe.step, command))
        if job.recipe.step == "measure_chosen":
            measure_chosen.main([*command[3:], "--out", str(out)])
        else:
            LOSS_RESULT.write(out, {"rows": [], "loss": 1.0})
        return 0

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "_check_unchanged", lambda *_: None)
    return commands


def planned(*jobs: Job) -> list[Path]:
    """The entries of a plan with these jobs."""
    Path("results").mkdir(exist_ok=True)
    store = Store(Path("store"))
    store.open().close()
    write_plan(store, Path("results"), {job.recipe.digest: job for job in jobs})
    return [store.entry(job.recipe.step, job.recipe.digest) for job in jobs]


def choose_second(name: str) -> str:
    file = Path(name, CHOSEN)
    file.parent.mkdir(parents=True, exist_ok=True)
    CHOICE.write(file, {"chosen": {"number": 1, "setting": "b"}, "settings": [{}, {}]})
    return str(file.parent)


def test_the_chosen_result_is_made_once_under_its_own_recipe(ran):
    choice = choose_second("choice")
    first, second = jobs_of("eval", "eval")
    one_of = [first.recipe.digest, second.recipe.digest]
    (takes, later) = (
        Job(job.name, job.recipe, {"choice": [choice]}, "", job.resources, {}, {}, one_of=one_of)
        for job in jobs_of("measure_chosen", "measure_chosen")
    )
    places = planned(first, second, takes, later)
    results = [str(place / RESULT) for place in places[:2]]
    command = ["python", "-m", "x", "--choice", f"{choice}/{CHOSEN}", "--results", *results]
    assert make(places[2], command) == 0
    assert [step for step, _ in ran] == ["eval", "measure_chosen"]
    assert ran[0][1][:3] == ["python", "-m", "workflow_scripts.eval"]
    assert [is_whole(place) for place in places] == [False, True, True, False]
    taken, own = (read_manifest(place / f"{RESULT}.manifest.json") for place in places[1:3])
    assert taken.id == own.id
    assert make(places[3], command) == 0  # another choice of the same model
    assert [step for step, _ in ran] == ["eval", "measure_chosen", "measure_chosen"]


def test_nothing_is_made_from_a_training_that_diverged(ran):
    """It is a result where a choice leaves it out, and else an error."""
    Path("tuned").mkdir()
    DIVERGED.write(Path("tuned", DIVERGED_FILE), {"cause": "step 3: loss nan"})
    tried, asked = jobs_of("dense", may_diverge=True) + jobs_of("soup")
    for job in (tried, asked):
        job.inputs["model"] = ["tuned"]
    places = planned(tried, asked)
    assert make(places[0], ["python"]) == 0
    assert DIVERGED.read(places[0] / DIVERGED_FILE)["cause"] == "step 3: loss nan"
    with pytest.raises(UserError, match="from a training that diverged: step 3: loss nan"):
        make(places[1], ["python"])
    assert ran == [] and not partial(places[1]).exists()
