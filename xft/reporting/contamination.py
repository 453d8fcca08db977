"""Files that say how many rows of a training contain a problem of an evaluation set."""

from xft.artifacts.results import ResultFormat

# The numbers of rows, all and contaminated ones, and the SHA-256 of the problems.
CONTAMINATION = ResultFormat("contamination", "contamination", 1, "contaminated")
