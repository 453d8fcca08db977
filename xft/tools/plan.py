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
from xft.config.runs import find_runs, read_overlaid
from xft.config.section import Section
from xft.config.sections import BaseConfig, XftConfig
from xft.config.validation import complete
from xft.estimates.processors import CPU, DEFAULT_UTILISATION, GPUS, Processor

DEFAULT_GPU = "h100"


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)

    from xft.dag.contents import NoContents
    from xft.dag.experiment import Experiment
    from xft.dag.totals import totals
    from xft.estimates.report import report

    values = read_overlaid(args.config)
    runs, config, plan = find_runs(*values), complete(*values), planner(args)
    print(report(plan(config)))
    if len(runs) > 1:
        experiment = Experiment(config, runs, NoContents())
        print("\n".join(totals(experiment, plan)) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = flags.StepParser("xft plan", __doc__)
    flags.add_configs(parser, "The configuration", required=True)
    parser.add_argument(
        "--gpu",
        choices=GPUS,
        help=f"The type of GPU: for another one name the most similar, and give --flops. Default: "
        f"{DEFAULT_GPU} if the config asks for GPUs, else the CPU.",
    )
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="Number of GPUs. Default: as in the config."
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=DEFAULT_UTILISATION,
        metavar="X",
        help="The share of a GPU's peak FLOPs that a training reaches, an assumption. "
        f"Default: {DEFAULT_UTILISATION}.",
    )
    parser.add_argument(
        "--flops",
        type=float,
        metavar="X",
        help="FLOPs a second that a training reaches in each process, instead of --mfu. On a CPU "
        "hours are unknown without it. docs/planning.md says how to measure it.",
    )
    help_of_file = "The base's config.json, if this machine cannot reach the model."
    parser.path("--model-config", "FILE", help_of_file, required=False)
    parser.add_argument(
        "--rows", type=int, metavar="N", help="Number of rows, if they are not on this machine."
    )
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

    def once(make, section: Section, *given):
        key = repr(section)
        return known.get(key) or known.setdefault(key, make(section, *given))

    def make(config: XftConfig) -> Plan:
        models = Models(once(_find_base, config.base, args.model_config), config.moe)
        rows = once(count_rows, config.data, args.rows)
        on_gpu = args.gpu or args.gpus or config.gpus
        gpu = (args.gpu or DEFAULT_GPU) if on_gpu else None
        return Plan(config, models, rows, gpu, _processor(args, gpu), args.gpus)

    return partial(once, make)


def _processor(args: argparse.Namespace, gpu: str | None) -> Processor | None:
    """The processor with the FLOPs that a process reaches; None for a CPU of unknown speed."""
    if args.flops is None:
        return gpu and GPUS[gpu].reached(args.mfu)
    return replace(GPUS[gpu] if gpu else CPU, bf16=args.flops, fp32=args.flops)


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
