"""The estimate of a configuration: its figures, the text of `xft plan`, and what makes it fit."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import compress, product

from xft.common.errors import UserError, counted
from xft.config.reading import complete, values_to_change
from xft.config.runs import overlaid
from xft.config.sections import MIXTURES, TRAINING, WorkflowConfig
from xft.estimates import jobs
from xft.estimates.generation_memory import generation_memory
from xft.estimates.jobs import GIB, JUDGING_SECONDS, LAUNCHES, Processor, TrainingJob, Work
from xft.estimates.memory_and_disk import training_memory
from xft.estimates.model_sizes import Models, tuning_ratio
from xft.estimates.rows import Lengths, count_problems

MIXTURE = next(name for name, section in TRAINING.items() if section.trains == "mixture")
TOKENS = {True: "tokens", False: "at most: tokens"}
COLUMNS = ("weights", "gradients", "optimizer", "extra", "activations", "host", "peak")
# The part of a GPU's memory that is lost between tensors. By torch's allocator, with every row at
# full length, 5% was too little for two trainings (benchmarks/gpu_memory.py). On a CPU: assumed.
GAPS = 0.07
ERROR = 0.25  # how much more than its estimate a peak may be
KINDS = ("LoRA experts", "shards", "fewer rows", "checkpointing", "pure bf16")  # slowest first
SHARDING = ("zero2", "fsdp", "zero3")  # launches, from the one that exchanges the least
PROCESSES = (2, 4, 8)  # in place of one
EACH = "each of these on top of the config; LoRA, bf16_pure and adafactor change results"
NO_CHANGE = "no other precision, batch or launch, and not with LoRA experts"
WIDTH = 110


@dataclass(frozen=True)
class MeasuredMemory:
    """The memory that an earlier training took of a GPU, in the process with most. In bytes.

    allocated, reserved: by torch.
    libraries: what CUDA itself takes besides, assumed.
    estimate: of reserved and libraries, for the rows of that training.
    """

    allocated: int
    reserved: int
    libraries: int
    estimate: int

    @property
    def share(self) -> float:
        """How much it took, as a share of its estimate."""
        return (self.reserved + self.libraries) / self.estimate


@dataclass(frozen=True)
class Estimate:
    """The figures of an estimate for a complete configuration.

    rows: their number; None if it is unknown.
    gpu: its type; None for a CPU.
    processor: with the FLOPs that a process reaches.
    processes: that train together; as configured if None.
    trainings: their sections.
    lengths: of the rows; None if they are unknown.
    speeds: FLOPs a second that a process reached in trainings before, by section.
    memories: what such trainings took of a GPU, by section.

    Figures are the highest ones, or those that are expected: with rows as they are.
    """

    config: WorkflowConfig
    models: Models
    rows: int | None
    gpu: str | None
    processor: Processor
    processes: int | None = None
    trainings: tuple[str, ...] = ()
    lengths: Lengths | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)
    memories: Mapping[str, "MeasuredMemory"] = field(default_factory=dict)

    def job(self, section: str, expected: bool = False) -> TrainingJob:
        """The training with a section of the configuration."""
        job = jobs.configured_job(self.config, section, self.gpu is not None)
        if self.processes is not None:
            is_alone = job.launch == "single" and self.processes > 1
            launch = "ddp" if is_alone else job.launch
            job = replace(job, processes=self.processes, launch=launch)
        return job.with_rows(self.lengths) if expected else job

    def peak(self, section: str, expected: bool = False) -> int:
        """The bytes that a process of a training needs, by the measured share of its estimate.

        A training that took less than its estimate does not lower the highest figure: its rows may
        have been short.
        """
        estimate = training_memory(self.models, self.job(section, expected)).peak
        measured = self.memories.get(section)
        if measured is None:
            return estimate
        share = measured.share if expected else max(measured.share, 1)
        return round(share * estimate)

    def work(self, section: str, expected: bool = False) -> Work | None:
        """The work of a training, for one lambda; None if it is unknown."""
        rows = self.lengths.rows if expected and self.lengths else None
        return jobs.training_work(self.models, self.job(section, expected), rows or self.rows)

    def training_hours(self, section: str, expected: bool = False) -> float | None:
        """Hours of a training, for one lambda; None if they are unknown."""
        work = self.work(section, expected)
        job = self.job(section)
        if work is None:
            return None
        if section in self.speeds:
            return work.flops / (job.processes * self.speeds[section]) / 3600
        if self.processor.bf16 == 0:
            return None
        return work.hours(job, self.processor)

    def evaluation_hours(self, is_mixture: bool, datasets: Sequence[str] = ()) -> float | None:
        """Hours at most of a model, on one processor; None if they are unknown.

        datasets: by default all.
        """
        options = self.config.evaluation
        known = [count_problems(name, options.limit) for name in datasets or options.datasets]
        if None in known or not self.processor.bf16:
            return None
        count = sum(known)
        seconds = jobs.generation_seconds(self.models, is_mixture, count, options, self.processor)
        return (seconds + count * options.samples * JUDGING_SECONDS) / 3600


def summary(estimate: Estimate, disk: str) -> list[str]:
    """The main figures as lines. The headers of the recipes show them too."""
    models = estimate.models
    learned = models.trained(estimate.job(MIXTURE).options).learned
    learning = f", {learned:,} learn" if models.is_low_rank else ""
    lines = [
        f"dense {models.dense_total:,} parameters",
        f"MoE {models.moe_total:,} parameters, {models.moe_active:,} compute a token{learning}",
        f"disk {disk} at most",
    ]
    for section in estimate.trainings:
        job = estimate.job(section)
        hours = estimate.training_hours(section)
        place = f"{job.processes} x {estimate.gpu}" if estimate.gpu else "the CPU"
        line = f"{section} on {place}: {job.launch}, {memory_text(estimate.peak(section))}"
        if hours is not None:
            is_limit = section != MIXTURE or not models.is_low_rank
            line += f", {'about' if is_limit else 'at least'} {duration(hours)} hours"
        if job.is_mixing:
            line += ", for each lambda"
        lines.append(line)
    return lines


def report(estimate: Estimate, disk: str) -> str:
    """The whole plan. disk: the space that the artifacts take, in words."""
    sections = summary(estimate, disk), _work(estimate), _memory(estimate)
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _work(estimate: Estimate) -> list[str]:
    """Rows of the trainings and the evaluations."""
    kinds = (True, False) if estimate.lengths else (False,)
    names = [name for kind in kinds for name in (TOKENS[kind], "FLOPs", "hours")]
    rows = [("", "global batch", "steps", *names)]
    for section in estimate.trainings:
        work = estimate.work(section, kinds[0])
        cells = [str(estimate.job(section).global_batch), f"{work.steps:,}" if work else "?"]
        for kind in kinds:
            work = estimate.work(section, kind)
            cells.append(f"{work.tokens:,}" if work else "?")
            cells.append(f"{work.flops:.2e}" if work else "?")
            cells.append(duration(estimate.training_hours(section, kind)))
        rows.append((section, *cells))
    empty = [""] * (len(rows[0]) - 2)
    for name in estimate.config.evaluation.models:
        hours = duration(estimate.evaluation_hours(name in MIXTURES))
        rows.append((f"evaluation of {name}", *empty, hours))
    ratio = tuning_ratio(estimate.models, estimate.config.data.max_length, estimate.config.sft)
    lines = [
        "Work. At most: every row fills the window, and every solution has max_new_tokens",
        *table(rows),
        "  hours of what each lambda has: for one; of evaluations: with "
        f"{JUDGING_SECONDS} s to judge a solution",
        f"  a token of moe_sft takes {ratio:.2f} times the FLOPs of one of sft",
    ]
    if estimate.lengths:
        mean = f"{estimate.lengths.tokens.mean():,.0f} tokens"
        lines.append(f"  expected: with rows as they are, {mean} on average, and their padding")
    if estimate.models.is_low_rank:
        lines.append("  LoRA experts have small matrix products: expect more hours than these")
    if estimate.rows is None:
        lines.append("  ?: the rows are not on this machine. Give their number with --rows")
    if not estimate.processor.bf16:
        lines.append("  ?: the speed of the device is unknown (above)")
    return lines


def _memory(estimate: Estimate) -> list[str]:
    """Rows of the trainings, and of the mixture's tuning with each launch."""
    tuning = estimate.job(MIXTURE)
    jobs_of_rows = _jobs_with_launches(estimate)
    allowed = {name: job for name, job in jobs_of_rows.items() if job.fault is None}
    memories = {name: training_memory(estimate.models, job) for name, job in allowed.items()}
    columns = []
    for column in COLUMNS:
        if any(getattr(memory, column) for memory in memories.values()):
            columns.append(column)
    head = ["", *columns]
    if estimate.lengths:
        head.append("expected")
    rows = [tuple(head)]
    for name, memory in memories.items():
        cells = [name, *(memory_text(getattr(memory, column)) for column in columns)]
        if estimate.lengths:
            expected = training_memory(estimate.models, allowed[name].with_rows(estimate.lengths))
            cells.append(memory_text(expected.peak))
        rows.append(tuple(cells))
    lines = [
        f"Memory of a process at most ({MIXTURE}: {tuning.precision}, {tuning.options.optim}, "
        f"{counted(tuning.processes, 'process', 'es')})",
        *table(rows),
        "  the peaks also have the libraries; the columns have their maxima at different times",
    ]
    for name, job in jobs_of_rows.items():
        if job.fault is not None:
            lines.append(f"  {name}: {job.fault}")
    for section, measured in estimate.memories.items():
        lines.append(_measured_line(section, measured))
    lines.extend(_evaluation_lines(estimate))
    return lines


def _jobs_with_launches(estimate: Estimate) -> dict[str, TrainingJob]:
    """The trainings by their names and launches; the mixture's tuning first, with each launch."""
    named = {}
    if MIXTURE in estimate.trainings:
        tuning = estimate.job(MIXTURE)
        for launch in LAUNCHES:
            named[f"{MIXTURE}, {launch}"] = _launched(tuning, launch)
    for section in estimate.trainings:
        job = estimate.job(section)
        named[f"{section}, {job.launch}"] = job
    return named


def _evaluation_lines(estimate: Estimate) -> Iterator[str]:
    """The memory of evaluations on a GPU. What vLLM takes is its own choice."""
    config = estimate.config.evaluation
    kinds = {name in MIXTURES for name in config.models} if estimate.gpu else set()
    for is_mixture in sorted(kinds):
        if is_mixture or config.backend == "transformers":
            needed = generation_memory(estimate.models, is_mixture, config)
            kind = "mixture" if is_mixture else "dense model"
            yield f"  an evaluation of a {kind} needs {memory_text(needed)} at most"


def _measured_line(section: str, measured: MeasuredMemory) -> str:
    allocated, reserved = memory_text(measured.allocated), memory_text(measured.reserved)
    took = memory_text(measured.reserved + measured.libraries)
    return (
        f"  {section} before: {allocated} allocated and {reserved} reserved by torch, {took} with "
        f"the libraries, {measured.share:.2f} times its estimate. Fit counts in this share"
    )


def _launched(job: TrainingJob, launch: str) -> TrainingJob:
    """The training with another launch."""
    processes = 1 if launch == "single" else job.processes
    return replace(job, launch=launch, processes=processes)


def memory_text(nbytes: float) -> str:
    return _size(nbytes, 2**10, "iB")


def disk_text(nbytes: float) -> str:
    return _size(nbytes, 1000, "B")


def _size(nbytes: float, step: int, end: str) -> str:
    if not nbytes:
        return "0"
    for unit in "KM":
        nbytes /= step
        if nbytes < step:
            return f"{nbytes:,.0f} {unit}{end}"
    return f"{nbytes / step:,.1f} G{end}"


def duration(hours: float | None) -> str:
    """Hours as text; ? if they are unknown."""
    if hours is None:
        return "?"
    return f"{hours:,.1f}" if hours >= 0.1 else "< 0.1"


def time_text(expected: float | None, most: float | None) -> str:
    """Hours as text, in minutes if they are few; ? if they are unknown."""
    if expected is None or most is None:
        return "?"
    if most < 2:
        few = f"{max(60 * expected, 1):,.0f}"
        many = f"{max(60 * most, 1):,.0f}"
        unit = "minute" if few == "1" else "minutes"
    else:
        few = duration(expected)
        many = duration(most)
        unit = "hours"
    if many == few:
        return f"{few} {unit}"
    return f"{few} {unit}, at most {many}"


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns: the first left, the others right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = ["", first.ljust(widths[0])]
        for cell, width in zip(others, widths[1:], strict=True):
            cells.append(cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return lines


def advice(estimate: Estimate) -> Iterator[str]:
    """Which trainings fit the device, and changes with which the others do."""
    device = f"an {estimate.gpu}" if estimate.gpu else "this machine"
    small = [section for section in estimate.trainings if fits(estimate, section)]
    large = [section for section in estimate.trainings if section not in small]
    yield (
        f"Fit: {device} has {estimate.processor.memory:.1f} GiB; keep {GAPS:.0%} of it free."
        f" It fits: {', '.join(small) or 'none'}. Too large: {', '.join(large) or 'none'}"
    )
    tight = [section for section in small if not fits(estimate, section, ERROR)]
    if tight:
        yield f"  {', '.join(tight)}: not if the peak is {ERROR:.0%} above its estimate"
    for section in large:
        fitting = list(ways(estimate, section))
        # The fastest first; LoRA experts, whose hours are a lower limit, last.
        fitting.sort(key=lambda way: ("moe" in way[0], way[1].training_hours(section) or 0))
        yield f"  {section} fits with {EACH if fitting else NO_CHANGE}"
        for changes, changed in fitting:
            yield _described(section, changes, changed)


def fits(estimate: Estimate, section: str, error: float = 0, expected: bool = False) -> bool:
    """Whether a training fits: on a GPU for each process, or with all processes on this machine.

    error: how much more than its estimate the peak is.
    expected: with rows as they are.
    """
    needed = (1 + error) * _together(estimate, section) * estimate.peak(section, expected)
    return needed <= (1 - GAPS) * estimate.processor.memory * GIB


def _together(estimate: Estimate, section: str) -> int:
    """The number of processes that share the device."""
    return 1 if estimate.gpu else estimate.job(section).processes


def fit_line(estimate: Estimate) -> str:
    """Whether all trainings fit the device, and what the largest one needs."""
    device = f"{estimate.gpu or 'this machine'} ({estimate.processor.memory:.1f} GiB)"
    if not estimate.trainings:
        return f"Fits {device}: there is no training"

    def all_fit(error: float, expected: bool = False) -> bool:
        return all(fits(estimate, section, error, expected) for section in estimate.trainings)

    answer = "no"
    if all_fit(ERROR):
        answer = "yes"
    elif all_fit(0):
        answer = f"yes, if the estimate is not {ERROR:.0%} too low"
    elif all_fit(ERROR, expected=True):
        answer = "yes, but not if every row filled the window"
    largest = max(
        estimate.trainings,
        key=lambda section: _together(estimate, section) * estimate.peak(section),
    )
    expected = memory_text(estimate.peak(largest, expected=True))
    most = memory_text(estimate.peak(largest))
    number = _together(estimate, largest)
    needs = f"{number} x {expected}" if number > 1 else expected
    needs += f", at most {most}" if estimate.lengths else " at most"
    return f"Fits {device}: {answer}. {largest} needs {needs}"


def ways(estimate: Estimate, section: str) -> Iterator[tuple[dict, Estimate]]:
    """Changed keys with which a training fits, and the estimate with them.

    Each needs all of its kinds of changes. The global batch stays the same.
    """
    values = values_to_change(estimate.config)
    sufficient: list[set[str]] = []
    for chosen in product((False, True), repeat=len(KINDS)):  # without the slowest ones first
        kinds = set(compress(KINDS, chosen))
        if any(fewer <= kinds for fewer in sufficient):
            continue
        for changes in _changes(estimate, section, kinds):
            changed = _changed(estimate, values, changes)
            if changed and fits(changed, section):
                sufficient.append(kinds)
                yield changes, changed
                break


def _changes(estimate: Estimate, section: str, kinds: set[str]) -> Iterator[dict]:
    """Changed keys of all these kinds, the fastest first."""
    job = estimate.job(section)
    options = dict(getattr(estimate.config, section))
    keys = {}  # of the section
    others = {}
    counts = (job.processes,)
    launches = (job.launch,)
    if "LoRA experts" in kinds:
        others["moe"] = {"experts": "lora"}
    if "pure bf16" in kinds:
        keys["precision"] = "bf16_pure"
        keys["optim"] = "adafactor"
    if "checkpointing" in kinds:
        keys["activation_checkpointing"] = True
    if "shards" in kinds:
        launches = SHARDING if estimate.gpu else ()
        if estimate.config.gpus == 0:
            others["gpus"] = 1
        if job.processes == 1:
            counts = PROCESSES
    for count, launch in product(counts, launches):
        keys["launch"] = launch
        keys["processes"] = count // options["nodes"]
        most = options["per_device_train_batch_size"]
        sizes = [size for size in range(most, 0, -1) if job.global_batch % (size * count) == 0]
        for size in sizes[1:] if "fewer rows" in kinds else sizes[:1]:
            keys["per_device_train_batch_size"] = size
            keys["gradient_accumulation_steps"] = job.global_batch // (size * count)
            new = {key: value for key, value in keys.items() if value != options[key]}
            changes = {section: new} if new else {}
            yield changes | others


def _changed(estimate: Estimate, values: dict, changes: dict) -> Estimate | None:
    """The estimate of a changed configuration; None if it is not allowed."""
    with suppress(UserError):
        config = complete(overlaid(values, changes))
        models = Models(estimate.models.base, config.moe)
        return replace(estimate, config=config, models=models, processes=None)


def _described(section: str, changes: dict, estimate: Estimate) -> str:
    """Changed keys as YAML, and with them the memory of each process and the hours."""
    memory = f"{estimate.job(section).processes} x {memory_text(estimate.peak(section))}"
    lead = f"{memory:>15}, {duration(estimate.training_hours(section)):>5} hours  "
    text = json.dumps(changes).replace('"', "")  # no value needs quotes
    return textwrap.fill(lead + text, WIDTH, subsequent_indent=" " * len(lead))
