"""Estimate the memory, disk space and time that a configuration needs.

The plan reads the base's config.json, and the headers of its weights if they are on this machine.
Keys that the configuration leaves out have their documented defaults. docs/planning.md explains
how each figure is derived.
"""

import argparse
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

from xft.cli import flags
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.runs import find_runs, read_overlaid
from xft.config.section import Section
from xft.config.sections import BaseConfig, XftConfig
from xft.config.validation import complete
from xft.estimates.processors import CPU, DEFAULT_UTILISATION, GPUS, Processor, this_gpu

DEFAULT_GPU = "h100"
ASSUMED = f"Default: {DEFAULT_UTILISATION}, an assumption."
MEASURED = "On a CPU hours are unknown without it. docs/planning.md says how to measure it."


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)

    from xft.dag.contents import NoContents
    from xft.dag.experiment import Experiment
    from xft.dag.input_checks import check_number_of_rows
    from xft.dag.totals import totals
    from xft.estimates.advice import advice
    from xft.estimates.report import report

    say("Building the model without its weights: ten seconds to a minute.")
    values = read_overlaid(args.config)
    runs, config, plan = find_runs(*values), complete(*values), planner(args)
    print(report(plan(config)))
    print("\n".join(advice(plan(config))) + "\n")
    print("\n".join(totals(Experiment(config, runs, NoContents()), plan)) + "\n")
    if rows := plan(config).rows:
        check_number_of_rows(config, rows)


def _parser() -> argparse.ArgumentParser:
    parser = flags.StepParser("xft plan", __doc__)
    parser.configs("The configuration", required=True)
    parser.add_argument(
        *("--gpu", "--device"),
        choices=GPUS,
        metavar="GPU",
        help=f"The type of GPU: {', '.join(GPUS)}. For another one name the most similar, and give "
        f"--flops. Default: this machine's; without one {DEFAULT_GPU} if the config asks for GPUs, "
        "else the CPU.",
    )
    for flag, kind, meaning in (
        ("--gpus", int, "Number of GPUs. Default: as in the config."),
        ("--mfu", float, f"The share of a GPU's peak FLOPs that a training reaches. {ASSUMED}"),
        ("--flops", float, f"FLOPs that each process reaches, instead of --mfu. {MEASURED}"),
        ("--rows", int, "Number of rows, in place of counting those of data.train."),
    ):
        parser.add_argument(flag, type=kind, help=meaning, metavar="N" if kind is int else "X")
    parser.set_defaults(mfu=DEFAULT_UTILISATION)
    model_config = "The base's config.json, if this machine cannot reach the model."
    parser.path("--model-config", "FILE", model_config, required=False)
    return parser


def planner(args: argparse.Namespace):
    """A function that gives the plan for a configuration. Files are read once for all of them.

    Raises UserError.
    """
    from xft.estimates.parameters import Models
    from xft.estimates.report import Plan
    from xft.estimates.rows import count_rows

    for name, most in {"gpus": inf, "rows": inf, "flops": inf, "mfu": 1}.items():
        value = getattr(args, name)
        if value is not None and not 0 < value <= most:
            limit = " and at most 1" if most == 1 else ""
            raise UserError(f"--{name} = {value:g}: must be greater than 0{limit}")

    known: dict[str, object] = {}
    found = None if args.gpu else this_gpu()

    def once(make, section: Section, *given):
        key = repr(section)
        return known.get(key) or known.setdefault(key, make(section, *given))

    def make(config: XftConfig) -> Plan:
        models = Models(once(_find_base, config.base, args.model_config), config.moe)
        rows = once(count_rows, config.data, args.rows)
        return Plan(config, models, rows, *_device(args, config, found), args.gpus)

    return partial(once, make)


def _device(args, config: XftConfig, found) -> tuple[str | None, Processor]:
    """The type of GPU, None for the CPU, and the processor as a training uses it.

    found: the same for the GPU of this machine.
    """
    name = args.gpu or (DEFAULT_GPU if args.gpus or config.gpus else None)
    name, processor = found or (name, GPUS.get(name, CPU))
    if args.flops:
        return name, replace(processor, bf16=args.flops, fp32=args.flops)
    return name, processor.reached(args.mfu)


def _find_base(base: BaseConfig, model_config: Path | None):
    """The tensors of the base, from its weights' headers or its config.json. Raises UserError."""
    from xft.estimates.tensors import compute_table, has_weights, read_table
    from xft.hub.source import find_config

    if model_config is not None:
        return compute_table(model_config)
    try:
        found = find_config(base.model, base.revision)
    except UserError as error:
        raise UserError(
            f"{error}. Without a network, name the model's config.json, a small file, with "
            "--model-config"
        ) from None
    return read_table(found.parent) if has_weights(found.parent) else compute_table(found)
