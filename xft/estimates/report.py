"""Computes a plan, and formats it as text for `xft plan`."""

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from xft.config.sections import MERGED, XftConfig
from xft.estimates.calibration import product_flops
from xft.estimates.compute import (
    PROMPT_TOKENS,
    Work,
    generation_seconds,
    training_work,
)
from xft.estimates.disk import Space, disk_space, expert_bytes
from xft.estimates.flops import tuning_ratio
from xft.estimates.gpus import (
    GIB,
    GPUS,
    RUNTIME,
    RUNTIME_OF_SEVERAL,
    RUNTIME_ON_CPU,
    Gpu,
    cpu,
)
from xft.estimates.jobs import configured_job, fault_of, launched
from xft.estimates.memory import (
    LAUNCHES,
    Job,
    Memory,
    average_bytes,
    mixing_memory,
    tuning_memory,
)
from xft.estimates.parameters import Models
from xft.estimates.rows import Rows, count_problems
from xft.estimates.strategy import Advice, advise, name_of

LINE_LENGTH = 100
LOW_RANK_HOURS = (
    "  its hours are those of the FLOPs alone. Low-rank experts have small products, and much work",
    "  between them: expect more hours, perhaps several times as many",
)
CPU_UTILISATION = 0.5  # share of a product's speed that a job reaches; assumed
MIXTURES = ("moe", "moe_sft")
COLUMNS = {
    "weights": "weights",
    "gradients": "gradients",
    "master": "master",
    "optimizer": "optimiser",
    "layers": "copies",
    "buckets": "buckets",
    "activations": "activations",
    "logits": "logits",
    "step": "in step",
    "average": "average",
    "peak": "peak",
}


@dataclass(frozen=True)
class Plan:
    """The figures of a plan for a complete configuration.

    gpu_name: a key of GPUS, or None on a CPU. utilisation: the share of the GPU's FLOPs that a
    training reaches.
    """

    config: XftConfig
    models: Models
    rows: Rows
    gpu_name: str | None
    processes: int
    utilisation: float

    @property
    def gpu(self) -> Gpu | None:
        return self.gpu_name and GPUS[self.gpu_name]

    @property
    def place(self) -> str:
        return f"{self.processes} x {self.gpu_name}" if self.gpu_name else "the CPU"

    @cached_property
    def tuning(self) -> Job:
        return configured_job(self.config, "moe_sft", self.processes, self.gpu is not None)

    @cached_property
    def mixing(self) -> Job:
        launch = "single" if self.processes == 1 else "ddp"
        job = configured_job(self.config, "mixing", self.processes, self.gpu is not None)
        return replace(job, launch=launch)

    @property
    def chosen(self) -> Job:
        """The advised job of step 2, or the configured one if none fits."""
        return self.advice.job or self.tuning

    @cached_property
    def works(self) -> tuple[Work | None, Work | None]:
        """The work of step 2, as advised, and of step 6 for one lambda."""
        tuning, mixing = self.config.moe_sft, self.config.mixing
        return (
            training_work(self.models, self.chosen, "moe_sft", tuning, self.rows),
            training_work(self.models, self.mixing, "mixing", mixing, self.rows),
        )

    @cached_property
    def hours(self) -> tuple[float | None, float | None]:
        """Hours at most of step 2, and of step 6 for one lambda. None if they are unknown."""
        return (None, None) if self.gpu is None else self.hours_on(self.gpu, self.utilisation)

    def hours_on(self, processor: Gpu, utilisation: float) -> tuple[float | None, float | None]:
        """The same on another processor. utilisation: the share of its speed that is reached."""
        first, second = self.works
        return (
            first and first.hours(self.chosen, processor, utilisation),
            second and second.hours(self.mixing, processor, utilisation),
        )

    def tuning_hours(self, section: str) -> float | None:
        """Hours at most of the tuning with a section of the configuration: moe_sft, sft or heal."""
        options, rows = getattr(self.config, section), self.rows
        job = configured_job(self.config, section, self.processes, self.gpu is not None)
        job = self.chosen if section == "moe_sft" else job
        if section == "heal" and rows.number is not None:
            rows = replace(rows, number=math.ceil(rows.number * options.share))
        work = training_work(self.models, job, section, options, rows)
        return work and work.hours(job, *self.speed(job.precision))

    def speed(self, precision: str) -> tuple[Gpu, float]:
        """The processor, and the share of its speed that a job reaches."""
        if self.gpu is None:
            return self.measured(precision), CPU_UTILISATION
        return self.gpu, self.utilisation

    def measured(self, precision: str) -> Gpu:
        """This machine's CPU, timed with matrix products of the size of the base's MLP."""
        base, tokens = self.models.base.config, self.tuning.batch.tokens
        sizes = base["hidden_size"], base["intermediate_size"]
        return cpu(product_flops(tokens, *sizes, precision, self.config.threads))

    @cached_property
    def advice(self) -> Advice:
        if self.gpu is None:
            memory = tuning_memory(self.models, self.tuning)
            return Advice(self.tuning, memory, "as configured")
        return advise(self.models, self.tuning, self.gpu)

    @cached_property
    def spaces(self) -> list[Space]:
        return disk_space(self.models, self.config, self.tuning)

    @property
    def merges(self) -> bool:
        return self.models.moe.shared_expert


def summary(plan: Plan) -> list[str]:
    """The main figures as lines. The headers of the recipes show them too."""
    models = plan.models
    learning = f", {models.learned_total:,} learn" if models.is_low_rank else ""
    lines = [
        f"dense {models.dense_total:,} parameters",
        f"MoE {models.moe_total:,} parameters, {models.moe_active:,} compute a token{learning}",
        f"disk {sum(space.nbytes for space in plan.spaces) / 1e9:.1f} GB at most",
    ]
    advice = plan.advice
    if advice.job is None:
        lines.append(f"step 2 on {plan.place}: {advice.reason}")
    else:
        peak = f"{advice.memory.peak / GIB:.1f} GiB"
        lines.append(f"step 2 on {plan.place}: {name_of(advice.job)}, {peak}{_tuning_hours(plan)}")
    if plan.merges:
        peak = f"{mixing_memory(models, plan.mixing).peak / GIB:.1f} GiB"
        lines.append(f"step 6 on {plan.place}: {peak}{_hours(plan.hours[1])}, for each lambda")
    return lines


def report(plan: Plan) -> str:
    """The whole plan."""
    return "\n\n".join("\n".join(section) for section in _sections(plan)) + "\n"


def _sections(plan: Plan) -> Iterable[list[str]]:
    """The lines of each section. The first line is its title."""
    base = plan.config.base.model
    yield summary(plan)
    yield [
        f"Parameters of {base}: {plan.models.base.source}",
        *table(_parameter_rows(plan.models)),
    ]
    yield [
        "Tokens, if every row fills the window",
        *table(_work_rows(plan)),
        f"  a token of step 2 takes {_flops_ratio(plan):.2f} times the FLOPs of one of sft",
        *(LOW_RANK_HOURS if plan.models.is_low_rank else ()),
        *_rows_note(plan),
    ]
    yield [
        f"Memory of a process in step 2, GiB ({_batch(plan.tuning)})",
        f"  processes: {plan.processes}; configured launch: {plan.tuning.launch}",
        *table(_memory_rows(_tuning_memories(plan))),
        *_memory_notes(plan),
    ]
    if plan.merges:
        memory = mixing_memory(plan.models, plan.mixing)
        cache = gigabytes(expert_bytes(plan.models) + memory.mapped)
        yield [
            f"Memory of a process in step 6, GiB ({_batch(plan.mixing)})",
            *table(_memory_rows({plan.mixing.launch: memory})),
            f"  plus {cache} of page cache, to read weights from files at full speed",
        ]
    if plan.gpu is not None:
        room = f"{plan.gpu.room(plan.processes) / GIB:.1f} of {plan.gpu.memory:g} GiB"
        yield [f"Strategy on {plan.place}, which can use {room}", *_wrapped(plan.advice.reason)]
        yield [
            f"Hours at most, at {plan.utilisation:.0%} of a GPU's FLOPs (an assumption; see --mfu)",
            *table(_hour_rows(plan)),
        ]
        yield _evaluation(plan, plan.gpu, plan.utilisation)
    else:
        yield from _on_this_cpu(plan)
    yield ["Disk", *table(_disk_rows(plan.spaces), [space.remark for space in plan.spaces])]


def _parameter_rows(models: Models) -> Iterable[tuple[str, ...]]:
    yield "dense", f"{models.dense_total:,}"
    yield "mixture", f"{models.moe_total:,}"
    yield "active for a token", f"{models.moe_active:,}"
    if models.is_low_rank:
        yield "learned in step 2", f"{models.learned_total:,}"


def _work_rows(plan: Plan) -> Iterable[tuple[str, ...]]:
    yield "", "steps", "global batch", "tokens", "FLOPs"
    for name, job, work in zip(
        ("step 2", "step 6"), (plan.chosen, plan.mixing), plan.works, strict=True
    ):
        if name == "step 6" and not plan.merges:
            return
        batch = job.batch.rows * job.accumulation * job.processes
        if work is None:
            yield name, "?", f"{batch}", "?", "?"
        else:
            yield name, f"{work.steps:,}", f"{batch}", f"{work.tokens:,}", f"{work.flops:.2e}"


def _flops_ratio(plan: Plan) -> float:
    return tuning_ratio(plan.models, plan.tuning.batch.length, plan.config.sft.lora_rank)


def _rows_note(plan: Plan) -> list[str]:
    rows = plan.rows
    if rows.number is None:
        return ["  The rows are not on this machine. Give their number with --rows"]
    if rows.tokens is None:
        return [f"  {rows.number:,} rows, which are not on this machine"]
    likely = [f"{work.likely:,}" for work in plan.works if work]
    return [
        f"  {rows.number:,} rows of about {rows.tokens:,.0f} tokens (estimated from their bytes)",
        f"  without padding: {' and '.join(likely)} tokens",
    ]


def _tuning_memories(plan: Plan) -> dict[str, Memory]:
    jobs = {launch: launched(plan.tuning, launch) for launch in LAUNCHES}
    return {
        launch: tuning_memory(plan.models, job)
        for launch, job in jobs.items()
        if fault_of(job) is None
    }


def _memory_rows(memories: dict[str, Memory]) -> Iterable[tuple[str, ...]]:
    shown = [name for name in COLUMNS if any(getattr(memory, name) for memory in memories.values())]
    yield "", *(COLUMNS[name] for name in shown)
    for launch, memory in memories.items():
        yield launch, *(f"{getattr(memory, name) / GIB:.1f}" for name in shown)


def _memory_notes(plan: Plan) -> list[str]:
    runtime = RUNTIME if plan.processes == 1 else RUNTIME_OF_SEVERAL
    if plan.gpu is None:
        runtime = RUNTIME_ON_CPU
    notes = [
        "  the peak is less than the sum: gradients and activations are largest at different times",
        f"  libraries need about {runtime / GIB:.1f} GiB more",
    ]
    faults = {launch: fault_of(launched(plan.tuning, launch)) for launch in LAUNCHES}
    notes += [f"  {launch}: {fault}" for launch, fault in faults.items() if fault]
    host = tuning_memory(plan.models, replace(plan.tuning, launch="zero3")).host
    if host:
        notes.append(f"  zero2 and zero3 move {host / GIB:.1f} GiB to the host's memory")
    if plan.tuning.averages_on_host:
        average = average_bytes(plan.models, plan.tuning) / GIB
        notes.append(f"  the average of the weights takes {average:.1f} GiB of the host's memory")
    return notes


def _hour_rows(plan: Plan) -> Iterable[tuple[str, ...]]:
    names = ("step 2", "step 6, each lambda") if plan.merges else ("step 2",)
    yield "", *names
    for name in GPUS:
        hours = replace(plan, gpu_name=name).hours[: len(names)]
        yield name, *map(duration, hours)


def _on_this_cpu(plan: Plan) -> Iterable[list[str]]:
    """Hours on this CPU, from a matrix product that is timed now. Evaluations count as fp32."""
    processor = plan.measured(plan.tuning.precision)
    names = ("step 2", "step 6, each lambda") if plan.merges else ("step 2",)
    hours = plan.hours_on(processor, CPU_UTILISATION)[: len(names)]
    threads = plan.config.threads
    yield [
        f"Hours at most on this CPU (rough estimate), at {CPU_UTILISATION:.0%} of the measured "
        f"{processor.fp32 / 1e9:,.0f} GFLOPs a second",
        f"  of a matrix product of the MLP's size ({plan.tuning.precision}, {threads} "
        f"thread{'s' * (threads > 1)}), without the optimiser's steps",
        *table([(name, duration(value)) for name, value in zip(names, hours, strict=True)]),
    ]
    in_fp32 = processor if plan.tuning.precision == "fp32" else plan.measured("fp32")
    yield _evaluation(plan, in_fp32, CPU_UTILISATION)


def _evaluation(plan: Plan, processor: Gpu, utilisation: float) -> list[str]:
    """Hours to evaluate each model on one processor."""
    options = plan.config.evaluation
    problems = count_problems(options)
    if problems is None:
        return ["Evaluation", "  Hours are unknown: a file of problems is not on this machine"]
    rows = [
        (
            f"{name}, each lambda" if name in MERGED else name,
            duration(
                generation_seconds(
                    plan.models, name in MIXTURES, problems, options, processor, utilisation
                )
                / 3600
            ),
        )
        for name in options.models
    ]
    return [
        f"Evaluation, hours at most: {problems} problems, prompts of {PROMPT_TOKENS} tokens and "
        f"{options.max_new_tokens} new ones,",
        f"  {options.batch_size} at once, with transformers. Most solutions are shorter. Judging "
        "takes extra time",
        *table(rows),
    ]


def _disk_rows(spaces: list[Space]) -> Iterable[tuple[str, ...]]:
    for space in spaces:
        yield space.name, gigabytes(space.nbytes)
    yield "total at most", gigabytes(sum(space.nbytes for space in spaces))


def _batch(job: Job) -> str:
    return (
        f"{job.batch.rows} rows of {job.batch.length}, {job.accumulation} accumulated, "
        f"{job.precision}, {job.optim}"
    )


def gigabytes(nbytes: int) -> str:
    """A size as text."""
    return f"{nbytes / 1e9:,.2f} GB"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_LENGTH, initial_indent="  ", subsequent_indent="  ")


def duration(hours: float | None) -> str:
    """Hours as text; ? if they are unknown."""
    if hours is None:
        return "?"
    return f"{hours:,.1f}" if hours >= 0.1 else "< 0.1"


def _tuning_hours(plan: Plan) -> str:
    text = _hours(plan.hours[0])
    return text.replace("at most", "by its FLOPs alone") if plan.models.is_low_rank else text


def _hours(hours: float | None) -> str:
    return "" if hours is None else f", {hours:,.1f} hours at most"


def table(rows: Iterable[tuple[str, ...]], remarks: Iterable[str] = ()) -> list[str]:
    """Lines with aligned columns: the first left, numbers right, and the remarks after them."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for (first, *others), remark in zip_longest(lines, remarks, fillvalue=""):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        text.append("  ".join(["", first.ljust(widths[0]), *cells, remark]).rstrip())
    return text
