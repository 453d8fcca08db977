"""Show what is finished in a results folder, what runs or failed, and what the next run would do.

Nothing is changed. Start it in the folder where snakemake starts: paths are relative to it.
docs/caching.md explains the lines.
"""

import argparse
import shlex
from collections import Counter
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
    wanted, left = (Counter(part.rule for part in parts) for parts in (run.wanted, run.jobs))
    counts = [(rule, f"{count - left[rule]} of {count}") for rule, count in wanted.items()]
    _show(f"finished: {len(run.wanted) - len(run.jobs)} of {len(run.wanted)}", counts)
    for phase in Phase:
        found = [(str(each.place), each.text) for each in activities if each.phase is phase]
        if found:
            more = [(f"and {len(found) - MOST_LINES} more", "")] if len(found) > MOST_LINES else []
            _show(f"{phase.value}: {len(found)}", found[:MOST_LINES] + more)
    jobs = [(str(job.place), reason) for job, reason in run.jobs.items()]
    is_long = len(jobs) > MOST_LINES
    by_rule = [(rule, str(count)) for rule, count in left.items()]
    _show(f"next run: {len(jobs) or 'nothing to do'}", by_rule if is_long else jobs)
    print(_advice(run, activities, args.config))


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


def _show(title: str, pairs: list[tuple[str, str]]) -> None:
    """Print a title, and indented lines whose second parts begin in the same column."""
    print(title)
    width = max((len(first) for first, _ in pairs), default=0)
    margin = "\n" + " " * (width + 4)
    for first, second in pairs:
        print(f"  {first:{width}}  {margin.join(second.splitlines())}".rstrip())


if __name__ == "__main__":
    running.run("status", main)
