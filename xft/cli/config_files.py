"""Checks the configuration that snakemake is given, before it reads it. The profiles call it.

Snakemake reads it before the Snakefile, and shows a stack trace for a fault.
"""

import argparse
import sys
from pathlib import Path

from xft.common.errors import UserError
from xft.config.text import read_config


def check_config_files() -> None:
    """End the process with one message if the words after --configfile or --config cannot be read.

    Both options take all words that follow.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    parser.add_argument("--config", "-C", nargs="*", default=[])
    given = parser.parse_known_args()[0]
    try:
        for file in map(Path, given.configfile):
            if file != Path(given.configfile[0]) and (file.is_dir() or not file.exists()):
                raise UserError(
                    f"--configfile: there is no file {file}. All words after --configfile are "
                    "files. Write the names of results before it"
                )
            read_config(file)
        for word in given.config:
            _check_setting(word)
    except UserError as error:
        sys.exit(str(error))


def _check_setting(word: str) -> None:
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(
            f"--config {word}: there is no =. All words after --config are KEY=VALUE, in quotes "
            "where they hold blanks. Write the names of results before it"
        )
    section, dot, key = name.partition(".")
    if dot:
        raise UserError(f"--config {word}: write --config '{section}={{{key}: {value}}}'")
