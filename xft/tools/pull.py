"""Fetch the results of a configuration that a bucket holds, without the models.

These are the evaluations and losses, with what the report shows of trainings. The next run makes
the tables and the report of them, in seconds. For a model, run `snakemake results/NAME` with the
bucket in `stores`.
"""

from xft.cli.step import StepParser
from xft.store import others
from xft.tools.push import arguments, check_url, show
from xft.tools.status import configured_run


def main(argv: list[str] | None = None) -> None:
    args = arguments(StepParser("xft pull", __doc__)).parse_args(argv)
    check_url(args.url)
    others.bucket(args.url).check()
    run, _ = configured_run(args, only_results_of=args.url)
    offer = run.offer()
    files = offer.files(run.offered(run.experiment.ends, offer))
    show({node.name: others.size_of(files[node]) for node in files}, "To fetch")
    if not args.dry_run:
        run.check()
        run.begin()
        run.close()
        others.bucket(args.url).check()
