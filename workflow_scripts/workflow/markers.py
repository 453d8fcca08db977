"""Files by whose times Snakemake knows which artifacts are to be made again.

Snakemake itself compares times and its own records. Both are lost when results are copied, so here
manifests decide. Each rule has a marker as an input. The marker of an artifact that fits is as old
as can be. The marker of an outdated artifact is newer than the artifact. All other inputs are
`ancient`, but for the manifests of artifacts that are made again.
"""

import os
import time
from pathlib import Path

from workflow_scripts.artifacts.manifest import manifest_path
from workflow_scripts.workflow.state import State, Verdict
from workflow_scripts.workflow.wanted import Wanted

FOLDER = Path(".snakemake/xft")
# Of a smaller file Snakemake would compare the content. It takes no room: it is one hole.
SIZE = 2**20


def marker_path(wanted: Wanted) -> Path:
    """Where the marker of an artifact lies, in the working folder.

    It is absolute, and alone in its folder: Snakemake lists each folder once, and takes files that
    come later for missing.
    """
    place = wanted.place.absolute() if ".." in wanted.place.parts else wanted.place
    return Path.cwd() / FOLDER / str(place).strip("/") / "marker"


def set_marker(wanted: Wanted, verdict: Verdict) -> Path:
    """Set the marker of an artifact; its path."""
    marker = marker_path(wanted)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    os.truncate(marker, SIZE)
    if verdict.state is not State.OUTDATED:
        os.utime(marker, (0, 0))
        return marker
    manifest = manifest_path(wanted.place)
    now = time.time()
    if manifest.stat().st_mtime >= now:  # from a machine whose clock is ahead
        os.utime(manifest, (now - 1, now - 1))
    os.utime(marker, (now, now))
    return marker
