"""Changes of a configuration that make its trainings fit the memory of a device."""

import json
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from operator import ge

from xft.common.errors import UserError
from xft.config.recorded import values_to_change
from xft.config.runs import overlaid
from xft.config.validation import complete
from xft.estimates.parameters import Models
from xft.estimates.processors import GIB
from xft.estimates.report import Plan, duration, memory_text

GAPS = 0.05  # the part of the memory that is lost between tensors; assumed
ERROR = 0.25  # how much more than its estimate a peak may be
SHARDING = ("zero2", "fsdp", "zero3")  # launches, from the one that exchanges the least
PROCESSES = (2, 4, 8)  # in place of one
EACH = "each of these on top of the config; LoRA, bf16_pure and adafactor change results"
NO_CHANGE = "no other precision, batch or launch, and not with LoRA experts"
WIDTH = 110


def advice(plan: Plan) -> Iterator[str]:
    """Which trainings fit the device, and changes with which the others do."""
    device = f"an {plan.gpu}" if plan.gpu else "this machine"
    large = [section for section in plan.trainings if not fits(plan, section)]
    small = ", ".join(section for section in plan.trainings if section not in large)
    yield (
        f"Fit: {device} has {plan.processor.memory:.1f} GiB; keep {GAPS:.0%} of it free."
        f" It fits: {small or 'none'}. Too large: {', '.join(large) or 'none'}"
    )
    if tight := [s for s in plan.trainings if s not in large and not fits(plan, s, ERROR)]:
        yield f"  {', '.join(tight)}: not if the peak is {ERROR:.0%} above its estimate"
    for section in large:
        fitting = [*ways(plan, section)]
        # The fastest first; LoRA experts, whose hours are a lower limit, last.
        fitting.sort(key=lambda way: ("moe" in way[0], way[1].training_hours(section) or 0))
        yield f"  {section} fits with {EACH if fitting else NO_CHANGE}"
        yield from (_described(section, *way) for way in fitting)


def fits(plan: Plan, section: str, error: float = 0, expected: bool = False) -> bool:
    """Whether a training fits: on a GPU for each process, or with all processes on this machine.

    error: how much more than its estimate the peak is.
    expected: with rows as they are.
    """
    needed = (1 + error) * _together(plan, section) * plan.peak(section, expected)
    return needed <= (1 - GAPS) * plan.processor.memory * GIB


def _together(plan: Plan, section: str) -> int:
    """The number of processes that share the device."""
    return 1 if plan.gpu else plan.job(section).processes


def fit_line(plan: Plan) -> str:
    """Whether all trainings fit the device, and what the largest one needs."""
    device = f"{plan.gpu or 'this machine'} ({plan.processor.memory:.1f} GiB)"
    if not plan.trainings:
        return f"Fits {device}: there is no training"

    def all_fit(error: float, expected: bool = False) -> bool:
        return all(fits(plan, section, error, expected) for section in plan.trainings)

    answer = "no"
    if all_fit(ERROR):
        answer = "yes"
    elif all_fit(0):
        answer = f"yes, if the estimate is not {ERROR:.0%} too low"
    elif all_fit(ERROR, expected=True):
        answer = "yes, but not if every row filled the window"
    largest = max(plan.trainings, key=lambda section: _together(plan, section) * plan.peak(section))
    expected, most = (memory_text(plan.peak(largest, kind)) for kind in (True, False))
    count = f"{_together(plan, largest)} x " if _together(plan, largest) > 1 else ""
    needs = f"{count}{expected}" + (f", at most {most}" if plan.lengths else " at most")
    return f"Fits {device}: {answer}. {largest} needs {needs}"


def ways(plan: Plan, section: str) -> Iterator[tuple[dict, Plan]]:
    """Changed keys with which a training fits, and the plan with them.

    Each needs all of its kinds of changes. The global batch stays the same.
    """
    values, sufficient = values_to_change(plan.config), []
    for kinds in product((False, True), repeat=5):
        if not any(all(map(ge, kinds, fewer)) for fewer in sufficient):
            for changes in _changes(plan, section, *kinds):
                changed = _changed(plan, values, changes)
                if changed and fits(changed, section):
                    sufficient.append(kinds)
                    yield changes, changed
                    break


def _changes(
    plan: Plan, section: str, low_rank: bool, shards: bool, fewer: bool, again: bool, pure: bool
) -> Iterator[dict]:
    """Changed keys of these kinds, the fastest first. The kinds stand from the slowest on.

    fewer: rows in a forward pass.
    again: the computation of activations.
    pure: bf16.
    """
    job, options = plan.job(section), dict(getattr(plan.config, section))
    others = {"moe": {"experts": "lora"}} if low_rank else {}
    others |= {"gpus": 1} if shards and not plan.config.gpus else {}
    keys = {"precision": "bf16_pure", "optim": "adafactor"} if pure else {}
    keys |= {"activation_checkpointing": True} if again else {}
    counts = PROCESSES if job.processes == 1 and shards else (job.processes,)
    launches = (SHARDING if plan.gpu else ()) if shards else (job.launch,)
    for count, launch in product(counts, launches):
        keys |= {"launch": launch, "processes": count // options["nodes"]}
        most = options["per_device_train_batch_size"]
        sizes = [n for n in range(most, 0, -1) if job.global_batch % (n * count) == 0]
        for size in sizes[1:] if fewer else sizes[:1]:
            keys["per_device_train_batch_size"] = size
            keys["gradient_accumulation_steps"] = job.global_batch // (size * count)
            new = {key: value for key, value in keys.items() if value != options[key]}
            yield ({section: new} if new else {}) | others


def _changed(plan: Plan, values: dict, changes: dict) -> Plan | None:
    """The plan of a changed configuration; None if it is not allowed."""
    with suppress(UserError):
        config = complete(overlaid(values, changes))
        models = Models(plan.models.base, config.moe)
        return replace(plan, config=config, models=models, processes=None)


def _described(section: str, changes: dict, plan: Plan) -> str:
    """Changed keys as YAML, and with them the memory of each process and the hours."""
    memory = f"{plan.job(section).processes} x {memory_text(plan.peak(section))}"
    lead = f"{memory:>15}, {duration(plan.training_hours(section)):>5} hours  "
    text = json.dumps(changes).replace('"', "")  # no value needs quotes
    return textwrap.fill(lead + text, WIDTH, subsequent_indent=" " * len(lead))
