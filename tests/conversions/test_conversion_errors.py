"""Bad input to the conversions, and disks that do not take their output."""

import json
import shutil
from pathlib import Path

import pytest
from chains import Chain, run_here
from damage import flip_a_bit

from xft.artifacts.manifest import manifest_path
from xft.common.errors import UserError
from xft.common.file_access import explain, write_whole

SINGLE = "model.safetensors"


def run(step: str, out: Path, **flags) -> None:
    """Run a step in this process: run("ffn", out, moe=folder)."""
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    run_here(step, [*words, "--out", str(out)])


def make(folder: Path, model: Path, *moe_flags: str) -> dict[str, Path]:
    """All artifacts from the base to the dense model; the mixture stays untrained."""
    sizes = ["--num-experts", "4", "--num-experts-per-tok", "2"]
    made = Chain(folder, {"base": ["--model", model], "moe": [*sizes, *moe_flags]})
    same_names = {name: made[name] for name in ("base", "moe", "ffn", "dense")}
    return same_names | {"weighted": made["weighted_init"]}


@pytest.fixture(scope="module")
def chain(tmp_path_factory, tiny_llama) -> dict[str, Path]:
    """Artifacts that belong together, and others. Read only.

    other_moe and so on are of another seed: of the same shapes, but of another mixture. bare_ffn
    has no manifest.
    """
    folders = [tmp_path_factory.mktemp(name) for name in ("chain", "other")]
    own = make(folders[0], tiny_llama)
    other = make(folders[1], tiny_llama, "--seed", "7")
    bare = shutil.copytree(own["ffn"], folders[1] / "bare")
    return own | {f"other_{name}": path for name, path in other.items()} | {"bare_ffn": bare}


FOREIGN = "was not extracted from .* but from another mixture"


def test_artifacts_that_do_not_belong_together_are_refused(tmp_path, chain):
    for step, inputs, message in (
        ("weighted_init", "moe=moe ffn=other_ffn", FOREIGN),
        ("weighted_init", "moe=moe ffn=bare_ffn", "was not extracted from"),
        ("dense", "weighted=weighted moe=moe ffn=other_ffn", FOREIGN),
        ("dense", "weighted=other_weighted moe=moe ffn=ffn", "belongs to another ffn than"),
        ("moe", "base=ffn", "is of kind ffn, not base or dense"),
        ("dense", "weighted=ffn moe=moe ffn=ffn", "is of kind ffn, not weighted_"),
    ):
        flags = {flag: chain[name] for flag, name in (pair.split("=") for pair in inputs.split())}
        flags |= {"lam": "0.5"} if step == "weighted_init" else {}
        with pytest.raises(UserError, match=message):
            run(step, tmp_path / "out", **flags)
        assert list(tmp_path.iterdir()) == []


# Models that do not fit


def test_what_cannot_be_extracted_is_refused(tmp_path, chain, tiny_llama):
    with pytest.raises(UserError, match="no layer holds experts: not an upcycled model"):
        run("ffn", tmp_path / "out", moe=tiny_llama)
    for experts in ("full", "lora"):
        flags = ["--no-shared-expert", "--experts", experts]
        vanilla = Chain(tmp_path / experts, {"moe": flags}, base=chain["base"])["moe"]
        with pytest.raises(UserError, match=r"has no shared expert \(vanilla upcycling\)"):
            run("ffn", tmp_path / "out", moe=vanilla)


def test_a_base_whose_config_names_no_class_goes_all_the_way(tmp_path, model):
    config = json.loads((model / "config.json").read_text())
    del config["architectures"]
    (model / "config.json").write_text(json.dumps(config))
    made = make(tmp_path / "results", model)
    assert json.loads((made["dense"] / "config.json").read_text()) == config
    assert "A llama of the base's architecture" in (made["dense"] / "README.md").read_text()


# Bytes


def test_every_step_can_check_every_byte_first(tmp_path, chain, call_step, repository):
    for step, given, altered in (
        ("moe", ["base"], "base"),
        ("moe_sft", ["moe", "data"], "moe"),
        ("weighted_trained", ["weighted", "moe", "ffn", "data"], "weighted"),
        ("dense", ["weighted", "moe", "ffn"], "ffn"),
        ("eval", ["model", "dataset", "sandbox"], "model"),
    ):
        flags = chain | {"model": chain["dense"], "data": repository / "rows", "sandbox": "none"}
        flags["dataset"] = repository / "resources" / "problems.jsonl"
        shutil.copy(manifest_path(flags[altered]), tmp_path)
        flags[altered] = place = shutil.copytree(flags[altered], tmp_path / flags[altered].name)
        flip_a_bit(place / SINGLE)
        words = [word for flag in given for word in (f"--{flag}", flags[flag])]
        result = call_step(step, *words, "--out", tmp_path / "out", "--verify", "full")
        assert result.returncode == 1
        fault = f"{place / SINGLE} was altered: its SHA-256 is not the manifest's"
        assert f"{step}: error: {place} does not fit its manifest: {fault}" in result.stderr
        assert not (tmp_path / "out").exists()


# Disks


def test_a_full_disk_is_one_message_and_leaves_nothing(mount, call_step, chain):
    disk = mount("size=100k")
    result = call_step("moe", "--base", chain["base"], "--out", disk / "moe")
    assert result.returncode == 1
    assert result.stderr.startswith(f"moe: error: No space left on device: {disk / 'moe'} needs 0.")
    assert result.stderr.endswith(". Nothing was changed.\n")
    assert len(result.stderr.splitlines()) == 1
    assert list(disk.iterdir()) == []
    free = shutil.disk_usage(disk).free / 1e6
    assert free > 0.1 and f" MB. The disk has {free:.1f} MB free: make room" in result.stderr
    with pytest.raises(OSError) as caught:
        write_whole(disk / "table", "x" * 200_000)
    assert explain(caught.value).startswith(f"No space left on device ({disk}/table). The disk has")
