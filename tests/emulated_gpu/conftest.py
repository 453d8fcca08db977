"""Tests on the emulated GPU, which `make test-gpu` builds. README.md says what they prove."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """They are slow, and are skipped in a process that has not loaded the emulated GPU."""
    is_there = "libemulatedgpu" in os.environ.get("LD_PRELOAD", "")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if not is_there:
                reason = "no emulated GPU in this process: `make test-gpu` builds it and runs this"
                item.add_marker(pytest.mark.skip(reason=reason))
