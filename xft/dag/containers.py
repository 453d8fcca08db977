"""The image of `snakemake --sdm apptainer`, and what the jobs in it can see."""

import os
from collections.abc import Iterable
from pathlib import Path

from xft.common.errors import UserError
from xft.common.refusals import nearest_folder

IMAGE = "xft.sif"  # in the working directory
BIND = "APPTAINER_BIND"  # the variable by which Apptainer learns what else jobs see
SHARED = ("HF_HOME",)  # variables with a folder that jobs need too


def check_image() -> None:
    """Raise UserError if the image is not in the working directory."""
    if not Path(IMAGE).is_file():
        raise UserError(
            f"--sdm apptainer: there is no image {Path(IMAGE).absolute()}. Build it in the "
            f"project's folder: apptainer build {IMAGE} containers/apptainer.def"
        )


def bind_folders(places: Iterable[Path]) -> None:
    """Let the jobs see these files and folders, shared ones, and what the user binds.

    Raises UserError as `bound_folders` does.
    """
    shared = [Path(os.environ[name]) for name in SHARED if os.environ.get(name)]
    users = filter(None, os.environ.get(BIND, "").split(","))
    folders = bound_folders([*places, *shared])
    os.environ[BIND] = ",".join(dict.fromkeys([*users, *folders]))


def bound_folders(places: Iterable[Path]) -> list[str]:
    """The folders of these files and folders, without those that Apptainer binds anyway.

    It binds the working directory. For what does not exist yet, the nearest folder above it counts,
    and for a model's folder of links also those of the files that the links lead to. Raises
    UserError if the name of a folder cannot stand in APPTAINER_BIND.
    """
    targets = [file.resolve() for place in places if place.is_dir() for file in place.glob("*")]
    folders = dict.fromkeys(map(nearest_folder, [*places, *targets]))
    outside = [str(f) for f in folders if not f.is_relative_to(Path.cwd())]
    for folder in outside:
        if {",", ":"} & set(folder):
            raise UserError(f"--sdm apptainer: {folder}: its name must hold no comma and no colon")
    return outside
