"""Checks of the problems before a run: prompts, exclusions, and compilers for programs of tests."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import inf
from pathlib import Path

from xft.checkpoints.model_files import read_model_config, read_tokenizer, window
from xft.common.errors import UserError, collecting_errors, did_you_mean, errors_at
from xft.dag.nodes import Node, with_results
from xft.data.prompt_templates import CHAT, PROMPT_NAMES, SLOT, make_template, read_template
from xft.data.tokenizers import load_tokenizer
from xft.evaluation.forms import PROGRAMS, load_problems
from xft.evaluation.languages import MULTIPL_E_LOADS, find_toolchains
from xft.evaluation.prompts import check_fit, task_prompts
from xft.hub.named_sets import NAMED_SETS, RELEASED, TRANSLATED, check_available
from xft.hub.source import find_local
from xft.store.store import is_whole

TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
JUDGES = ("ground_truth", "eval")  # steps that run programs


def check_problems(nodes: Iterable[Node]) -> None:
    """Raise UserError if prompts do not fit the base's window, or if `exclude` names no problem.

    Problems and a base that are not on this machine are not checked. Nothing is fetched.
    """
    faults: list[str] = []
    excluded: set[str] = set()
    known: set[str] = set()
    sizes = cache(partial(_sizes, cache(load_problems)))
    evaluations = {node: _file(node) for node in nodes if node.step == "eval"}
    for node, file in evaluations.items():
        options = node.config.evaluation
        base = node.config.base
        excluded.update(options.exclude)
        if not file:
            continue
        lengths, most = sizes(file, node.flags["prompt"], base.model, base.revision)
        known.update(lengths)
        if options.too_long == "stop":
            kept = [task_id for task_id in lengths if task_id not in options.exclude]
            kept_lengths = {task_id: lengths[task_id] for task_id in kept[: options.limit]}
            with collecting_errors(faults), errors_at(f"config: evaluation on {file}"):
                check_fit(kept_lengths, most, options.max_new_tokens)
    if all(evaluations.values()):
        for name in sorted(excluded - known):
            faults.append(
                f"config: evaluation.exclude: no problem has the task_id {name}"
                f"{did_you_mean(name, known)}"
            )
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def _file(evaluation: Node) -> str:
    """The file of an evaluation's problems; empty if it is not on this machine."""
    (item,) = (item for item in evaluation.inputs if item.name == "problems")
    file = Path(evaluation.flags["dataset"])
    if item.node and not file.is_file():
        file = NAMED_SETS[item.node.flags["dataset"]].find()
    return str(file) if file and file.is_file() else ""


def _sizes(
    load: Callable, file: str, prompt: str, model: str, revision: str | None
) -> tuple[dict[str, int], float]:
    """The tokens of each prompt by task id, and the base's window, infinite if it is unknown.

    The base's tokenizer.json counts, since transformers would import torch. Only the chat template
    of a local base needs transformers; of another base, what its template adds is left out.
    """
    problems = load(file)
    identity = SLOT if prompt == CHAT else read_template(prompt, PROMPT_NAMES)
    texts = task_prompts(problems, make_template(identity, None))
    folder = find_local(model, revision, [TOKENIZER])
    if not folder or not (folder / CONFIG).is_file():
        return {text.task_id: 0 for text in texts}, inf
    with errors_at("config: base.model"):
        most = window(read_model_config(folder / CONFIG)) or inf
        tokenizer = read_tokenizer(folder / TOKENIZER)
    if prompt == CHAT and Path(model).is_dir():
        loaded = load_tokenizer(folder)
        texts = task_prompts(problems, make_template(CHAT, loaded))
        return {text.task_id: len(text.encode(loaded)) for text in texts}, most
    tokenizer.no_padding()
    lengths = {}
    for text in texts:
        lengths[text.task_id] = len(tokenizer.encode(text.text, add_special_tokens=False))
    return lengths, most


def missing_sets(nodes: Iterable[Node]) -> list[str]:
    """The data sets that cannot be fetched, of those that nodes need which are to be made.

    A sentence for each. Sets on this machine are not asked for, and nothing is fetched.
    """
    missing = [node for node in nodes if not is_whole(node.entry)]
    needed = {source for node in missing for source in node.sources}
    fetches = [node for node in missing if node.step == "fetch_problems" and node in needed]
    names = dict.fromkeys(node.flags["dataset"] for node in fetches)
    with ThreadPoolExecutor() as pool:  # each may wait for a network that does not answer
        faults = pool.map(_fault_of_set, names)
    return [fault for fault in faults if fault]


def _fault_of_set(name: str) -> str:
    """Why a named set cannot be had; empty if it can."""
    try:
        check_available(NAMED_SETS[name])
    except UserError as error:
        return str(error)
    return ""


def missing_toolchains(nodes: Iterable[Node]) -> list[str]:
    """The programs that this machine lacks for nodes that are to be made, a sentence for each.

    Files that are not on this machine are left out: the job tells what they need.
    """
    sets: dict[tuple[str, int | None], None] = {}  # with the limit, in order, each once
    for node in with_results(nodes):
        if node.step in JUDGES and not is_whole(node.entry):
            sets[_problem_set(node), node.config.evaluation.limit] = None
    faults: list[str] = []
    for name, limit in sets:
        with collecting_errors(faults):
            find_toolchains(_programs(name, limit))
    return list(dict.fromkeys("\n".join(faults).splitlines()))


def _problem_set(node: Node) -> str:
    """The problems that a job judges: a name or a file."""
    (problems,) = (item for item in node.inputs if item.name == "problems")
    if problems.node is not None:
        return problems.node.flags["dataset"]
    return problems.paths[0]


def _programs(name: str, limit: int | None) -> Iterator[tuple[str, str]]:
    """The language and the text of each program, as far as they are known before the run."""
    if name in TRANSLATED:
        language = TRANSLATED[name].language
        yield language, MULTIPL_E_LOADS.get(language, "")
    elif name not in RELEASED and Path(name).exists():
        data_set = load_problems(name).first(limit)
        if data_set.form is PROGRAMS:
            for problem in data_set.problems:
                yield problem.language, problem.prompt + problem.tests
