"""SIGKILL at random moments of each step that makes an artifact: all or nothing is there."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from workflow_scripts import (
    base,
    dense,
    ffn,
    import_reference,
    moe,
    moe_sft,
    weighted_init,
    weighted_trained,
)
from workflow_scripts.checkpoints.manifest import find_faults, manifest_path, read_manifest

pytestmark = pytest.mark.slow
KILLS = 20
# A server without threads forks each process: a fork of the tests' own process, with the threads
# that earlier tests left in it, may wait for ever for a lock that none of its threads holds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["transformers.models.llama.modeling_llama", "workflow_scripts.training.trainer"]
)
TRAINING = ["--max-steps", "2", "--per-device-batch-size", "2", "--max-length", "200"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, repository, tiny_llama) -> dict[str, list[str]]:
    """The arguments of each step but its --out, with inputs that belong together."""
    root = tmp_path_factory.mktemp("inputs")
    rows = root / "rows.jsonl"
    rows.write_text('{"instruction": "add", "response": "a + b"}\n' * 4)
    at = {name: str(root / name) for name in ("base", "moe", "sft", "ffn", "init", "trained")}
    sources = ["--moe", at["sft"], "--ffn", at["ffn"]]
    data = ["--data", str(rows), *TRAINING]
    published = str(repository / "tests" / "golden" / "a_8x_top6" / "checkpoint")
    steps = {
        "base": ["--model", str(tiny_llama)],
        "moe": ["--base", at["base"]],
        "moe_sft": ["--moe", at["moe"], *data],
        "ffn": ["--moe", at["sft"]],
        "weighted_init": [*sources, "--lam", "0.75"],
        "weighted_trained": ["--weighted", at["init"], *sources, *data],
        "dense": ["--weighted", at["trained"], *sources],
        "import_reference": ["--model", published],
    }
    made = ("base", "moe", "moe_sft", "ffn", "weighted_init", "weighted_trained")
    for step, name in zip(made, at, strict=True):
        assert run(step, steps[step], Path(at[name]))
    return steps


STEPS = {
    step.__name__.split(".")[-1]: step
    for step in (base, moe, moe_sft, ffn, weighted_init, weighted_trained, dense, import_reference)
}


def run(step: str, words: list[str], out: Path, seconds: float | None = None) -> bool:
    """Run a step in a process of its own, killed after so many seconds. Whether it ended itself."""
    process = PROCESSES.Process(target=quiet, args=(step, [*words, "--out", str(out)]))
    process.start()
    process.join(seconds)
    process.kill()  # nothing, if it has ended
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def quiet(step: str, words: list[str]) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
        STEPS[step].main(words)


def is_whole(out: Path) -> bool:
    """Whether the artifact is there and fits its manifest to the byte; else it must be absent."""
    if not manifest_path(out).exists():
        return False
    assert find_faults(out, read_manifest(manifest_path(out)), full=True) == []
    return True


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_killed_at_any_moment_leaves_all_or_nothing(step, arguments, tmp_path, file_hashes):
    inputs = Path(arguments["moe"][1]).parent
    before = file_hashes(inputs)
    start = time.perf_counter()
    assert run(step, arguments[step], tmp_path / "undisturbed")
    duration = time.perf_counter() - start
    expected = contents(tmp_path / "undisturbed")
    out = tmp_path / "out"
    moments, killed = random.Random(step), 0
    while killed < KILLS:
        killed += not run(step, arguments[step], out, moments.uniform(0, duration))
        if is_whole(out):
            assert contents(out) == expected
    assert run(step, arguments[step], out)
    assert is_whole(out) and contents(out) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}{suffix}" for name in ("out", "undisturbed") for suffix in ("", ".manifest.json")
    )
    assert file_hashes(inputs) == before
