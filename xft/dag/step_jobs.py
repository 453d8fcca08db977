"""The resources and the environment of the jobs of each step.

Nothing of this changes a result. No step imports this module, so it is not in the hash of a step's
code: an edit here makes nothing again.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """The request of a job's first attempt. mem_mb: 10^6 bytes of memory on one node."""

    mem_mb: int
    minutes: int


@dataclass(frozen=True)
class StepJob:
    """The job of a step.

    cost: None if it follows from the size of the model.
    online: whether it may use the network.
    threads: whether it uses the configured number of threads.
    generates: whether it loads a model to evaluate it.
    minutes: of such a job, if they do not follow from the size of the model.
    continues: whether a second attempt goes on where the first one ended.
    """

    cost: Request | None = None
    online: bool = False
    threads: bool = False
    generates: bool = False
    minutes: int | None = None
    continues: bool = False


TRAINING = StepJob(continues=True)
TABLES = StepJob(cost=Request(1000, 5))

STEP_JOBS = {
    "base": StepJob(cost=Request(4000, 120), online=True),
    "moe": StepJob(),
    "fetch_data": StepJob(cost=Request(1000, 60), online=True),
    "fetch_problems": StepJob(cost=Request(1000, 60), online=True),
    "tokens": StepJob(cost=Request(8000, 120), threads=True),
    "moe_sft": TRAINING,
    "sft": TRAINING,
    "soup": StepJob(),
    "ffn": StepJob(),
    "contamination": StepJob(cost=Request(8000, 120), threads=True),
    "diversity": StepJob(),
    "weighted_init": StepJob(cost=Request(3000, 10)),
    "weighted_trained": TRAINING,
    "dense": StepJob(),
    "ground_truth": StepJob(cost=Request(8000, 120), threads=True),
    "eval": StepJob(generates=True, continues=True),
    "validation_loss": StepJob(generates=True, minutes=60),
    "choose": TABLES,
    "measure_chosen": StepJob(threads=True, continues=True),
    "summary": TABLES,
    "report": TABLES,
}
