"""What the rules pass to the steps, as dry runs show it."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from damage import change_json
from project import rules

from xft.common import optional
from xft.config.reading import complete, read_config

STAND_INS = Path(__file__).parents[1] / "stand_ins"
RECIPE = "recipes/deepseek-coder-1.3b.yaml"
SETS = ["mbpp", "resources/problems.jsonl"]
CLEANED = ["humaneval", "resources/problems.jsonl", "multipl-e/mbpp-js"]
MODELS = ["base", "moe", "sft", "moe_sft", "uniform", "dense"]
# Over the recipe as it was published.
ASKED = {
    "moe_sft": {"launch": "ddp", "processes": 4},
    "data": {"decontaminate_against": CLEANED},
    "evaluation": {"backend": "vllm", "models": MODELS, "datasets": SETS, "limit": 3},
}


@pytest.fixture(scope="module")
def show(new_project):
    """Callable (arguments, configuration): what a dry run shows, on stderr if it is to fail."""
    project = new_project("dry")
    project.overlay = {}
    (project.folder / "my tasks.yaml").touch()
    (project.folder / "tab.yaml").write_text("base:\n\tmodel: mine\n")
    (project.folder / "gone.yaml").write_text("{base: {model: mine}, data: {train: gone.jsonl}}")

    def show(*arguments: str, code: int = 0, **config) -> str:
        with pytest.MonkeyPatch.context() as patch:
            if not optional.installed("vllm"):
                paths = [str(STAND_INS), os.environ.get("PYTHONPATH", "")]
                patch.setenv("PYTHONPATH", ":".join(filter(None, paths)))
            done = project.snakemake("-np", *arguments, **config)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    return show


def test_a_fault_of_a_model_folder_is_printed_once(show, tmp_path, tiny_llama):
    """Each check of a run before its first job needs the graph, which needs the model's files."""
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    change_json(model / "config.json", quantization_config={"bits": 4})
    file = tmp_path / "mine.yaml"
    train = "resources/instructions.jsonl"
    file.write_text(json.dumps({"base": {"model": str(model)}, "data": {"train": train}}))
    shown = show("--configfile", str(file), code=1)
    (told,) = [line for line in shown.splitlines() if "quantised" in line]
    place, _, fault = told.partition(": ")
    assert Path(place).name == file.name
    assert fault == f"base.model: {model} is quantised. Use the unquantised model"


@pytest.fixture(scope="module")
def recipe(show) -> str:
    return show("--cores", "8", "--resources", "gpu=8", "--configfile", RECIPE, **ASKED)


def commands(shown: str, rule: str) -> dict[str, str]:
    """The commands of a rule's jobs, by the name of what they make."""
    return dict(re.findall(rf"^{rule}: (\S+) .*\nShell command: (.*)", shown, re.MULTILINE))


def test_the_published_recipe_runs_the_published_steps(recipe, repository):
    """The defaults complete the file, and not config.yaml, which is of the demonstration."""
    steps = {"base", "fetch_data", "fetch_problems", "tokens", "moe", "moe_sft", "sft", "ffn"}
    steps |= {"weighted_init", "weighted_trained", "dense", "diversity", "ground_truth"}
    assert set(rules(recipe)) == steps | {"contamination", "eval", "summary", "report"}
    assert " --model=deepseek-ai/deepseek-coder-1.3b-base --revision=c919139c" in recipe
    config = complete(read_config(repository / RECIPE))
    assert (config.seed, config.moe.num_experts, config.moe.num_experts_per_tok) == (42, 8, 6)
    assert (config.data.max_length, config.merge.lambdas) == (1024, ["0.75"])
    trainings = (config.moe_sft, 4, 5e-5, 500), (config.mixing, 1, 1e-5, 125)
    for options, epochs, rate, warmup in trainings:
        assert (options.num_train_epochs, options.max_steps) == (epochs, None)
        assert (options.learning_rate, options.warmup_steps) == (rate, warmup)
        assert (options.lr_scheduler_type, options.optim) == ("linear", "adafactor")
        assert options.per_device_train_batch_size * options.gradient_accumulation_steps == 64


def test_vllm_generates_for_all_but_mixtures(recipe):
    found = {}
    for name, command in commands(recipe, "eval").items():
        model = name.removeprefix("eval/").rpartition("/")[0]
        found[model] = re.search(r"--backend=(\w+)", command)
    vllm = {"base", "sft", "uniform/lam~0.75", "dense/lam~0.75"}
    assert found.keys() == vllm | {"moe", "moe_sft"}
    assert {name for name in found if found[name] and found[name][1] == "vllm"} == vllm


def test_one_rule_fetches_problems_and_the_others_are_given_the_files(recipe):
    fetches = commands(recipe, "fetch_problems").values()
    places = dict(re.search(r"--dataset=(\S+) .*--out (\S+)", fetch).groups() for fetch in fetches)
    assert places.keys() == {"mbpp", CLEANED[2]}
    fetched, cleaned = (places[name].replace(".partial", "") for name in ("mbpp", CLEANED[2]))
    assert fetched.endswith("/mbpp.jsonl") and cleaned.endswith("/mbpp-js.parquet")
    (tokens,) = commands(recipe, "tokens").values()
    assert f"--problems {' '.join(CLEANED[:2])} {cleaned} " in tokens
    (counting,) = commands(recipe, "contamination").items()
    assert counting[0] == "contamination/mbpp.json"
    rows = re.search(r"--data=\S+", tokens)[0]
    assert f" --dataset={fetched} {rows} " in counting[1]
    for rule in ("ground_truth", "eval"):
        for name, command in commands(recipe, rule).items():
            assert f"--dataset={fetched if 'mbpp' in name else SETS[1]} " in command


def test_a_launch_starts_torchrun_for_the_nodes_gpus(recipe):
    command = commands(recipe, "moe_sft")["moe_sft"]
    start = "python -m xft.common.gpus 4 torchrun --standalone --nproc-per-node 4 "
    assert start in command and command.startswith("exec python -m xft.store.make store/moe_sft/")


def test_a_fault_of_a_config_file_is_one_message_with_its_name(show):
    """Snakemake reads it before the Snakefile, and shows a stack trace."""
    _, told = show("--configfile", "config.yaml", "tab.yaml", code=1).splitlines()
    assert told.startswith("tab.yaml, line 2, column 1, is not valid YAML: found character '\\t'")
    told = show("--configfile", "gone.yaml", code=1)
    assert "\ngone.yaml: data.train: there is no file gone.jsonl" in told


def test_the_slurm_profile_caps_no_gpus_and_warns_trainings(repository):
    profile = yaml.safe_load((repository / "profiles/slurm/config.yaml").read_text())
    assert profile["default-resources"]["slurm_extra"] == "'--signal=TERM@300'"
    assert "resources" not in profile
