"""The memory that the trainings of a results folder should take by the plan."""

from pathlib import Path

from xft.common.errors import UserError
from xft.config.recorded import recorded_config, recorded_values
from xft.config.runs import find_runs
from xft.dag.experiment import Experiment
from xft.dag.job_resources import requests
from xft.dag.wanted import NoContents
from xft.estimates.jobs import SECTIONS
from xft.estimates.resources import MB


def planned_memory(results: Path) -> dict[str, float]:
    """MB (10^6 bytes) at most of each training, by its path in the results folder.

    Empty if the folder has no configuration of this version, if the base is not on this machine,
    and with GPUs: the plan then counts their memory, and Snakemake measures the host's.
    """
    try:
        config, runs = recorded_config(results), find_runs(recorded_values(results))
        experiment = Experiment(config, runs, results, NoContents())
    except UserError:
        return {}
    peaks = {
        experiment.name(part): requests(part).peak(SECTIONS[part.step])
        for part in experiment.report.chain()
        if part.step in SECTIONS
    }
    return {name: peak / MB for name, peak in peaks.items() if peak is not None}
