"""Computes a plan, and formats it as text for `xft plan`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from xft.common.errors import counted
from xft.config.models import MIXTURES
from xft.config.sections import TRAINING, WorkflowConfig
from xft.estimates.flops import tuning_ratio
from xft.estimates.jobs import LAUNCHES, TrainingJob, configured_job
from xft.estimates.lengths import Lengths
from xft.estimates.memory import training_memory
from xft.estimates.parameters import Models
from xft.estimates.processors import Processor
from xft.estimates.rows import count_problems
from xft.estimates.work import JUDGING_SECONDS, Work, generation_seconds, training_work

MIXTURE = next(name for name, section in TRAINING.items() if section.trains == "mixture")
TOKENS = {True: "tokens", False: "at most: tokens"}
COLUMNS = ("weights", "gradients", "optimizer", "extra", "activations", "host", "peak")


@dataclass(frozen=True)
class Plan:
    """The figures of a plan for a complete configuration.

    gpu: its type; None for a CPU. processor: with the FLOPs that a process reaches. processes:
    that train together; as configured if None. trainings: their sections. lengths: of the rows.
    speeds: FLOPs a second that a process reached in trainings before, by section.

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

    def job(self, section: str, expected: bool = False) -> TrainingJob:
        """The training with a section of the configuration."""
        job = configured_job(self.config, section, self.gpu is not None)
        if self.processes is not None:
            is_alone = job.launch == "single" and self.processes > 1
            launch = "ddp" if is_alone else job.launch
            job = replace(job, processes=self.processes, launch=launch)
        return job.with_rows(self.lengths) if expected else job

    def peak(self, section: str, expected: bool = False) -> int:
        """The bytes that a process of a training needs."""
        return training_memory(self.models, self.job(section, expected)).peak

    def work(self, section: str, expected: bool = False) -> Work | None:
        """The work of a training, for one lambda; None if it is unknown."""
        rows = self.lengths.rows if expected and self.lengths else None
        return training_work(self.models, self.job(section, expected), rows or self.rows)

    def training_hours(self, section: str, expected: bool = False) -> float | None:
        """Hours of a training, for one lambda; None if they are unknown."""
        work, job = self.work(section, expected), self.job(section)
        if work and section in self.speeds:
            return work.flops / (job.processes * self.speeds[section]) / 3600
        return work.hours(job, self.processor) if work and self.processor.bf16 else None

    def evaluation_hours(self, is_mixture: bool, datasets: Sequence[str] = ()) -> float | None:
        """Hours at most of a model, on one processor; None if they are unknown.

        datasets: by default all.
        """
        options = self.config.evaluation
        known = [count_problems(name, options.limit) for name in datasets or options.datasets]
        if None in known or not self.processor.bf16:
            return None
        count = sum(known)
        seconds = generation_seconds(self.models, is_mixture, count, options, self.processor)
        return (seconds + count * options.samples * JUDGING_SECONDS) / 3600


def summary(plan: Plan, disk: str) -> list[str]:
    """The main figures as lines. The headers of the recipes show them too."""
    models = plan.models
    learned = models.trained(plan.job(MIXTURE).options).learned
    learning = f", {learned:,} learn" if models.is_low_rank else ""
    lines = [
        f"dense {models.dense_total:,} parameters",
        f"MoE {models.moe_total:,} parameters, {models.moe_active:,} compute a token{learning}",
        f"disk {disk} at most",
    ]
    for section in plan.trainings:
        job, hours = plan.job(section), plan.training_hours(section)
        place = f"{job.processes} x {plan.gpu}" if plan.gpu else "the CPU"
        line = f"{section} on {place}: {job.launch}, {memory_text(plan.peak(section))}"
        if hours is not None:
            is_limit = section != MIXTURE or not models.is_low_rank
            line += f", {'about' if is_limit else 'at least'} {duration(hours)} hours"
        lines.append(line + (", for each lambda" if job.is_mixing else ""))
    return lines


def report(plan: Plan, disk: str) -> str:
    """The whole plan. disk: the space that the artifacts take, in words."""
    sections = summary(plan, disk), _work(plan), _memory(plan)
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _work(plan: Plan) -> list[str]:
    """Rows of the trainings and the evaluations."""
    kinds = (True, False) if plan.lengths else (False,)
    names = [name for kind in kinds for name in (TOKENS[kind], "FLOPs", "hours")]
    rows = [("", "global batch", "steps", *names)]
    for section in plan.trainings:
        work = plan.work(section, kinds[0])
        cells = [str(plan.job(section).global_batch), f"{work.steps:,}" if work else "?"]
        for kind in kinds:
            work = plan.work(section, kind)
            cells += [f"{work.tokens:,}", f"{work.flops:.2e}"] if work else "??"
            cells.append(duration(plan.training_hours(section, kind)))
        rows.append((section, *cells))
    empty = [""] * (len(rows[0]) - 2)
    for name in plan.config.evaluation.models:
        rows.append(
            (f"evaluation of {name}", *empty, duration(plan.evaluation_hours(name in MIXTURES)))
        )
    ratio = tuning_ratio(plan.models, plan.config.data.max_length, plan.config.sft)
    lines = [
        "Work. At most: every row fills the window, and every solution has max_new_tokens",
        *table(rows),
        "  hours of what each lambda has: for one; of evaluations: with "
        f"{JUDGING_SECONDS} s to judge a solution",
        f"  a token of moe_sft takes {ratio:.2f} times the FLOPs of one of sft",
    ]
    if plan.lengths:
        mean = f"{plan.lengths.tokens.mean():,.0f} tokens"
        lines.append(f"  expected: with rows as they are, {mean} on average, and their padding")
    if plan.models.is_low_rank:
        lines.append("  LoRA experts have small matrix products: expect more hours than these")
    if plan.rows is None:
        lines.append("  ?: the rows are not on this machine. Give their number with --rows")
    if not plan.processor.bf16:
        lines.append("  ?: the speed of the device is unknown (above)")
    return lines


def _memory(plan: Plan) -> list[str]:
    tuning = plan.job(MIXTURE)
    jobs = {f"{name}, {plan.job(name).launch}": plan.job(name) for name in plan.trainings}
    if MIXTURE in plan.trainings:
        jobs = {f"{MIXTURE}, {launch}": _launched(tuning, launch) for launch in LAUNCHES} | jobs
    allowed = {name: job for name, job in jobs.items() if not job.fault}
    memories = {name: training_memory(plan.models, job) for name, job in allowed.items()}
    shown = [name for name in COLUMNS if any(getattr(m, name) for m in memories.values())]
    rows = [("", *shown)] + [
        (name, *(memory_text(getattr(memory, column)) for column in shown))
        for name, memory in memories.items()
    ]
    if plan.lengths:
        peaks = (training_memory(plan.models, j.with_rows(plan.lengths)) for j in allowed.values())
        last = ["expected", *(memory_text(memory.peak) for memory in peaks)]
        rows = [(*row, cell) for row, cell in zip(rows, last, strict=True)]
    return [
        f"Memory of a process at most ({MIXTURE}: {tuning.precision}, {tuning.options.optim}, "
        f"{counted(tuning.processes, 'process', 'es')})",
        *table(rows),
        "  the peaks also have the libraries; the columns have their maxima at different times",
        *(f"  {name}: {job.fault}" for name, job in jobs.items() if job.fault),
    ]


def _launched(job: TrainingJob, launch: str) -> TrainingJob:
    return replace(job, launch=launch, processes=1 if launch == "single" else job.processes)


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
        few, many = (f"{max(60 * hours, 1):,.0f}" for hours in (expected, most))
        unit = "minute" if few == "1" else "minutes"
    else:
        few, many, unit = duration(expected), duration(most), "hours"
    return f"{few} {unit}" + (f", at most {many}" if many != few else "")


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns: the first left, the others right."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(["", first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()
        for first, *others in lines
    ]
