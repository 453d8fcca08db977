"""Checks the config files that snakemake is given, before it reads them. The profiles call it.

Snakemake reads them before the Snakefile, and shows a stack trace for a fault.
"""

import argparse
import sys
from pathlib import Path

from xft.common.errors import UserError
from xft.config.text import read_config


def check_config_files() -> None:
    """End the process with one message if a file after --configfile cannot be read."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    try:
        for file in parser.parse_known_args()[0].configfile:
            read_config(Path(file))
    except UserError as error:
        sys.exit(str(error))
