"""A run of the workflow: what it wants, and what it does before its first job."""

import os
import subprocess
import time
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from xft.artifacts.artifact import ENTRY_FILE, overlap
from xft.artifacts.claims import check_unoccupied, occupy
from xft.common.errors import UserError, collecting_errors, errors_at
from xft.common.file_access import write_whole
from xft.common.optional import require
from xft.common.results_folder import CONFIG_FILE, CONFIG_HEAD, is_results_folder
from xft.config.reading import as_yaml, changes, recorded_config
from xft.config.runs import examine_runs
from xft.config.sections import WorkflowConfig, named_paths
from xft.config.steps import ARTIFACT, STEPS
from xft.dag import input_checks
from xft.dag.experiment import Experiment
from xft.dag.jobs import find_jobs, page_reads
from xft.dag.linked_bases import check_links, mend_links
from xft.dag.nodes import FileContents, Node, with_results
from xft.dag.problem_checks import check_problems
from xft.dag.rerun_reasons import find_earlier_recipes
from xft.dag.runs_table import RUNS_TABLE
from xft.data.prompt_templates import CHAT
from xft.store import others
from xft.store.code import ROOT
from xft.store.file_hashes import FileHashCache
from xft.store.installed import Installed
from xft.store.job_records import Jobs, write_plan
from xft.store.links import check_free, lay, take_away, wanted_digests
from xft.store.store import PLANS, Recipe, is_whole

HASHES_FILE = ".memory.json"  # in the store
EARLIER = "These tables are of an earlier configuration. Changed since then: "
OR_ANOTHER_STORE = "Or use a store of your own, and name this one in `stores`"
OR_OTHER_RESULTS = "Or name another results_dir"


class WorkflowRun:
    """The artifacts that a configuration wants, and how a run gets them.

    config: the configuration.
    runs: of the configuration; configs: theirs.
    stores: from which it takes artifacts.
    only_results: whether it fetches nothing to make others.
    begun: whether it has locked the store.
    began: the time of this, in seconds since 1970; before it, that of the object's creation.
    """

    def __init__(self, values: dict, begins: bool = False, only_results_of: str | None = None):
        """values: as read.
        begins: whether `begin` follows, which is told at once if it cannot.
        only_results_of: a bucket. The run takes results from there alone, and nothing to make
        others.

        Raises UserError if the values, or a file that they name, are wrong, or if another run has
        the store or the results of a run that begins.
        """
        examined = examine_runs(values)
        if examined.faults:
            faults = [*examined.faults, *input_checks.other_faults(examined)]
            raise UserError("\n".join(dict.fromkeys(faults)))
        self.config = examined.whole.valid
        self.runs = examined.runs
        if begins:
            check_unoccupied(Path(self.config.store), OR_ANOTHER_STORE)
            check_unoccupied(Path(self.config.results_dir), OR_OTHER_RESULTS)
        self.configs = [run.config for run in self.runs]
        input_checks.check_all_files([self.config, *self.configs])
        self.hashes = FileHashCache(Path(self.config.store) / HASHES_FILE)
        contents = FileContents(self.hashes)
        self.experiment = Experiment(self.config, self.runs, contents)
        self.experiment.wanted  # noqa: B018 (a fault of the files that it reads is told once)
        self.store = self.experiment.store
        self.results = self.experiment.results
        self.stores = self.config.stores if only_results_of is None else [only_results_of]
        self.only_results = only_results_of is not None
        self._taken: set[Node] = set()  # targets that other stores were asked for
        self.begun = False
        self.began = time.time()

    @cached_property
    def earlier_recipes(self) -> dict[Node, Recipe]:
        """The recipes of what the results folder showed before the run, by the missing artifacts
        that take its place.
        """
        return find_earlier_recipes(self.results, self.experiment.wanted)

    @cached_property
    def jobs(self) -> Jobs:
        """The jobs by the digest of what they make."""
        return Jobs(find_jobs(self.experiment, {*self.to_make}))

    @property
    def missing(self) -> list[Node]:
        """The artifacts that the store does not hold."""
        return [node for node in self.experiment.wanted if not is_whole(node.entry)]

    @property
    def to_make(self) -> list[Node]:
        """The artifacts that a run makes, in order."""
        return self.needed(self.experiment.ends)

    def needed(self, targets: Iterable[Node], held: Container[Node] = ()) -> list[Node]:
        """Those of some artifacts that are missing, and what is missing to make them, in order.

        held: artifacts whose sources are not needed, as another store has them.
        """
        needed: set[Node] = set()
        waiting = list(targets)
        while waiting:
            node = waiting.pop()
            if node in needed or is_whole(node.entry):
                continue
            needed.add(node)
            if node not in held:
                waiting += node.sources
        return [node for node in self.experiment.known if node in needed]

    @property
    def keeps_merges(self) -> bool:
        """Whether merged models stay after their evaluation: if the configuration says so, or if
        another results folder has one of them.
        """
        if self.config.merge.keep == "all":
            return True
        merges = [node for node in self.experiment.known if node.step == "dense"]
        whole = {node.digest for node in merges if is_whole(node.entry)}
        if not whole:
            return False
        theirs = wanted_digests(self.store, but=self.results.resolve())
        return not whole.isdisjoint(theirs)

    def require_packages(self) -> None:
        """Raise UserError with the packages that jobs need and that are not installed."""
        choices: dict[str, None] = {}  # in order, each once
        for node in with_results(self.to_make):
            for choice in _choices(node):
                choices[choice] = None
        faults: list[str] = []
        for choice in choices:
            with collecting_errors(faults):
                require(choice)
        if faults:
            raise UserError("\n".join(faults))

    def check_models(self) -> None:
        """Raise UserError if rows cannot be tokenised with the chat template of a local model, if
        a model that was tuned elsewhere cannot be one of the base, or if the problems are wrong.
        """
        faults: list[str] = []
        of_templates: list[str] = []
        for node in self.to_make:
            base = node.config.base
            data = node.config.data
            is_here = Path(base.model).is_dir() and not data.revision
            if node.step == "tokens" and data.template == CHAT and is_here:
                with collecting_errors(of_templates):
                    input_checks.check_chat_template(Path(base.model), data)
            if "tuned_from" in {item.name for item in node.inputs}:
                with collecting_errors(faults), errors_at(f"config: {Path(node.name).name}.model"):
                    input_checks.check_made_of(node.flags["model"], base)
        # The prompts of the problems are written by the same templates.
        if not of_templates and any(node.step == "eval" for node in with_results(self.to_make)):
            with collecting_errors(faults):
                check_problems(with_results(self.experiment.wanted))
        if faults or of_templates:
            raise UserError("\n".join(dict.fromkeys([*of_templates, *faults])))

    def check(self, config_files: Collection[str] = ()) -> None:
        """Raise UserError if the run would overwrite something of the user's, or if the store holds
        a node of an artifact, or a link to nothing, where it should hold the artifact.
        """
        self.store.check()
        stores = list(self.config.stores)
        if self.config.publish is not None:
            stores.append(self.config.publish)
        others.check(stores)
        for node in self.missing:
            self._check_absent(node)
        for base in self._linked_bases():
            check_links(base)
        stated = [("this file", Path(file)) for file in config_files]
        for key, path in [*self.user_files(), ("store", self.store.root), *stated]:
            if overlap(self.results, path):
                raise UserError(
                    f"config: {key}: {path} overlaps results_dir = {self.results}. Move it, or "
                    "name another results_dir"
                )
        links: list[str] = []
        for job in self.jobs.values():
            links += job.links | job.logs
        check_free(links)
        for written in (self.results / CONFIG_FILE, self.results / RUNS_TABLE):
            if written.exists() and not is_results_folder(self.results):
                raise UserError(
                    f"{written} is where the workflow writes, but the workflow did not make it. "
                    "Move it away, or choose another results_dir"
                )

    def _check_absent(self, node: Node) -> None:
        entry = node.entry
        if entry.is_symlink() and not others.find(self.config.stores, node):
            raise UserError(
                f"{entry} leads to {entry.readlink()}, which is not there. Bring it back, or make "
                f"it here: find {self.store.root} -maxdepth 2 -xtype l -delete removes such links"
            )
        if entry.is_dir():
            raise UserError(
                f"{entry} is no whole entry: it has no {ENTRY_FILE}. Delete it, so that "
                f"{node.name} is made again where it is needed"
            )

    def _linked_bases(self) -> list[Node]:
        """The bases that the store holds."""
        known = self.experiment.known
        return [node for node in known if node.step == "base" and is_whole(node.entry)]

    def user_files(self) -> list[tuple[str, Path]]:
        """The files and folders that the configuration names, with their keys."""
        files: dict[tuple[str, Path], None] = {}  # in order, each once
        for config in (self.config, *self.configs):
            for key, name in named_paths(dict(config)):
                if Path(name).exists():
                    files[key, Path(name)] = None
        return list(files)

    def begin(self, targets: Collection[Node] | None = None) -> None:
        """Lock store and results, take what other stores have of the targets, write the jobs.

        Snakemake asks for several targets, one after the other: later calls only take what other
        stores have of further targets. Raises UserError if another run has the store or the
        results, or if a job of an earlier run still works.

        targets: by default the tables and the report.
        """
        asked = self.experiment.ends if targets is None else targets
        new = {*asked} - self._taken
        self._taken |= new
        if not self.begun:
            self._begin_with(new)
        elif new:
            self._take(new)

    def follow_other(self) -> None:
        """Let `began` tell when another process's run of these results began.

        A run writes the configuration as it begins.
        """
        self.began = (self.results / CONFIG_FILE).stat().st_mtime

    def _begin_with(self, targets: set[Node]) -> None:
        """Begin the run. The order matters: what is written says what the store holds by then."""
        self.begun = True
        self.began = time.time()
        self._lock()
        self._take(targets)
        for base in self._linked_bases():
            with suppress(UserError):  # which `check` raises
                mend_links(base)
        url = self.config.publish
        if url and not others.answers(url, self.store.root):
            self.experiment.publish = None
        self._write_plan()
        self._write_configuration()
        _ = self.earlier_recipes  # is read while the results folder has the earlier names
        self.lay_names()

    def _lock(self) -> None:
        """Keep other runs from store and results, until `close` or the end of the process."""
        self._locks = [self.store.open(OR_ANOTHER_STORE)]
        self.results.mkdir(parents=True, exist_ok=True)
        self._locks.append(occupy(self.results, OR_OTHER_RESULTS))
        self.store.check_idle({node.entry: node.name for node in with_results(self.to_make)})

    def _write_plan(self) -> None:
        """Write the jobs, with the code and the packages of their steps, for their processes."""
        to_make = () if self.only_results else self.to_make
        self.jobs |= find_jobs(self.experiment, {*to_make})
        steps = [job.recipe.step for job in self.jobs.values()]
        installed = Installed.now(self.experiment.code, steps)
        self.hashes.save()
        self._plan = write_plan(self.store, self.results, self.jobs, asdict(installed))

    def _write_configuration(self) -> None:
        """Write the configuration and the table of runs, which tables and report read."""
        self._earlier = earlier_tables(self.results, self.config)
        text = CONFIG_HEAD + _commit() + as_yaml(self.config.model_dump())
        write_whole(self.results / CONFIG_FILE, text)
        write_whole(self.results / RUNS_TABLE, self.experiment.table(self.results))

    def _take(self, targets: set[Node]) -> None:
        """Link what folders among the other stores hold. Fetch what buckets hold and the targets
        need, and what the page reads of the rest, if it is made here.
        """
        missing = self.missing
        others.take(self.stores, missing + self._results_to_take(missing))
        offer = self.offer()
        while wanted := self.offered(targets, offer):
            offer.fetch(wanted)
        needed = {*self.needed(targets)}
        report = self.experiment.report
        if report in needed:
            made = set() if self.only_results else needed
            shown = [
                node for node in report.ancestors() if not node.is_temporary and node not in made
            ]
            offer.fetch_parts(shown, page_reads)

    def offer(self) -> others.Offer:
        """The missing artifacts that buckets among the other stores hold."""
        missing = [node for node in self.experiment.known if not is_whole(node.entry)]
        return others.Offer(self.stores, missing)

    def held(self, nodes: Collection[Node]) -> set[Node]:
        """Those of some artifacts that other stores have."""
        offer = others.Offer(self.stores, nodes)
        return {node for node in nodes if node in offer or others.find(self.stores, node)}

    def offered(self, targets: Collection[Node], offer: others.Offer) -> list[Node]:
        """The artifacts that a run which makes the targets fetches."""
        results = {*self.experiment.ends, *self.experiment.shown_results, *targets}
        needed = self.needed(targets, offer)
        needed += self._results_to_take(needed)
        offered = [node for node in needed if node in offer]
        if self.only_results:
            return [node for node in offered if node in results]
        return offered

    def _results_to_take(self, needed: Collection[Node]) -> list[Node]:
        """The results that the store lacks, and from which a choice may take what is needed."""
        choices = [node for node in needed if node.one_of]
        return [node for node in with_results(choices) if not is_whole(node.entry)]

    def close(self) -> None:
        """Give store and results to other runs. The end of the process does the same."""
        while self._locks:
            self._locks.pop().close()

    def lay_names(self) -> None:
        """Let the results folder show what the store holds of this configuration, and no more."""
        links = self._held_links()
        for node in self.experiment.known:
            links |= self.jobs[node.digest].logs
        if not is_whole(self.experiment.summary.entry):
            links[os.path.normpath(f"{self.results}/summary.md")] = self._write_unfinished()
        take_away(self.results, links)
        lay(links)

    def names_to_lay(self) -> list[str]:
        """The names of what the store holds that the results folder lacks, or shows otherwise."""
        held = self._held_links().items()
        return [name for name, place in held if os.path.realpath(name) != os.path.realpath(place)]

    def _held_links(self) -> dict[str, str]:
        """The links to what the store holds of this configuration, each with its target."""
        links = {}
        for node in self.experiment.known:
            is_here = is_whole(node.entry)
            for name, place in self.jobs[node.digest].links.items():
                is_of_artifact = Path(place).name.startswith(ARTIFACT)
                # What is fetched of an entry in part is no artifact.
                if Path(place).exists() and (is_here or not is_of_artifact):
                    links[name] = place
        return links

    def _write_unfinished(self) -> str:
        """Write what stands in for the summary. Returns the file."""
        missing = [node.name for node in self.to_make]
        file = self._plan.with_suffix(".md")
        write_whole(file, unfinished(missing, len(self.experiment.wanted), *self._earlier))
        return str(file)


def _choices(node: Node) -> Iterator[str]:
    """The values of a job's options for which a package may have to be installed."""
    config, section = node.config, STEPS[node.step].section
    if section:
        yield from (*getattr(config, section).choices, *config.report_to)
    if node.step == "moe_sft":
        yield f"train_rest = {config.moe.train_rest}"
    if node.step == "eval" and "backend" in node.flags:
        yield node.flags["backend"]


def _commit() -> str:
    """A comment that names the commit of this clone; empty if there is no clone or no git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):
        if (ROOT / ".git").exists():
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            return f"# The workflow's commit: {done.stdout.strip()}\n"
    return ""


def earlier_tables(results: Path, config: WorkflowConfig) -> tuple[str, str]:
    """The tables that a results folder shows, after what a configuration changes of theirs.

    Both are empty if it shows none.
    """
    file = results / "summary.md"
    changed = []
    if not file.is_file():
        return "", ""
    with suppress(UserError):  # of another version
        changed = list(changes(recorded_config(results), config))
    text = file.read_text(encoding="utf-8")
    if text.startswith(EARLIER):
        first, _, rest = text.partition("\n")
        return "; ".join([first.removeprefix(EARLIER), *changed]), rest.partition("\n\n")[2]
    if file.resolve().parent.name == PLANS:
        return "", ""
    return "; ".join(changed) or "a file or the code", text


def unfinished(missing: Sequence[str], wanted: int, changed: str, tables: str) -> str:
    """The text in place of a summary.

    missing: the names of the missing ones of all `wanted` results. changed, tables: from
    `earlier_tables`.
    """
    count = f"{len(missing)} of {wanted} results"
    end = "missing (when the last run began or ended). Run snakemake without a target to make them."
    if tables:
        first = f"{EARLIER}{changed}\n{count} of the present one are {end}"
        return f"{first}\n\n{tables}"
    names = "".join(f"- {name}\n" for name in missing)
    return f"There are no tables yet: {count} are {end}\n\n{names}"
