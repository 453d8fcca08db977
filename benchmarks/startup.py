"""Measures the start-up time of a step: `--help`, and a whole conversion of the embedded model.

Run it as `python -m benchmarks.startup`. Each time is the best of several runs. The time of `import
torch` is shown too.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = Path(__file__).parents[1] / "resources" / "base"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    commands = {
        "moe --help": ["-m", "workflow_scripts.moe", "--help"],
        "import torch": ["-c", "import torch"],
        "moe": ["-m", "workflow_scripts.moe", "--base", str(BASE), "--out", "moe"],
    }
    for name, words in commands.items():
        print(f"{name}: {min(seconds(words) for _ in range(repeats)):.2f} s")


def seconds(words: list[str]) -> float:
    """The time of a command in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
