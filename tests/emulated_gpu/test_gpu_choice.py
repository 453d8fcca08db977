"""Jobs side by side take different GPUs, and each computes on its own."""

import subprocess
import sys

CODE = """
import os, sys, torch
place = torch.zeros(2, device="cuda").device
print(os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.device_count(), place, flush=True)
sys.stdin.read()
"""


def test_two_jobs_have_two_cards(repository, monkeypatch):
    monkeypatch.setenv("EMULATED_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = [sys.executable, "-m", "xft.common.gpus", "1", sys.executable, "-c", CODE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    jobs = [subprocess.Popen(words, cwd=repository, text=True, **pipes) for _ in range(2)]
    seen = sorted(job.stdout.readline().strip() for job in jobs)
    for job in jobs:
        job.communicate()
    assert seen == ["0 1 cuda:0", "1 1 cuda:0"]
