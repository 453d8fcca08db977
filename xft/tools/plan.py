"""Estimate the memory, disk space and time that a configuration needs.

The plan reads the base's config.json, and the headers of its weights if they are on this machine.
Keys that the configuration leaves out have their documented defaults. docs/planning.md explains
how each figure is derived.
"""

import argparse
from pathlib import Path

from xft.cli import flags, running
from xft.common.errors import UserError
from xft.config.runs import Run, find_runs, read_overlaid
from xft.config.section import Section
from xft.config.sections import BaseConfig, XftConfig
from xft.config.validation import complete
from xft.estimates.gpus import GPUS

DEFAULT_GPU = "h100"
DEFAULT_UTILISATION = 0.3


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)

    from xft.estimates.report import report

    runs = find_runs(*read_overlaid(args.config))
    print(report(make_plan(args)))
    if len(runs) > 1:
        print("\n".join(_totals(args, runs)) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = flags.tool_parser("plan", __doc__)
    flags.add_configs(parser, "The configuration", required=True)
    parser.add_argument(
        "--gpu",
        choices=GPUS,
        help=f"The type of GPU. Default: {DEFAULT_GPU} if the config asks for GPUs, else the CPU.",
    )
    parser.add_argument(
        "--gpus", type=_count, metavar="N", help="Number of GPUs. Default: as in the config."
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=DEFAULT_UTILISATION,
        metavar="X",
        help="The share of a GPU's FLOPs that a training reaches, an assumption. "
        f"Default: {DEFAULT_UTILISATION}.",
    )
    parser.add_argument(
        "--model-config",
        type=Path,
        metavar="FILE",
        help="The base's config.json, if this machine cannot reach the model.",
    )
    parser.add_argument(
        "--rows", type=_count, metavar="N", help="Number of rows, if they are not on this machine."
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def make_plan(args: argparse.Namespace):
    """The plan for the parsed flags. Raises UserError."""
    return _planner(args)(complete(*read_overlaid(args.config)))


def _totals(args: argparse.Namespace, runs: list[Run]) -> list[str]:
    """The lines about all runs of the configuration together."""
    from xft.dag.experiment import Experiment
    from xft.dag.totals import totals
    from xft.dag.wanted import NoContents

    config = complete(*read_overlaid(args.config))
    return totals(Experiment(config, runs, config.results_dir, NoContents()), _planner(args))


def _planner(args: argparse.Namespace):
    """A function that gives the plan for a configuration. Files are read once for all of them."""
    from xft.estimates.jobs import configured_processes
    from xft.estimates.parameters import Models
    from xft.estimates.report import Plan
    from xft.estimates.rows import find_rows

    if not 0 < args.mfu <= 1:
        raise UserError(f"--mfu = {args.mfu:g}: must be greater than 0 and at most 1")
    known: dict[str, object] = {}

    def once(make, section: Section, given):
        key = repr(section)
        if key not in known:
            known[key] = make(section, given)
        return known[key]

    def plan(config: XftConfig):
        if (key := config.model_dump_json()) not in known:
            models = Models(once(_find_base, config.base, args.model_config), config.moe)
            processes = args.gpus or configured_processes(config)
            on_gpu = args.gpu or args.gpus or config.gpus
            gpu = (args.gpu or DEFAULT_GPU) if on_gpu else None
            rows = once(find_rows, config.data, args.rows)
            known[key] = Plan(config, models, rows, gpu, processes, args.mfu)
        return known[key]

    return plan


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


if __name__ == "__main__":
    running.run("plan", main)
