"""The graph: what each artifact is made from, beside what the rules say and what was before."""

import inspect
import json
import re
import sys
from pathlib import Path

import pytest

from xft.config.reading import complete
from xft.config.runs import find_runs, overlaid, read_overlaid
from xft.config.sections import MODELS, TRAININGS
from xft.config.steps import STEPS
from xft.dag.experiment import Experiment
from xft.dag.graph import Graph
from xft.dag.jobs import find_jobs
from xft.dag.nodes import NoContents, Node
from xft.dag.step_jobs import STEP_JOBS
from xft.store.code import ROOT, Code

GOLDEN = ROOT / "tests/golden/digests.json"  # by configuration and name, with all versions 1
RULE = re.compile(r"^rule (\w+):$(.*?)(?=^rule|\Z)", re.MULTILINE | re.DOTALL)
INPUT = re.compile(r"^        (\w+)=(entry_of|optional)\(\"(\w+)\"\),$", re.MULTILINE)
NODES = re.compile(r"^        \*\*nodes\(CONFIG\.(\w+)\),$", re.MULTILINE)
ELSEWHERE, OWN = {"model": "resources/base"}, "resources/problems.jsonl"
CONFIGS = {
    "demonstration": {},
    "everything": {
        "evaluation": {"models": list(MODELS), "datasets": ["humaneval", OWN]},
        "merge": {"lambdas": ["0.5", "1"]},
        "seeds": [1, 2],
    },
    "from the hub": {
        "base": {"model": "org/model", "revision": 40 * "a"},
        "data": {"train": "org/rows", "revision": 40 * "b", "template": "template.txt"}
        | {"decontaminate_against": ["mbpp"]},
    },
    "tuned elsewhere": {"moe_sft": ELSEWHERE, "sft": ELSEWHERE},
    "sweep": {
        "sweep": {"moe.num_experts": [2, 4], "mixing.max_steps": [10, 20]},
        "variants": {"lora": {"moe": {"experts": "lora", "rank": 4}}, "full": {}},
    },
    "choose": {
        "choose": "validation",
        "data": {"choice_rows": 50},
        "sweep": {"moe_sft.learning_rate": [5.0e-4, 1.0e-3]},
        "merge": {"lambdas": ["0.5", "0.75"]},
        "seeds": [1, 2],
        "variants": {"xft": {}, "narrow": {"moe": {"num_experts": 2}}},
        "evaluation": {"models": ["base", "sft", "soup", "moe_sft", "dense"]},
    },
}


@pytest.fixture(scope="module")
def experiments():
    """The configurations above, each over the demonstration. No file is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(Code, "version_of", lambda code, step: 1)
        yield {name: _experiment(name, changes) for name, changes in CONFIGS.items()}


def _experiment(name: str, changes: dict) -> Experiment:
    values, _ = read_overlaid([Path("config.yaml")])
    for section in changes:  # no other key beside a model that was tuned elsewhere
        if changes[section] is ELSEWHERE:
            values.pop(section, None)
    values = overlaid(values, changes)
    experiment = Experiment(complete(values, name), find_runs(values, name), NoContents())
    assert experiment.known
    return experiment


def test_artifacts_keep_their_digests(experiments):
    """A change of the graph makes nothing again. A new model or result needs no line in the file:
    what shows all of them is not in it.
    """
    expected = json.loads(GOLDEN.read_text())
    for config, digests in expected.items():
        known = experiments[config].by_name
        assert {name: known[name].digest for name in digests} == digests, config


@pytest.mark.parametrize("name", CONFIGS)
def test_each_artifact_has_a_job(experiments, name):
    """With its memory and time, which ask a section for its keys and properties by name."""
    known = experiments[name].known
    assert find_jobs(experiments[name], known).keys() == {node.digest for node in known}


def test_rules_have_the_inputs_of_their_nodes(experiments, monkeypatch):
    """And the cluster's nodes by their section. The report's job also reads what there is of the
    results.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", "resources/problems.jsonl")
    plain = {"merge": {"method": "examples/merges/ties.py:ties"}, "seeds": [1, 2]}
    callbacks = ["examples/callbacks/global_balance.py:GlobalBalance"]
    plain["moe"] = {"init": "examples/inits/drop.py:drop"}
    plain |= {name: {"callbacks": callbacks} for name in TRAININGS}
    plain["evaluation"] = {"models": list(MODELS), "datasets": ["humaneval", "mbpp"]}
    every = [*experiments.values(), _experiment("plain", plain)]
    files = [file.read_text() for file in (ROOT / "rules").glob("*.smk")]
    rules = dict(rule for text in files for rule in RULE.findall(text))
    read = {}
    for node in (node for experiment in every for node in experiment.known):
        read.setdefault(node.step, []).append({each.name for each in node.inputs if each.paths})
    read["report"].append({"summary", "shown"})
    for step, inputs in read.items():
        stated = INPUT.findall(rules[step])
        assert all(key == name for key, _, name in stated)
        always = set.intersection(*inputs)
        kinds = {name: "entry_of" if name in always else "optional" for name in set.union(*inputs)}
        assert {name: kind for name, kind, _ in stated} == kinds, step
        section = STEPS[step].section
        assert NODES.findall(rules[step]) == ([section] if section else []), step


def test_a_rule_has_threads_where_its_step_computes_with_several():
    """Without them Snakemake starts too many jobs at once, and Slurm gives one core."""
    text = "\n".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    for name, body in RULE.findall(text):
        job = STEP_JOBS[name]
        computes = bool(job.threads or STEPS[name].section or job.generates)
        assert ("\n    threads: threads_of\n" in body) == computes, name


def test_evaluations_have_the_priority_of_their_jobs():
    """That of base is higher, so that its answers show a wrong prompt early."""
    rules = dict(RULE.findall((ROOT / "rules" / "evaluation.smk").read_text()))
    assert re.findall(r"^    priority: (.*)", rules["eval"], re.MULTILINE) == ["priority_of"]


def test_each_method_of_the_graph_is_asked_for(monkeypatch):
    ran = set()
    monkeypatch.chdir(ROOT)
    sys.setprofile(lambda frame, *_: ran.add(frame.f_code))
    try:
        for name, changes in CONFIGS.items():
            _experiment(name, changes)
    finally:
        sys.setprofile(None)
    members = [getattr(member, "func", member) for member in vars(Graph).values()]
    methods = filter(inspect.isfunction, members)
    methods = [m for m in methods if inspect.get_annotations(m).get("return") is Node]
    idle = sorted(method.__name__ for method in methods if method.__code__ not in ran)
    advice = "name a model in MODELS of xft/config/sections.py, and a result in Graph.measured"
    assert methods and not idle, f"nothing asks for Graph.{' and Graph.'.join(idle)}: {advice}"
