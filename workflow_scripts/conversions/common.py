"""What the conversions share."""

from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.checkpoints.writer import TensorPlan


def copy_plan(source: Checkpoint, name: str, new_name: str | None = None) -> TensorPlan:
    """A tensor of `source`, unchanged, under its own or a new name."""
    return TensorPlan(
        new_name or name, source.dtype(name), source.shape(name), lambda: [source.get(name)]
    )
