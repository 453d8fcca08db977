"""What a run says at its start, and after a failure."""

from collections.abc import Iterator
from pathlib import Path

from xft.cli.running import failure
from xft.config.recorded import CONFIG_FILE, chosen_values
from xft.config.sections import XftConfig, learns


def beginning(config: XftConfig) -> str:
    """The values that are not defaults, and what they leave out."""
    lines = ["The values of the configuration that are not defaults:"]
    lines += [f"  {key}: {value}" for key, value in chosen_values(config).items()]
    lines.append(f"All of it: {Path(config.results_dir) / CONFIG_FILE}")
    if not all(map(learns, config.merge.lambdas)):
        lines.append(
            "With lambda 1 the routed experts have no weight, and step 6 has nothing to learn: it "
            "is left out for this lambda."
        )
    return "\n".join(lines)


def failures(logs: Path, since: float) -> Iterator[str]:
    """The message of each step that failed, from its log. since: the time when the run began."""
    files = [log for log in logs.rglob("*.log") if log.is_file() and log.stat().st_mtime >= since]
    for log in sorted(files):
        if message := failure(log.read_text(errors="replace")):
            yield f"{message}\n(the whole log: {log})"
