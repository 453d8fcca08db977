"""A run as Snakemake sees it: when it begins, and how it ends.

It begins with the first input that Snakemake asks for. `onstart` comes too late: the graph is built
by then, and what the store holds decided about it, so the store has to be locked before. Snakemake
also calls no handler if nothing is to be done, or in a dry run, which shows warnings too.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from xft.cli.running import ENVIRONMENT
from xft.common.errors import UserError, collecting_errors, did_you_mean
from xft.common.file_access import explain
from xft.common.foreign_text import printable
from xft.common.gpus import check_gpus
from xft.config.reading import complete, naming, read_config
from xft.dag.messages import (
    beginning,
    failures,
    names_line,
    pace_line,
    store_line,
    time_left,
    unpublished_line,
    warnings,
)
from xft.dag.nodes import Node
from xft.dag.problem_checks import missing_sets, missing_toolchains
from xft.dag.screen import end_at_once, name_nodes, shorten
from xft.dag.snakemake_options import (
    check_not_forced,
    check_options,
    check_storage,
    runs_jobs,
    with_entries,
)
from xft.dag.workflow_run import WorkflowRun
from xft.reporting.summaries import head
from xft.reporting.verdict import HOURS_HINT
from xft.store.forks import start_server
from xft.store.job_records import read_plan
from xft.store.store import is_whole

WITHOUT_SETS = "No job has begun. What needs no such set is made by --until, as --until dense"


@cache
def warn(line: str) -> None:
    """Print a line, once."""
    print(line, file=sys.stderr)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the run with the message of an error that the user can correct."""
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(explain(error) or str(error))


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Let a Ctrl-C end what may last. asyncio, in which Snakemake makes its graph, waits for it."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class SnakemakeRun:
    """A run of the workflow as Snakemake sees it. The rules ask it for their jobs.

    workflow: Snakemake's.
    config: the complete configuration.
    jobs: by the digest of what they make. The processes of jobs read them from the store.
    run: what the configuration wants; None in the processes of jobs.
    is_alone: whether this is the main process, and no other workflow includes this one.
    """

    def __init__(self, workflow, values: dict):
        """values: the configuration as Snakemake read it."""
        self.workflow = workflow
        self.run: WorkflowRun | None = None
        self.is_alone = workflow.is_main_process and workflow.modifier.is_main_snakefile()
        self.deployment = workflow.deployment_settings.deployment_method
        self._has_shown = False
        shorten(workflow, self._time_left)
        with exit_on_error():
            check_storage(workflow.storage_settings)
            if workflow.is_main_process:
                with naming(self._place()):
                    self.run = self._checked_run(values)
            self.config = self.run.config if self.run else complete(values)
            self.jobs = self.run.jobs if self.run else read_plan()
        name_nodes(sys.stdout, self.jobs)

    def _place(self) -> str:
        """The name of the configuration in messages: its file, if all values come from this one."""
        files = self.workflow.configfiles
        has_settings = bool(self.workflow.config_settings.config)
        if self.is_alone and len(files) == 1 and not has_settings:
            return os.path.relpath(files[0])
        return "config"

    def _checked_run(self, values: dict) -> WorkflowRun:
        """The run. Raises UserError with all faults of the configuration and of its files."""
        for file in self.workflow.configfiles:
            read_config(Path(file))  # two equal keys are refused
        begins = runs_jobs(sys.argv) and not self.workflow.output_settings.dryrun
        run = WorkflowRun(values, begins)
        check_options(sys.argv, run)
        faults: list[str] = []
        if not self.deployment:
            with collecting_errors(faults):
                run.require_packages()
            with collecting_errors(faults):
                run.check_models()
        with collecting_errors(faults):
            run.check(self.workflow.configfiles)
        if faults:
            raise UserError("\n".join(faults))
        return run

    @property
    def keeps_merges(self) -> bool:
        return self.run is None or self.run.keeps_merges

    def begin(self, targets: Sequence[Node]) -> None:
        """Lock the store and write the jobs, if this process is to run jobs: not for -n.

        What other stores have of the targets is taken.
        """
        # Existence alone decides what runs: an entry is whole, even if its job was cut off.
        self.workflow.dag.ignore_incomplete |= self.is_alone
        with exit_on_error(), ended_by_interrupt():
            if self.is_alone:
                check_not_forced(self.workflow.dag_settings, self.run)
            if self.run and self.workflow.executor_plugin and not self.workflow.dryrun:
                if self.workflow.touch:
                    print("--touch does nothing here: the times of artifacts do not matter")
                    sys.exit()
                self.run.begin(targets)

    def inputs(self, digest: str) -> dict[str, list[str]]:
        """The entries and files that a job reads, by name.

        A whole entry needs none that are missing: Snakemake would make them, because it runs what
        depends on a job again.
        """
        job = self.jobs[digest]
        if self.run:
            node = self.run.experiment.by_name[job.name]
            if not self.run.begun:
                self.begin([node])
            if is_whole(node.entry):
                return {name: _existing(paths) for name, paths in job.inputs.items()}
        return job.inputs

    def targets(self) -> list[str]:
        """The entries of what the run makes in the end."""
        ends = self.run.experiment.ends
        self._announce(ends)
        if self.run.begun and not self.run.to_make:
            self.show_results()
        if self.workflow.dryrun and not self.run.to_make:
            line = names_line(self.run)
            if line:
                print(line)
        return [str(node.entry) for node in ends]

    def named(self, name: str) -> str:
        """The entry of the artifact with a name in the results folder."""
        known = self.run.experiment.by_name
        results = self.run.results
        if name not in known:
            names = "".join(f"\n  {results}/{other}" for other in known)
            sys.exit(
                f"{results}/{name} is no result of this configuration{did_you_mean(name, known)}\n"
                f"Its results:{names}"
            )
        node = known[name]
        self._announce([node])
        link = results / name
        if self.workflow.dryrun and link.is_symlink() and link.resolve() != node.place.resolve():
            # Snakemake takes the link, which a run would replace, for the result.
            jobs = "\n  ".join(job.name for job in self.run.needed([node])) or "nothing"
            print(f"{link} is of another configuration. A run makes:\n  {jobs}")
        return str(node.entry)

    def target_of(self, name: str) -> str:
        """Where the link with a name leads."""
        place = self.run.experiment.by_name[name].place
        return os.path.relpath(place, (self.run.results / name).parent)

    def _announce(self, nodes: Sequence[Node]) -> None:
        """Begin a run that makes these artifacts, with warnings."""
        settings = self.workflow.dag_settings
        self._check_rule_names(settings)
        self.workflow.dag.omitfiles |= with_entries(settings.omit_from, self.run)
        self.begin(nodes)
        needed = self.run.needed(nodes)
        with ended_by_interrupt():
            lines = [*warnings(self.run, needed)]
        for line in lines:
            warn(line)
        if self.workflow.dryrun and not self.deployment:
            for fault in missing_toolchains(needed):
                warn(f"WARNING: {fault}. Only jobs that run elsewhere need none here")

    def _check_rule_names(self, settings) -> None:
        """End the run if an option names no rule. Snakemake would look for such a file."""
        rules = [rule.name for rule in self.workflow.rules]
        for option, names in (("until", settings.until), ("omit-from", settings.omit_from)):
            for name in names:
                if "/" not in name and name not in rules:
                    hint = did_you_mean(name, rules) or f". The rules: {', '.join(rules)}"
                    sys.exit(f"--{option} {name}: there is no such rule{hint}")

    def _time_left(self) -> str:
        """The time that the run still takes, in words."""
        if self.run is None:
            return ""
        outputs = [file for job in self._jobs() for file in job.output]
        return time_left(self.run, outputs)

    def _jobs(self) -> list:
        """Snakemake's jobs that are to run."""
        graph = self.workflow.dag
        # With --until, the graph also holds jobs that the targets do not need.
        reached = graph.bfs(graph.dependencies, *graph.targetjobs)
        return [job for job in reached if graph.needrun(job)]

    def start(self, root: Path) -> None:
        """Say what begins. End the run if a job would find problems nowhere, or if this machine
        lacks the GPU or compiler of a job here.

        Jobs here are forks. root: of the steps.
        """
        jobs = self._jobs()
        digests = {getattr(job.wildcards, "digest", None) for job in jobs}
        nodes = [node for node in self.run.to_make if node.digest in digests]
        is_local = self.workflow.local_exec and not self.deployment
        with exit_on_error(), ended_by_interrupt():
            if is_local and any(job.resources.get("gpu") for job in jobs):
                check_gpus(self.config.gpus)
            faults = missing_toolchains(nodes) if is_local else []
            unfetched = [] if self.deployment else missing_sets(nodes)
            if faults or unfetched:
                end = [WITHOUT_SETS] if unfetched else []
                raise UserError("\n".join([*faults, *unfetched, *end]))
        if is_local:
            steps = {"PYTHONPATH": str(root), "PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1"}
            self.forks = start_server(ENVIRONMENT | os.environ | steps)
        print(beginning(self.config), flush=True)

    def show_results(self) -> None:
        """Print the verdict and the scores of a finished configuration, once."""
        if self._has_shown:
            return
        self._has_shown = True
        results = self.run.results
        summary = (results / "summary.md").read_text()
        print(head(summary))
        if HOURS_HINT in summary:
            line = pace_line(self.run)
            if line:
                print(f"\n{line}")
        print(f"Charts and solutions, for a browser: {results}/report.html", flush=True)

    def succeed(self) -> None:
        """Show the results, if all are made, and what the store holds."""
        self.run.lay_names()
        if not self.run.to_make:
            self.show_results()
        print(store_line(self.run))
        self._tell_unpublished()

    def fail(self) -> None:
        """Show what failed, once."""
        self.run.lay_names()
        for line in failures(self.run):
            print(printable(line), file=sys.stderr)
        self._tell_unpublished()
        logging.disable()  # Snakemake only adds that a job failed

    def _tell_unpublished(self) -> None:
        line = unpublished_line(self.run)
        if line:
            print(line, file=sys.stderr)


def _existing(paths: Iterable[str]) -> list[str]:
    """Those of some paths that lead to something."""
    return [path for path in paths if Path(path).exists()]
