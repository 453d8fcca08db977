"""The formats of the files that say more of a model than its evaluation."""

from xft.artifacts.manifest import ResultFormat

# The loss, its model, the loss and the number of tokens of each row, and `change_at_end` of the
# training that the model comes from.
LOSS_RESULT = ResultFormat("validation", "validation_loss", 2, "rows")
# How far the experts lie apart: spread, deviation, shift, layers, experts, ffn, base and routing.
DIVERSITY = ResultFormat("diversity", "diversity", 1, "spread")
# The numbers of a training's rows, all and contaminated ones, and the SHA-256 of the problems.
CONTAMINATION = ResultFormat("contamination", "contamination", 1, "contaminated")
