"""SIGKILL at random moments of each step that makes an artifact: all or nothing is there."""

import random
import time
from pathlib import Path

import pytest
from chains import Chain
from processes import run_apart, run_for

from xft.artifacts.manifest import find_faults, manifest_path, read_manifest

pytestmark = pytest.mark.slow
KILLS = 8
CHAIN = ("base", "moe", "moe_sft", "ffn", "weighted_init", "weighted_trained", "dense")
STEPS = (*CHAIN, "import_reference")
TRAINING = ["--max-steps", "2", "--per-device-train-batch-size", "2", "--max-length", "200"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, repository, tiny_llama) -> dict[str, list[str]]:
    """The arguments of each step but its --out, with inputs that belong together."""
    root = tmp_path_factory.mktemp("inputs")
    rows = root / "rows.jsonl"
    rows.write_text('{"instruction": "add", "response": "a + b"}\n' * 4)
    options = {
        "base": ["--model", tiny_llama],
        "moe": [],
        **dict.fromkeys(("moe_sft", "weighted_trained"), TRAINING),
    }
    chain = Chain(root, options, run_apart, data=rows)
    published = str(repository / "tests" / "golden" / "a_8x_top6" / "checkpoint")
    return {
        **{step: chain.words(step) for step in CHAIN},
        "import_reference": ["--model", published],
    }


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
    assert run_for(step, [*arguments[step], "--out", str(tmp_path / "undisturbed")])
    duration = time.perf_counter() - start
    expected = contents(tmp_path / "undisturbed")
    out = tmp_path / "out"
    words = [*arguments[step], "--out", str(out)]
    moments, killed = random.Random(step), 0
    while killed < KILLS:
        killed += not run_for(step, words, moments.uniform(0, duration))
        if is_whole(out):
            assert contents(out) == expected
    assert run_for(step, words)
    assert is_whole(out) and contents(out) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}{suffix}" for name in ("out", "undisturbed") for suffix in ("", ".manifest.json")
    )
    assert file_hashes(inputs) == before
