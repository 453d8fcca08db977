"""Identifies a results folder, and a name that jobs ask for. It loads no configuration."""

from pathlib import Path

# This file, with this first line, identifies a results folder.
CONFIG_FILE = "config.yaml"
CONFIG_HEAD = (
    "# The completed configuration of these results. Each run of the workflow writes it.\n"
)
CHOSEN = "chosen.json"  # what step choose writes


def is_results_folder(results: Path) -> bool:
    """Whether a run of the workflow has written to this folder before."""
    try:
        with (results / CONFIG_FILE).open(encoding="utf-8") as file:
            return file.readline() == CONFIG_HEAD
    except (OSError, UnicodeDecodeError):
        return False
