"""Trackers that get metrics too: TensorBoard, Weights & Biases, MLflow.

transformers' own callbacks report the metrics. This module sets the place and the name of the run,
and a training that continues from a checkpoint continues its run. No tracker gets the environment,
the source code or the output.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

PROJECT = "xft"
TRAINING_TAG = "training"  # tag of an MLflow run with the training that it belongs to
PER_EXPERT = {"load", "importance", "shares"}  # these have too many values to draw a curve for each


@dataclass(frozen=True)
class Tracking:
    """The trackers of a training.

    trackers: their names. folder: where they write, unless the environment names a server. run: the
    name of the run.
    """

    trackers: list[str]
    folder: Path
    run: str

    def callbacks(
        self, training: str, last_step: int, statistics: Callable[[], dict]
    ) -> list[TrainerCallback]:
        """The callbacks for a training that continues after `last_step`, or begins (0).

        training: its identity. statistics: gives more values to report with each loss.
        """
        build = {
            "tensorboard": partial(self._tensorboard, last_step),
            "wandb": partial(self._wandb, training),
            "mlflow": partial(self._mlflow, training),
        }
        return [build[tracker](statistics) for tracker in self.trackers]

    def _tensorboard(self, last_step: int, statistics) -> TrainerCallback:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / "tensorboard" / self.run
        # Values from after this step are removed: the training computes them again.
        writer = SummaryWriter(str(folder), purge_step=last_step + 1)
        return _reporting(TensorBoardCallback, statistics)(writer)

    def _wandb(self, training: str, statistics) -> TrainerCallback:
        import wandb

        os.environ.setdefault("WANDB_MODE", "offline")
        self.folder.mkdir(parents=True, exist_ok=True)
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self.run,
            id=training,
            resume="allow",
            dir=self.folder,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        return _reporting(_FinishedWandb, statistics)()

    def _mlflow(self, training: str, statistics) -> TrainerCallback:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ["MLFLOW_TRACKING_URI"] = (self.folder / "mlflow").resolve().as_uri()
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", PROJECT)
        os.environ["MLFLOW_RUN_ID"] = self._mlflow_run(training)
        return _reporting(MLflowCallback, statistics)()

    def _mlflow_run(self, training: str) -> str:
        """The id of a training's run. The run is created if there is none."""
        import mlflow

        experiment = mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"]).experiment_id
        client = mlflow.MlflowClient()
        same = f"tags.{TRAINING_TAG} = '{training}'"
        runs = client.search_runs([experiment], same, max_results=1)
        if not runs:
            tags = {TRAINING_TAG: training}
            runs = [client.create_run(experiment, tags=tags, run_name=self.run)]
        return runs[0].info.run_id


class _FinishedWandb(WandbCallback):
    """Ends the run with the training, so that everything is written when the step ends."""

    def on_train_end(self, args, state, control, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        self._wandb.finish()


def _reporting(callback: type[TrainerCallback], statistics: Callable[[], dict]) -> type:
    """The callback class, extended to report the statistics of each layer too."""

    class Reporting(callback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            more = curves(statistics()) if "loss" in logs else {}
            super().on_log(args, state, control, logs=logs | more, **kwargs)

    return Reporting


def curves(statistics: dict) -> dict[str, float]:
    """The numbers in nested lists, each named by its list and its index in it."""
    found = {}
    waiting = [(name, value) for name, value in statistics.items() if name not in PER_EXPERT]
    for name, value in waiting:
        if isinstance(value, list):
            waiting += [(f"{name}/{index}", item) for index, item in enumerate(value)]
        else:
            found[name] = value
    return found
