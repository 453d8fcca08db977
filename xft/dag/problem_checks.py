"""Checks of the problems before a run: prompts, exclusions, and compilers for programs of tests."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import inf
from pathlib import Path

from xft.checkpoints.model_files import read_model_config, window
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

TOKENIZER, CONFIG = "tokenizer.json", "config.json"
JUDGES = ("ground_truth", "eval")  # steps that run programs


def check_problems(nodes: Iterable[Node]) -> None:
    """Raise UserError if prompts do not fit the base's window, or if `exclude` names no problem.

    Problems and a base that are not on this machine are not checked. Nothing is fetched.
    """
    faults, excluded, known = [], set(), set()
    sizes = cache(partial(_sizes, cache(load_problems)))
    evaluations = {node: _file(node) for node in nodes if node.step == "eval"}
    for node, file in evaluations.items():
        options, base = node.config.evaluation, node.config.base
        excluded.update(options.exclude)
        if file:
            lengths, most = sizes(file, node.flags["prompt"], base.model, base.revision)
            known |= lengths.keys()
            kept = [task_id for task_id in lengths if task_id not in options.exclude]
            kept = {task_id: lengths[task_id] for task_id in kept[: options.limit]}
            if options.too_long == "stop":
                with collecting_errors(faults), errors_at(f"config: evaluation on {file}"):
                    check_fit(kept, most, options.max_new_tokens)
    if all(evaluations.values()):
        at = "config: evaluation.exclude: no problem has the task_id"
        faults += [f"{at} {name}{did_you_mean(name, known)}" for name in sorted(excluded - known)]
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
    from tokenizers import Tokenizer

    identity = SLOT if prompt == CHAT else read_template(prompt, PROMPT_NAMES)
    prompts = task_prompts(load(file), make_template(identity, None))
    folder = find_local(model, revision, [TOKENIZER])
    if not folder or not (folder / CONFIG).is_file():
        return {each.task_id: 0 for each in prompts}, inf
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_padding()
    encode = partial(tokenizer.encode, add_special_tokens=False)
    lengths = {each.task_id: len(encode(each.text)) for each in prompts}
    if prompt == CHAT and Path(model).is_dir():
        loaded = load_tokenizer(folder)
        prompts = task_prompts(load(file), make_template(CHAT, loaded))
        lengths = {each.task_id: len(each.encode(loaded)) for each in prompts}
    return lengths, window(read_model_config(folder / CONFIG)) or inf


def missing_sets(nodes: Iterable[Node]) -> list[str]:
    """What cannot be fetched of the problem sets that those of the nodes need which are to be made.

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
    """What this machine lacks for those of the nodes that are to be made, a sentence for each.

    Files that are not on this machine are left out: the job tells what they need.
    """
    sets = {
        (name, node.config.evaluation.limit): None
        for node in with_results(nodes)
        if node.step in JUDGES and not is_whole(node.entry)
        for item in node.inputs
        if item.name == "problems"
        for name in ([item.node.flags["dataset"]] if item.node else item.paths)
    }
    faults = []
    for name, limit in sets:
        with collecting_errors(faults):
            find_toolchains(_programs(name, limit))
    return list(dict.fromkeys("\n".join(faults).splitlines()))


def _programs(name: str, limit: int | None) -> Iterator[tuple[str, str]]:
    """The language and the text of each program, as far as they are known before the run."""
    if name in TRANSLATED:
        language = TRANSLATED[name].language
        yield language, MULTIPL_E_LOADS.get(language, "")
    elif name not in RELEASED and Path(name).exists():
        data_set = load_problems(name).first(limit)
        if data_set.form is PROGRAMS:
            yield from ((p.language, p.prompt + p.tests) for p in data_set.problems)
