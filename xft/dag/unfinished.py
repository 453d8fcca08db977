"""What a results folder shows in place of a summary that is missing."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xft.common.errors import UserError
from xft.config.recorded import changes, recorded_config
from xft.config.sections import WorkflowConfig
from xft.store.store import PLANS

EARLIER = "These tables are of an earlier configuration. Changed since then: "


def earlier_tables(results: Path, config: WorkflowConfig) -> tuple[str, str]:
    """The tables that a results folder shows, after what a configuration changes of theirs.

    Both are empty if it shows none.
    """
    file, changed = results / "summary.md", []
    if not file.is_file():
        return "", ""
    with suppress(UserError):  # of another version
        changed = list(changes(recorded_config(results), config))
    text = file.read_text(encoding="utf-8")
    if text.startswith(EARLIER):
        first, _, rest = text.partition("\n")
        return "; ".join([first.removeprefix(EARLIER), *changed]), rest.partition("\n\n")[2]
    if file.resolve().parent.name == PLANS:
        return "", ""
    return "; ".join(changed) or "a file or the code", text


def unfinished(missing: Sequence[str], wanted: int, changed: str, tables: str) -> str:
    """The text in place of a summary.

    missing: the names of the missing ones of all `wanted` results. changed, tables: from
    `earlier_tables`.
    """
    count = f"{len(missing)} of {wanted} results"
    end = "missing (when the last run began or ended). Run snakemake without a target to make them."
    if tables:
        first = f"{EARLIER}{changed}\n{count} of the present one are {end}"
        return f"{first}\n\n{tables}"
    names = "".join(f"- {name}\n" for name in missing)
    return f"There are no tables yet: {count} are {end}\n\n{names}"
