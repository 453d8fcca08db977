"""Files with a model's validation loss."""

from xft.artifacts.results import ResultFormat

# The loss, its model, and the loss and the number of tokens of each row.
LOSS = ResultFormat("validation", "validation_loss", 2, "rows")
