"""Show what is finished in a results folder, what runs or failed, and what the next run would do.

Nothing is changed. Start it in the folder where snakemake starts: paths are relative to it.
docs/caching.md explains the lines.
"""

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.cli import flags, running
from xft.common.errors import UserError
from xft.config.recorded import CONFIG_FILE, is_results_folder, recorded_values
from xft.config.runs import find_runs, read_overlaid
from xft.config.validation import complete
from xft.dag.activity import Activity, Phase, find_activities
from xft.dag.current import Current
from xft.dag.experiment import Experiment
from xft.dag.input_checks import check_all_files
from xft.dag.next_run import NextRun
from xft.dag.state import Inspector
from xft.dag.wanted import Wanted

MOST_LINES = 40  # of one kind. More are counted by rule


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if not is_results_folder(args.results):
        raise UserError(
            f"{args.results} is no results folder: it has no {CONFIG_FILE} that a run of the "
            "workflow wrote. Name the results_dir of a run"
        )
    run = NextRun(Current(_experiment(args), Inspector(clears_up=False)))
    activities = find_activities(run.jobs, args.results)
    lines = _finished(run)
    for phase in Phase:
        lines += _begun(phase, [found for found in activities if found.phase is phase])
    lines += _jobs(run.jobs)
    print("\n".join([*lines, _advice(run, activities, args.config)]))


def _parser() -> argparse.ArgumentParser:
    parser = flags.tool_parser("status", __doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS", help="The results_dir of a run.")
    meaning = f"The configuration of the next run, by default RESULTS/{CONFIG_FILE}"
    flags.add_configs(parser, meaning, required=False)
    return parser


def _experiment(args: argparse.Namespace) -> Experiment:
    """All that the configuration wants. Raises UserError if it is wrong, or of another folder."""
    if args.config:
        config, where = read_overlaid(args.config)
    else:
        config, where = recorded_values(args.results), str(args.results / CONFIG_FILE)
    whole, runs = complete(config, where), find_runs(config, where)
    if args.config and Path(whole.results_dir).resolve() != args.results.resolve():
        raise UserError(
            f"{where}: results_dir = {whole.results_dir}, not {args.results}. Name the same folder"
        )
    check_all_files([whole, *(run.config for run in runs)])
    return Experiment(whole, runs, args.results)


def _finished(run: NextRun) -> list[str]:
    """The finished artifacts of each rule: those that the next run does not make."""
    wanted = Counter(part.rule for part in run.wanted)
    left = Counter(part.rule for part in run.jobs)
    counts = [(rule, f"{count - left[rule]} of {count}") for rule, count in wanted.items()]
    return [f"finished: {len(run.wanted) - len(run.jobs)} of {len(run.wanted)}", *_aligned(counts)]


def _begun(phase: Phase, found: list[Activity]) -> list[str]:
    """The jobs that have begun, with their progress or their message."""
    if not found:
        return []
    lines = _aligned((str(activity.place), _told(activity)) for activity in found[:MOST_LINES])
    more = len(found) - MOST_LINES
    return [f"{phase.value}: {len(found)}", *lines, *([f"  and {more} more"] if more > 0 else [])]


def _told(activity: Activity) -> str:
    is_failure = activity.phase is Phase.FAILED
    return f"{activity.text} (log: {activity.log})" if is_failure else activity.text


def _jobs(jobs: Mapping[Wanted, str]) -> list[str]:
    """The jobs of the next run and their reasons; more than MOST_LINES are counted by rule."""
    if not jobs:
        return ["next run: nothing to do"]
    lines = [(str(job.place), reason) for job, reason in jobs.items()]
    if len(jobs) > MOST_LINES:
        lines = [(rule, f"{n}") for rule, n in Counter(job.rule for job in jobs).items()]
    return [f"next run: {len(jobs)}", *_aligned(lines)]


def _advice(run: NextRun, activities: list[Activity], config: list[Path] | None) -> str:
    if any(activity.phase is Phase.RUNNING for activity in activities):
        return "Jobs are running. What is listed under `next run` is still to do."
    if not run.jobs:
        return "All is finished."
    if config:
        files = " ".join(shlex.quote(str(file)) for file in config)
        return f"To go on: snakemake --cores all --configfile {files}"
    return (
        "To go on: run the same snakemake command again.\n"
        "If snakemake itself was killed: run `snakemake --unlock` first."
    )


def _aligned(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Indented lines whose second parts begin in the same column."""
    pairs = list(pairs)
    width = max(len(first) for first, _ in pairs)
    margin = "\n" + " " * (width + 4)
    return [f"  {first:{width}}  {margin.join(second.splitlines())}" for first, second in pairs]


if __name__ == "__main__":
    running.run("status", main)
