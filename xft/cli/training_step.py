"""Command line of the training steps, and errors in the processes of a training."""

import os
import time
from collections.abc import Callable
from functools import partial

from xft.cli import running
from xft.cli.step import Step
from xft.common.gpus import claim_gpus
from xft.common.optional import require
from xft.common.system import end_process, end_with_parent
from xft.config.section import keys
from xft.config.sections import MODEL_KINDS, RunConfig, TokensConfig
from xft.config.training import TrainingConfig
from xft.training.ranks import is_main_process
from xft.training.session import TrainingRequest, on_this_machine, tokens_options

SECONDS_FOR_FIRST = 30  # for an error of all processes, which the first one tells


class TrainingStep(Step):
    """A step that trains a model: with flags for the rows, the metrics and the training."""

    def __init__(self, name: str, description: str):
        super().__init__(name, description)
        self.path("--data", "FILE_OR_DIR", "The rows, or tokens from step tokens.")
        self.output("--metrics", "FILE", "File for each step's loss, JSONL.", required=False)
        if name in MODEL_KINDS:
            meaning = "File for the model's validation losses, for step validation_loss, JSON."
            self.output("--losses", "FILE", meaning, required=False)
        meaning = "File that is written if the training diverges, with the cause, JSON."
        self.output("--diverged", "FILE", meaning, required=False)
        meaning = "Folder for the trackers. Default: the folder metrics beside --out."
        self.output("--tracker-dir", "DIR", meaning, required=False, shared=True)
        self.add_options(TokensConfig)
        self.set_defaults(**dict.fromkeys(keys(TokensConfig)))  # a folder of tokens has its own

    @property
    def full(self) -> bool:
        """As for every step. One process compares the inputs for all."""
        return super().full and is_main_process()

    def request(self, training: type[TrainingConfig]) -> TrainingRequest:
        """The request in the parsed flags.

        Raises UserError if a value is wrong, a package that an option needs is not installed, a GPU
        is missing, or torchrun has not started the step.
        """
        args = self.args
        run = self.options(RunConfig)
        options = self.options(training)
        for choice in (*options.choices, *run.report_to):
            require(choice)
        claim_gpus(run.gpus)
        tokens = {key: getattr(args, key) for key in keys(TokensConfig)}
        given = {key: value for key, value in tokens.items() if value is not None}
        return TrainingRequest(
            step=self.name,
            data=args.data,
            out=args.out,
            metrics=args.metrics,
            losses=getattr(args, "losses", None),
            diverged=args.diverged,
            tracker_dir=args.tracker_dir or args.out.parent / "metrics",
            full=self.full,
            tokens=tokens_options(args.data, given),
            options=on_this_machine(options, self.name),
            run=run,
        )


def run(step: str, main: Callable[[list[str] | None], None]) -> None:
    """Run a step's main, also as one of the processes of a training."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    if is_main_process():
        running.run(step, main)
    else:
        running.run(step, partial(_after_first, main))
    if "RANK" in os.environ:
        end_process()


def _after_first(main: Callable[[list[str] | None], None], argv: list[str] | None) -> None:
    """Run a main. Its error waits for the first process, which has told it if it has the same.

    torchrun then ends this process.
    """
    try:
        main(argv)
    except Exception:
        time.sleep(SECONDS_FOR_FIRST)
        raise
