"""Fetch the results of a configuration that a bucket holds, without the models.

These are the report, or if it is not there the tables, or if they are not there the evaluations and
losses, with what the report shows of trainings. The next run makes the rest.
"""

from xft.cli.step import StepParser
from xft.common.errors import UserError, did_you_mean
from xft.store import others
from xft.tools.push import arguments, check_url, show
from xft.tools.status import configured_run


def main(argv: list[str] | None = None) -> None:
    parser = arguments(StepParser("xft pull", __doc__))
    meaning = "Names in RESULTS, such as moe_sft, in place of the results."
    parser.add_argument("names", nargs="*", metavar="NAME", help=meaning)
    args = parser.parse_args(argv)
    check_url(args.url)
    run, _ = configured_run(args)
    run.stores, run.only_results = [args.url], True
    known = run.experiment.by_name
    for name in args.names:
        if name not in known:
            raise UserError(f"{name} is no result of this configuration{did_you_mean(name, known)}")
    targets = [known[name] for name in args.names] or [run.experiment.report]
    if args.dry_run:
        offer = run.offer()
        files = offer.files(run.offered(targets, offer))
        show({node.name: others.size_of(files[node]) for node in files}, "To fetch")
        return
    run.check()
    run.begin(targets)
    run.close()
