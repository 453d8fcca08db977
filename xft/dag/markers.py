"""Sets the times of marker files, which show Snakemake the artifacts to make again.

Snakemake itself compares times and its own records. A copy of the results loses both, so here
manifests decide. Each rule has a marker as an input. The marker of a current artifact has the
oldest possible time. The marker of an outdated artifact is newer than the artifact. All other
inputs are `ancient`, except the manifests of artifacts that are made again.
"""

import os
import time
from pathlib import Path

from xft.artifacts.manifest import manifest_path
from xft.dag.state import State, Verdict
from xft.dag.wanted import Wanted

FOLDER = Path(".snakemake/xft")
# Snakemake would compare the content of a smaller file. The file is sparse and needs no disk space.
SIZE = 2**20


def marker_path(wanted: Wanted) -> Path:
    """The absolute path of an artifact's marker, below the working folder.

    Each marker has its own folder: Snakemake lists a folder once, and treats later files as
    missing.
    """
    place = wanted.place.absolute() if ".." in wanted.place.parts else wanted.place
    return Path.cwd() / FOLDER / str(place).strip("/") / "marker"


def set_marker(wanted: Wanted, verdict: Verdict) -> Path:
    """Set the marker of an artifact. Returns its path."""
    marker = marker_path(wanted)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    os.truncate(marker, SIZE)
    if verdict.state is not State.OUTDATED:
        os.utime(marker, (0, 0))
        return marker
    now = time.time()
    for file in (manifest_path(wanted.place), wanted.place):
        # Written on a machine with a clock that is ahead.
        if file.is_file() and file.stat().st_mtime >= now:
            os.utime(file, (now - 1, now - 1))
    os.utime(marker, (now, now))
    return marker
