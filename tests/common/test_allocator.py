"""Freed memory is used again, as the kernel counts it."""

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys
import torch
from xft.cli import running

def main(_):
    def faults():
        tensors = [torch.ones(2**21) for _ in range(4)]  # of 8 MiB each
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first = faults()
    for _ in range(20):
        last = faults()
    print((last - first) * resource.getpagesize() / 2**20)

running.run("step", main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is set up")
def test_a_step_uses_the_memory_of_freed_tensors_again():
    """20 rounds of 32 MiB need fewer new pages than two of them hold."""
    words = [sys.executable, "-c", ROUNDS]
    found = subprocess.run(words, check=True, capture_output=True, text=True)
    assert float(found.stdout) < 64
