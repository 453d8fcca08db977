"""A run as Snakemake sees it: when it begins, what it prints, and how it ends.

It begins with the first input that Snakemake asks for. `onstart` comes too late: the graph is built
by then, and what the store holds decided about it, so the store has to be locked before. Snakemake
also calls no handler if nothing is to be done, or in a dry run, which shows warnings too.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from xft.common.devices import check_gpus
from xft.common.errors import UserError, did_you_mean
from xft.common.refusals import explain
from xft.config.text import read_config
from xft.config.validation import complete
from xft.dag.announcements import beginning, failures, pace_line, store_line, warnings
from xft.dag.node import Node
from xft.dag.run import WorkflowRun
from xft.dag.screen import shorten
from xft.dag.snakemake_options import check_not_forced, check_options, name_nodes, with_entries
from xft.dag.time_left import time_left
from xft.dag.toolchains import missing_toolchains
from xft.reporting.summaries import head
from xft.reporting.verdict import PLAN
from xft.store.job_plan import read_plan

warn = cache(partial(print, file=sys.stderr))  # a line, once


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the run with the message of an error that the user can correct."""
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(explain(error) or str(error))


class SnakemakeRun:
    """A workflow of Snakemake's, with what its configuration asks for.

    config: the complete configuration.
    jobs: by the digest of what they make. The processes of jobs read them from the plan.
    run: None in the processes of jobs.
    is_alone: whether this is the main process, and no other workflow includes this one.
    """

    def __init__(self, workflow, values: dict):
        """values: the configuration as Snakemake read it."""
        self.workflow, self.run = workflow, None
        self.is_alone = workflow.is_main_process and workflow.modifier.is_main_snakefile()
        self.deployment = workflow.deployment_settings.deployment_method
        self.show_results = cache(self.show_results)
        shorten(workflow, self._time_left)
        with exit_on_error():
            if workflow.is_main_process:
                self.run = self._checked_run(values)
            self.config = self.run.config if self.run else complete(values)
            self.jobs = self.run.jobs if self.run else read_plan()
        name_nodes(sys.stdout, self.jobs)

    def _checked_run(self, values: dict) -> WorkflowRun:
        for file in self.workflow.configfiles:
            read_config(Path(file))  # two equal keys are refused
        run = WorkflowRun(values)
        check_options(sys.argv, run)
        if not self.deployment:
            run.require_packages()
            run.check_models()
        run.check(self.workflow.configfiles)
        return run

    @property
    def keeps_merges(self) -> bool:
        return self.run is None or self.run.keeps_merges

    def begin(self) -> None:
        """Lock the store and write the plan, if this process is to run jobs: not for -n."""
        # Existence alone decides what runs: an entry is whole, even if its job was cut off.
        self.workflow.dag.ignore_incomplete |= self.is_alone
        with exit_on_error():
            if self.is_alone:
                check_not_forced(self.workflow.dag_settings, self.run)
            if self.run and self.workflow.executor_plugin and not self.workflow.dryrun:
                if self.workflow.touch:
                    print("--touch does nothing here: the times of artifacts do not matter")
                    sys.exit()
                self.run.begin()

    def inputs(self, digest: str) -> dict[str, list[str]]:
        """The entries and files that a job reads, by name."""
        self.begin()
        return self.jobs[digest].inputs

    def targets(self) -> list[str]:
        """The entry of what the run makes in the end: the report."""
        report = self.run.experiment.report
        self._announce([report])
        if self.run.begun and not self.run.to_make:
            self.show_results()
        return [str(report.entry)]

    def named(self, name: str) -> str:
        """The entry of the artifact with a name in the results folder."""
        known, results = self.run.experiment.by_name, self.run.results
        if name not in known:
            sys.exit(
                f"{results}/{name} is no result of this configuration"
                f"{did_you_mean(name, known)}\nIts results:"
                + "".join(f"\n  {results}/{other}" for other in known)
            )
        node, link = known[name], results / name
        self._announce([node])
        if self.workflow.dryrun and link.is_symlink() and link.resolve() != node.place.resolve():
            # Snakemake takes the link, which a run would replace, for the result.
            jobs = "\n  ".join(job.name for job in self.run.needed([node])) or "nothing"
            print(f"{link} is of another configuration. A run makes:\n  {jobs}")
        return str(node.entry)

    def target_of(self, name: str) -> str:
        """Where the link with a name leads."""
        place = self.run.experiment.by_name[name].place
        return os.path.relpath(place, (self.run.results / name).parent)

    def _announce(self, nodes: Iterable[Node]) -> None:
        """Begin a run that makes these artifacts, with warnings."""
        settings = self.workflow.dag_settings
        self._check_rule_names(settings)
        self.workflow.dag.omitfiles |= with_entries(settings.omit_from, self.run)
        self.begin()
        needed = self.run.needed(nodes)
        for line in warnings(self.run, needed):
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
        graph = self.workflow.dag
        # With --until, the graph also holds jobs that the targets do not need.
        jobs = filter(graph.needrun, graph.bfs(graph.dependencies, *graph.targetjobs))
        return time_left(self.run, [file for job in jobs for file in job.output])

    def start(self) -> None:
        """Say what begins. End the run if this machine lacks the GPU or compiler of a job here."""
        if self.workflow.local_exec and not self.deployment:
            jobs = [*self.workflow.dag.needrun_jobs()]
            digests = {getattr(job.wildcards, "digest", None) for job in jobs}
            with exit_on_error():
                if any(job.resources.get("gpu") for job in jobs):
                    check_gpus(self.config.gpus)
                nodes = [node for node in self.run.to_make if node.digest in digests]
                if faults := missing_toolchains(nodes):
                    raise UserError("\n".join(faults))
        print(beginning(self.config), flush=True)

    def show_results(self) -> None:
        """Print the verdict and the scores of a finished configuration, once."""
        results = self.run.results
        if (results / "report.html").exists():
            summary = (results / "summary.md").read_text()
            print(head(summary))
            if PLAN in summary and (line := pace_line(self.run)):
                print(f"\n{line}")
            print(f"Charts and solutions, for a browser: {results}/report.html", flush=True)

    def succeed(self) -> None:
        self.run.lay_names()
        self.show_results()
        print(store_line(self.run))

    def fail(self) -> None:
        """Show what failed, once."""
        self.run.lay_names()
        for line in failures(self.run):
            print(line, file=sys.stderr)
        logging.disable()  # Snakemake only adds that a job failed
