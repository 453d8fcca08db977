"""What a run says at its start and at its end."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from xft.common.errors import UserError
from xft.common.results_folder import CONFIG_FILE
from xft.config.recorded import chosen_values
from xft.config.sections import TRAININGS, WorkflowConfig
from xft.dag.activity import Phase, find_activities
from xft.dag.measured import hours_of
from xft.dag.node import Node
from xft.dag.run import WorkflowRun
from xft.dag.totals import warn_of_full_disk
from xft.estimates.report import disk_text, time_text
from xft.hub.named_sets import BY_LABEL, unused
from xft.store import others
from xft.store.links import find_unwanted
from xft.store.store import disk_bytes

# What messages say of causes that lie neither in the configuration nor in the data.
PASSING = re.compile(
    "killed by SIGKILL|make room|no space left|could not be fetched|run the same command again",
    re.IGNORECASE,
)


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
    """Lines about the stores of others, edited code, odd values, and a disk that is too small.

    None if there is nothing to make.
    """
    if not to_make:
        return
    held = [node for node in to_make if others.find(run.config.stores, node)]
    if held and not run.begun:
        yield (
            f"{len(held)} of these {len(to_make)} artifacts lie in the stores of others: a run "
            "takes them from there if their bytes are intact"
        )
    rules = dict.fromkeys(node.step for node in to_make)
    edited = {rule: names for rule in rules if (names := run.experiment.code.edited(rule))}
    if edited:
        modules = dict.fromkeys(name for names in edited.values() for name in names)
        yield (
            f"Edited code makes these steps run again: {', '.join(edited)}. The modules: "
            f"{', '.join(modules)}. If results stay the same: python -m tools.write_versions"
        )
    odd = (
        f"WARNING: {key} = {value}: {why}"
        for graph in run.runs
        for key, value in chosen_values(graph.config).items()
        if (why := _odd(key, value, graph.config))
    )
    yield from dict.fromkeys(odd)
    for name in _idle_sections(run, to_make):
        yield (
            f"WARNING: {name}: this section has no effect, because no model in evaluation.models "
            "needs it. Add such a model, or leave the section out"
        )
    if full := warn_of_full_disk(run, to_make):
        yield full


def _idle_sections(run: WorkflowRun, to_make: list[Node]) -> list[str]:
    """The sections with values of the user's on which no wanted artifact depends."""
    read = {key for node in (*run.experiment.wanted, *to_make) for key in node.keys}
    chosen = {key for graph in run.runs for key in chosen_values(graph.config)}
    read |= {"moe" for graph in run.runs if graph.config.moe_sft.model}  # compared with that model
    idle = {key.partition(".")[0] for key in chosen} - {key.partition(".")[0] for key in read}
    return [name for name in ("moe", *TRAININGS, "merge") if name in idle]


def _odd(key: str, value: object, config: WorkflowConfig) -> str | None:
    """What is odd about a value, and what is usual; None if nothing is."""
    if key == "moe.num_experts" and value == 2 and config.moe.shared_expert:
        return (
            "one routed expert stands beside the shared one. Its share is always 1, so step 6 "
            "learns nothing. Usual are 4 or more"
        )
    if key == "data.validation_rows" and value == 1:
        return "a loss on one held-out row says little, and has no interval. Usual are 100 or more"
    if key.endswith(".learning_rate") and value >= 1:
        return "with such a rate a training usually diverges. Usual are 1e-5 to 1e-1"
    return None


def failures(run: WorkflowRun) -> Iterator[str]:
    """What became of the jobs that failed or were cut off in this run, and what to do.

    Each message is said once. A later run can succeed where a job was cut off, or where its message
    names a passing cause.
    """
    alike, lasting = defaultdict(list), []
    for activity in find_activities(run.to_make, run.store):
        log = run.store.log(activity.job.step, activity.job.entry.name)
        if log.is_file() and log.stat().st_mtime >= run.began:
            alike[activity.text.removesuffix(f"(log: {log})")].append(activity)
            if activity.phase is Phase.FAILED and not PASSING.search(activity.text):
                lasting.append(activity.job.name)
    for first, *rest in alike.values():
        more = f"\nThe same: {', '.join(other.job.name for other in rest)}" if rest else ""
        yield f"\n{first.job.name} {first.phase.value}: {first.text}{more}"
    if lasting:
        yield (
            f"The same command would fail again: first correct the cause of {', '.join(lasting)}. "
            "Finished results are kept."
        )
    else:
        yield "To go on: run the same command again."


def pace_line(run: WorkflowRun) -> str:
    """How long the problem sets that the summary suggests would take; empty if that is unknown."""
    evaluations = [node for node in run.experiment.wanted if node.step == "eval"]
    named = {node: BY_LABEL.get(Path(node.name).stem) for node in evaluations}
    hours = [hours_of(node.entry) for node, chosen in named.items() if chosen]
    used = {*named.values()} - {None}
    more = sum(chosen.problems for chosen in unused(chosen.label for chosen in used))
    if not more or None in hours:
        return ""
    total = sum(hours) * more / sum(chosen.problems for chosen in used)
    return f"Those {more} problems would take about {time_text(total, total)} at this run's pace."


def store_line(run: WorkflowRun) -> str:
    """How much the store holds, and how much of it no configuration wants."""
    held = disk_bytes(run.store.entries())
    try:
        unwanted, gc = disk_bytes(find_unwanted(run.store)), f"xft gc {quote(str(run.store.root))}"
        advice = f", {disk_text(unwanted)} of it for no configuration: {gc}" if unwanted else ""
    except UserError as error:
        advice = f". {error}"
    return f"{run.store.root} holds {disk_text(held)}{advice}"
