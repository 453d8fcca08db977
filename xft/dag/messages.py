"""The messages of a run at its start, on its way and at its end."""

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from shlex import quote

from xft.common.errors import UserError, counted
from xft.common.file_access import nearest_folder
from xft.common.json_files import read_json
from xft.common.results_folder import CONFIG_FILE
from xft.config.reading import chosen_values
from xft.config.sections import MODEL_KINDS, TRAININGS, WorkflowConfig
from xft.config.steps import TRAINING_SECTIONS
from xft.dag.begun_jobs import BegunJob, Phase, find_begun_jobs
from xft.dag.job_resources import requests
from xft.dag.nodes import Node, with_results
from xft.dag.problem_checks import missing_sets
from xft.dag.rerun_reasons import rerun_reasons
from xft.dag.totals import disk_space, hours_of
from xft.dag.workflow_run import WorkflowRun
from xft.estimates.planning import disk_text, time_text
from xft.hub.named_sets import BY_LABEL, NamedSet, unused
from xft.store import others
from xft.store.job_records import COSTS_FILE
from xft.store.links import find_unwanted
from xft.store.store import DIGITS, ENTRY, disk_bytes, is_whole, partial

# What messages say of causes that lie neither in the configuration nor in the data. Some last until
# the user does something: what that is.
PASSING = re.compile("killed by SIGKILL|run the same command again", re.IGNORECASE)
FIRST = {
    re.compile("make room|no space left|free some space", re.IGNORECASE): "make room",
    re.compile("could not be fetched", re.IGNORECASE): (
        "see that this machine reaches the network, or bring the files as the message says"
    ),
}
LONG = {*TRAINING_SECTIONS, "eval"}  # steps that take most of a run's time


def beginning(config: WorkflowConfig) -> str:
    """The values that are not defaults, and what they leave out."""
    lines = ["The values of the configuration that are not defaults:"]
    lines += [f"  {key}: {value}" for key, value in chosen_values(config).items()]
    lines.append(f"All of it: {Path(config.results_dir) / CONFIG_FILE}")
    if config.seeds and "seed" in config.model_fields_set and config.seed not in config.seeds:
        lines.append(
            f"seed = {config.seed} is not one of seeds = {config.seeds}: no run has it, and the "
            "tables do not show it."
        )
    return "\n".join(lines)


def warnings(run: WorkflowRun, to_make: list[Node]) -> Iterator[str]:
    """Lines about what a user may not expect of a run. None if there is nothing to make."""
    if not to_make:
        return
    held = [] if run.begun else run.held(to_make)
    if held:
        yield (
            f"{len(held)} of these {len(to_make)} artifacts lie in the stores of others: a run "
            "takes them from there if their bytes are intact"
        )
    edited = _edited_code(run, to_make)
    if edited:
        yield edited
    tables = run.experiment.ends
    yield from rerun_reasons(run.earlier_recipes, [node for node in to_make if node not in tables])
    yield from _odd_values(run)
    for name in _idle_sections(run, to_make):
        yield (
            f"WARNING: {name}: this section has no effect, because no model in evaluation.models "
            "needs it. Add such a model, or leave the section out"
        )
    full = warn_of_full_disk(run, to_make)
    if full:
        yield full
    if not run.begun:  # the start of the jobs ends a run for this
        for fault in missing_sets(node for node in to_make if node not in held):
            yield f"WARNING: {fault}"


def _edited_code(run: WorkflowRun, to_make: list[Node]) -> str | None:
    """A line that names the steps whose code was edited. None if no code was edited."""
    edited: dict[str, list[str]] = {}
    for step in _unique(node.step for node in to_make):
        modules = run.experiment.code.edited(step)
        if modules:
            edited[step] = modules
    if not edited:
        return None
    names = _unique(name for modules in edited.values() for name in modules)
    return (
        f"Edited code makes these steps run again: {', '.join(edited)}. The modules: "
        f"{', '.join(names)}. If results stay the same: python -m tools.write_versions"
    )


def _unique(texts: Iterable[str]) -> list[str]:
    """Some texts in order, each once."""
    return list(dict.fromkeys(texts))


def _odd_values(run: WorkflowRun) -> list[str]:
    """A line for each value of the user's that is odd, once for all configurations."""
    lines = []
    for config in run.configs:
        for key, value in chosen_values(config).items():
            reason = _odd(key, value, config)
            if reason:
                lines.append(f"WARNING: {key} = {value}: {reason}")
    return _unique(lines)


def names_line(run: WorkflowRun) -> str:
    """The message of a run that makes nothing: it lays the names that the results folder lacks."""
    names = run.names_to_lay()
    if not names:
        return ""
    return (
        f"The store holds all results. {run.results} lacks {counted(len(names), 'name')} of them, "
        f"such as {names[0]}: a run lays them"
    )


def warn_of_full_disk(run: WorkflowRun, to_make: Iterable[Node]) -> str | None:
    """A line with both numbers if a run may need more disk space than is free, or None.

    None also while the size of the base is unknown.
    """
    made = [node for node in to_make if node.step in MODEL_KINDS[1:]]
    models = {node: requests(node).models for node in made}
    if None in models.values():
        return None
    store = run.store.root
    needed = disk_space(models).total()
    free = shutil.disk_usage(nearest_folder(store)).free
    if needed <= free:
        return None
    return (
        f"WARNING: this run writes up to {disk_text(needed)}, and the disk of {store} has "
        f"{disk_text(free)} free. Make room, or set store to a folder on another disk"
    )


def _idle_sections(run: WorkflowRun, to_make: list[Node]) -> list[str]:
    """The sections with values of the user's on which no wanted artifact depends."""
    read: set[str] = set()
    for node in (*run.experiment.wanted, *to_make):
        read.update(map(_section_of, node.keys))
    stated: set[str] = set()
    for config in run.configs:
        stated.update(map(_section_of, chosen_values(config)))
        if config.moe_sft.model:
            read.add("moe")  # compared with that model
    return [name for name in ("moe", *TRAININGS, "merge") if name in stated - read]


def _section_of(key: str) -> str:
    """The section of a key, such as "moe" of "moe.rank"."""
    return key.partition(".")[0]


def _odd(key: str, value: object, config: WorkflowConfig) -> str | None:
    """Why a value is odd, and which is usual; None if it is not odd."""
    if key == "moe.num_experts" and value == 2 and config.moe.shared_expert:
        return (
            "one routed expert stands beside the shared one. Its share is always 1, so step 6 "
            "learns nothing. Usual are 4 or more"
        )
    if key == "data.validation_rows" and value == 1:
        return "a loss on one held-out row says little, and has no interval. Usual are 100 or more"
    section, _, name = key.partition(".")
    if section in TRAININGS and name in getattr(config, section).idle:
        given = getattr(config, section).idle[name]
        return f"no effect beside {given}. Leave out one of the two"
    if key.endswith(".learning_rate") and value >= 1:
        return "with such a rate a training usually diverges. Usual are 1e-5 to 1e-1"
    return None


def failures(run: WorkflowRun) -> Iterator[str]:
    """How the jobs ended that failed or were cut off in this run, and what to do.

    Each message is said once. A later run can succeed where a job was cut off, or where its message
    names a passing cause, or one that the user can end without another configuration.
    """
    alike: dict[str, list[BegunJob]] = {}
    lasting: list[str] = []
    first_steps: list[str] = []
    for begun in _begun_jobs_of_run(run):
        alike.setdefault(begun.message, []).append(begun)
        if begun.phase is not Phase.FAILED:
            continue
        steps = [step for cause, step in FIRST.items() if cause.search(begun.message)]
        first_steps += steps
        if not steps and not PASSING.search(begun.message):
            lasting.append(begun.node.name)
    for first, *rest in alike.values():
        line = f"\n{first.node.name} {first.phase.value}: {first.text}"
        if rest:
            names = ", ".join(other.node.name for other in rest)
            line += f"\nThe same: {names}"
        yield line
    if lasting:
        yield (
            f"The same command would fail again: first correct the cause of {', '.join(lasting)}. "
            "Finished results are kept."
        )
    elif first_steps:
        yield f"First {', and '.join(_unique(first_steps))}. The same command then goes on."
    else:
        yield "To go on: run the same command again."


def _begun_jobs_of_run(run: WorkflowRun) -> Iterator[BegunJob]:
    """The jobs whose logs were written since the run began."""
    for begun in find_begun_jobs(with_results(run.to_make), run.store):
        log = begun.log
        if log.is_file() and log.stat().st_mtime >= run.began:
            yield begun


def pace_line(run: WorkflowRun) -> str:
    """How long the problem sets that the summary suggests would take; empty if that is unknown."""
    used: set[NamedSet] = set()
    hours: list[float | None] = []
    for node in run.experiment.wanted:
        problems = BY_LABEL.get(Path(node.name).stem) if _is_evaluation(node) else None
        if problems is not None:
            used.add(problems)
            hours.append(hours_of(node.entry))
    more = sum(problems.problems for problems in unused([problems.label for problems in used]))
    if not more or None in hours:
        return ""
    total = sum(hours) * more / sum(problems.problems for problems in used)
    return f"Those {more} problems would take about {time_text(total, total)} at this run's pace."


def _is_evaluation(node: Node) -> bool:
    """Whether a node is the result of an evaluation, or takes one of several."""
    if node.one_of:
        return node.one_of[0].step == "eval"
    return node.step == "eval"


def store_line(run: WorkflowRun) -> str:
    """How much the store holds, and how much of it no configuration wants."""
    root = run.store.root
    line = f"{root} holds {disk_text(disk_bytes(run.store.entries()))}"
    try:
        unwanted = disk_bytes(find_unwanted(run.store))
    except UserError as error:
        return f"{line}. {error}"
    if not unwanted:
        return line
    return f"{line}, {disk_text(unwanted)} of it for no configuration: xft gc {quote(str(root))}"


def unpublished_line(run: WorkflowRun) -> str:
    """The artifacts that the bucket lacks which gets them, and what to do; empty if it has all.

    The bucket may not answer.
    """
    url = run.config.publish
    if not url:
        return ""
    try:
        lacking = others.unpublished(url, run.experiment.wanted)
        if not lacking:
            return ""
        fault = f"{counted(len(lacking), 'artifact')} not in {url}. The logs say why"
    except UserError as error:
        fault = str(error)
    command = f"xft push {quote(str(run.results))} {quote(url)}"
    return f"WARNING: {fault}. To upload: {command}"


def time_left(run: WorkflowRun, outputs: Iterable[str]) -> str:
    """The time that the jobs of a run still take, in words.

    A job takes what the newest one of its rule took. Empty while this is unknown of a training or
    an evaluation, or of all. "more than" if it is unknown of some. What the jobs of this run have
    taken, compared with the time since it began, shows how many run at once: at least one.

    outputs: of its jobs, made or not.
    """
    left = 0.0
    taken = 0.0
    is_unknown = False
    for entry in [Path(output) for output in outputs if ENTRY.search(f"/{output}")]:
        is_made = is_whole(entry)
        so_far = _seconds(entry if is_made else partial(entry), run.began)
        taken += so_far
        if is_made:
            continue
        newest = _newest_costs(entry.parent)
        if newest is not None:
            left += max(_seconds(newest.parent) - so_far, 0)
        elif entry.parent.name in LONG:
            return ""
        else:
            is_unknown = True
    if not taken:
        return ""
    seconds = left * min((time.time() - run.began) / taken, 1)
    tens = round(seconds, -1)
    if is_unknown and not tens:
        return ""
    how = "more than" if is_unknown else "about"
    return f", {how} {_in_one_unit(max(tens, 10))} left"


def _newest_costs(folder: Path) -> Path | None:
    """The file with the costs of the newest entry of a step; None if no entry has one."""
    files = folder.glob(f"{'?' * DIGITS}/{COSTS_FILE}")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def _in_one_unit(seconds: float) -> str:
    """A time in hours from 2 h on, in minutes from 60 s on, else in seconds."""
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s"


def _seconds(folder: Path, since: float = 0) -> float:
    """The cost of the last attempt to make an entry; 0 if it ended before a time, or is unknown."""
    file = folder / COSTS_FILE
    with suppress(OSError, LookupError):
        if file.stat().st_mtime >= since:
            return read_json(file)["attempts"][-1]["seconds"]
    return 0
