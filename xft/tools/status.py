"""Show what is finished of a configuration, what runs or failed, and what the next run would make.

Nothing is changed. Start it in the folder where snakemake starts: paths are relative to it.
docs/caching.md explains the lines.
"""

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from xft.artifacts.claims import occupant
from xft.cli.step import StepParser
from xft.common.errors import UserError
from xft.common.results_folder import CONFIG_FILE, is_results_folder
from xft.config.reading import complete, naming, recorded_config, values_to_change
from xft.config.runs import read_overlaid
from xft.dag.begun_jobs import BegunJob, Phase, find_begun_jobs
from xft.dag.messages import time_left
from xft.dag.nodes import Node, with_results
from xft.dag.totals import cost_of
from xft.dag.workflow_run import WorkflowRun
from xft.store.store import is_whole

LOCKS = Path(".snakemake/locks")
MOST_LINES = 40  # of one kind. More are counted by rule


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft status", __doc__)
    parser.path("results", "RESULTS", "The results_dir of a run.")
    meaning = f"The configuration of the next run, by default RESULTS/{CONFIG_FILE}"
    parser.configs(meaning, required=False)
    args = parser.parse_args(argv)
    run, start = configured_run(args)
    wanted = run.experiment.wanted
    jobs = run.to_make
    begun_jobs = find_begun_jobs(with_results(jobs), run.store)
    all_by_rule = Counter(node.step for node in wanted)
    left_by_rule = Counter(node.step for node in jobs)
    done = []
    for rule, count in all_by_rule.items():
        done.append((rule, f"{count - left_by_rule[rule]} of {count}"))
    _show(f"finished: {len(wanted) - len(jobs)} of {len(wanted)}", done)
    for phase in Phase:
        shown = [(begun.node.name, begun.text) for begun in begun_jobs if begun.phase is phase]
        if shown:
            lines = shown[:MOST_LINES]
            if len(shown) > MOST_LINES:
                lines.append((f"and {len(shown) - MOST_LINES} more", ""))
            _show(f"{phase.value}: {len(shown)}", lines)
    memory = list(_gpu_memory(wanted))
    if memory:
        _show("memory on the GPU, GiB, at most", memory[:MOST_LINES])
    gone = [node for node in run.missing if node not in jobs and not node.is_temporary]
    if gone:
        _show(f"no longer in the store, and not needed: {len(gone)}", _listed(gone))
    _show(f"next run: {len(jobs) or 'nothing to do'}", _listed(jobs))
    print(_advice(run, begun_jobs, start))


def configured_run(
    args: argparse.Namespace, only_results_of: str | None = None
) -> tuple[WorkflowRun, str]:
    """The run that the configuration wants, and how it is started.

    only_results_of: as for `WorkflowRun`.

    A folder that was renamed within its parent folder has its new name as results_dir. Raises
    UserError if the configuration is wrong, or of another folder.
    """
    if args.config:
        values, where = read_overlaid(args.config)
        start = f"run `snakemake --cores all --configfile {shlex.join(map(str, args.config))}`"
    elif is_results_folder(args.results):
        where = str(args.results / CONFIG_FILE)
        values = values_to_change(recorded_config(args.results))
        start = "run the same snakemake command again"
    else:
        raise UserError(
            f"{args.results} is no results folder: it has no {CONFIG_FILE} that a run of the "
            "workflow wrote. Name the results_dir of a run"
        )
    stated = Path(complete(values, where).results_dir)
    if stated.resolve() != args.results.resolve():
        if args.config or stated.parent.resolve() != args.results.parent.resolve():
            raise UserError(
                f"results_dir = {stated}, not {args.results}. Start this in the folder where "
                "snakemake starts, and name the same folder"
            )
        values["results_dir"] = str(args.results)
        start += f" with --config results_dir={shlex.quote(str(args.results))}"
    with naming(where):
        return WorkflowRun(values, only_results_of=only_results_of), start


def _advice(run: WorkflowRun, begun_jobs: list[BegunJob], start: str) -> str:
    """How to go on. start: how a run is started."""
    user = occupant(run.store.root)
    if user and occupant(run.results):
        run.follow_other()
        left = time_left(run, [str(node.entry) for node in run.experiment.wanted])
        return f"Snakemake is running ({user}){left}. `next run` lists what is still to do."
    if not run.to_make:
        return "All is finished."
    if user:
        return f"{user} uses the store for other results. To go on: wait until it has ended."
    phases = {begun.phase for begun in begun_jobs}
    steps = [f"{start}."]
    if any(LOCKS.glob("*")):
        steps.insert(0, "run `snakemake --unlock`")
    if Phase.FAILED in phases:
        steps.insert(0, "correct what failed")
    if Phase.RUNNING in phases:
        steps.insert(0, "wait until the jobs above have ended, or stop their processes")
    return f"No run is going on here.\nTo go on: {', then '.join(steps)}"


def _gpu_memory(nodes: Iterable[Node]) -> Iterator[tuple[str, str]]:
    """The jobs that ran on a GPU, each with what torch took there, and what the plan expected."""
    for node in nodes:
        cost = cost_of(node.entry) if is_whole(node.entry) else None
        if cost is None or cost["gpu_reserved"] is None:
            continue
        text = f"{cost['gpu_allocated']:.1f} allocated, {cost['gpu_reserved']:.1f} reserved"
        if cost["gpu_expected"]:
            text += f", {cost['gpu_expected']:.1f} expected"
        yield node.name, text


def _listed(nodes: list[Node]) -> list[tuple[str, str]]:
    """Artifacts with their entries; many are counted by rule."""
    if len(nodes) > MOST_LINES:
        by_rule = Counter(node.step for node in nodes)
        return [(rule, str(count)) for rule, count in by_rule.items()]
    return [(node.name, str(node.entry)) for node in nodes]


def _show(title: str, pairs: list[tuple[str, str]]) -> None:
    """Print a title, and indented lines whose second parts begin in the same column."""
    print(title)
    width = max((len(first) for first, _ in pairs), default=0)
    margin = "\n" + " " * (width + 4)
    for first, second in pairs:
        print(f"  {first:{width}}  {margin.join(second.splitlines())}".rstrip())
