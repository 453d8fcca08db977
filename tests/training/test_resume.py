"""A training that was stopped goes on from its newest whole checkpoint, and from no other's."""

import os
import re
import shutil
import signal
import subprocess
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest
from damage import flip_a_bit
from mixtures import low_rank_mixture
from safetensors.torch import load_file
from trainings import identity, learn, lines_of, outputs, stop_in, stopped_in

from xft.artifacts import artifact
from xft.artifacts.claims import OWNER, claimed
from xft.artifacts.manifest import hash_program, json_sha256, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig, RunConfig, TokensConfig
from xft.training import features, session
from xft.training.metrics import ProgressCallback

LENGTH = 8
FLAGS = ["--max-steps", LENGTH, "--per-device-train-batch-size", 4, "--learning-rate", 0.01]


@pytest.fixture(scope="module")
def words(chain) -> list:
    """The arguments of a training but for its outputs."""
    return [*chain.words("moe_sft"), *FLAGS]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory) -> Path:
    """What the training makes that is left alone."""
    out = tmp_path_factory.mktemp("whole") / "out"
    learn("moe_sft", out, *words)
    return out


def assert_same(out: Path, whole: Path) -> None:
    assert identity(out) == identity(whole)
    assert lines_of(out) == lines_of(whole)
    assert not list(out.parent.glob(".*"))


@pytest.fixture(scope="module")
def stopped_once(words, tmp_path_factory) -> Path:
    """A folder after a SIGTERM in step 3 and a Ctrl-C in step 5."""
    folder = tmp_path_factory.mktemp("stopped")
    for number, sent in ((3, signal.SIGTERM), (5, signal.SIGINT)):
        with stopped_in(number, sent):
            learn("moe_sft", folder / "out", *words)
    assert not (folder / "out").exists()
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """The place of the output, beside a copy of what was left there."""
    shutil.copytree(stopped_once, tmp_path / "copy")
    return tmp_path / "copy" / "out"


def checkpoints(out: Path) -> list[str]:
    found = out.parent.glob(f".{out.name}.training/*/checkpoint-*")
    return sorted(path.name for path in found if path.is_dir())


def checkpoint(out: Path, number: int) -> Path:
    (found,) = out.parent.glob(f".{out.name}.training/*/checkpoint-{number}")
    return found


def test_a_stopped_training_goes_on_to_the_same_bytes(words, stopped, whole, capfd, monkeypatch):
    """Another interval between checkpoints is the same training."""
    assert checkpoints(stopped) == ["checkpoint-3", "checkpoint-5"]
    save = Mock(wraps=features.SaveCallback)
    monkeypatch.setattr(features, "SaveCallback", save)
    learn("moe_sft", stopped, *words, "--save-minutes", 0.5)
    assert save.call_args.args[0] == 30  # seconds
    assert re.search(r"continuing from step 5\n", capfd.readouterr().err)
    assert_same(stopped, whole)


# The step, its flags, and the optimiser step in which a SIGTERM comes, in an epoch that is not the
# first.
PURE = "--batching packed --precision bf16_pure"
EMA, PARTS = "--ema-decay 0.9", "--gradient-accumulation-steps 2"
CALLBACKS = Path("examples/callbacks").resolve()
BALANCE = f"{CALLBACKS}/global_balance.py:GlobalBalance"
IDEAS = f"""{CALLBACKS}/random_routing.py:RandomRouting(averaging=0.1)
    {CALLBACKS}/outer_steps.py:OuterSteps(every=2) {CALLBACKS}/shuffling.py:Shuffling(share=0.1)"""
TOO_FAST = "--learning-rate 1 --lr-scheduler-type constant_with_warmup"  # step 1 is the best one
BY_LENGTH = "--batching by_length --per-device-train-batch-size 1"
WAYS = {
    "all at once": ("moe_sft", f"--callbacks {BALANCE} {PARTS} --batching packed {EMA}", 5),
    "callbacks": ("moe_sft", f"--callbacks {IDEAS}", 5),
    "8 bits": ("moe_sft", "--optim adamw_8bit", 5),
    "by length": ("moe_sft", f"{BY_LENGTH} --max-steps 16 --precision bf16_pure", 14),
    "LoRA experts": ("moe_sft", EMA, 3),
    "adapters": ("sft", "--lora-rank 4 --validation-rows 2 --eval-steps 1 --keep best", 5),
    "best before": ("sft", f"{TOO_FAST} --validation-rows 2 --eval-steps 1 --keep best", 5),
    "weight decay": ("sft", "--weight-decay 0.1", 5),
    "mixing": ("weighted_trained", f"{PARTS} {PURE}", 5),
}
EIGHT = pytest.param("8 bits", marks=[pytest.mark.ci, pytest.mark.needs("bitsandbytes")])


@pytest.mark.parametrize("way", [EIGHT if way == "8 bits" else way for way in WAYS])
def test_so_does_one_in_another_way(way, chain, tiny_llama, tmp_path):
    step, flags, number = WAYS[way]
    words = [*chain.words(step), *FLAGS, *flags.split()]
    if way == "LoRA experts":
        words[1] = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest="lora")
    learn(step, tmp_path / "whole", *words)
    with stopped_in(number):
        learn(step, tmp_path / "out", *words)
    kept = load_file(checkpoint(tmp_path / "out", number) / "learned.safetensors")
    if way in ("LoRA experts", "adapters"):
        assert all(".lora_" in name or ".router." in name for name in kept)
    learn(step, tmp_path / "out", *words)
    assert_same(tmp_path / "out", tmp_path / "whole")


def test_another_rate_begins_and_leaves_the_checkpoints(words, stopped, whole, capfd, tmp_path):
    other = [*words, "--learning-rate", 0.02]
    learn("moe_sft", stopped, *other)
    said = capfd.readouterr().err
    assert "continuing from" not in said
    kept = r"\.out\.training/\w+ holds checkpoints of a training with other .*, .* MB"
    assert re.search(kept, said)
    learn("moe_sft", tmp_path / "fresh", *other)
    assert identity(stopped) == identity(tmp_path / "fresh")
    shutil.rmtree(stopped)
    learn("moe_sft", stopped, *words)  # the old settings come back
    assert "continuing from" in capfd.readouterr().err
    assert_same(stopped, whole)


def test_another_version_of_a_package_begins(words, stopped, monkeypatch, capfd):
    """It may compute otherwise, so the result would be no training's."""
    monkeypatch.setattr(session, "version", lambda name: f"{version(name)}.1")
    learn("moe_sft", stopped, *words)
    assert "continuing from" not in capfd.readouterr().err


HELPED = """
from steps import COUNT
from transformers import TrainerCallback

class Mine(TrainerCallback):
    count = COUNT
"""


def test_so_does_another_file_that_a_callback_imports(words, tmp_path, capfd):
    file, imported, out = (tmp_path / name for name in ("mine.py", "steps.py", "out"))
    file.write_text(HELPED)
    imported.write_text("COUNT = 1\n")
    words = [*words, "--callbacks", f"{file}:Mine"]
    for number in (3, 5):
        with stopped_in(number):
            learn("moe_sft", out, *words)
    assert "continuing from step 3\n" in capfd.readouterr().err
    imported.write_text("COUNT = 2\n")
    learn("moe_sft", out, *words)
    assert "continuing from" not in capfd.readouterr().err


def test_processes_are_part_of_what_a_checkpoint_belongs_to():
    launches = ({}, {"processes": 2}, {"nodes": 2})
    place = Path("unused")
    of = partial(session.TrainingRequest, "moe_sft", place, place, None, place, False)
    options = [MoeSftConfig(launch="zero2", **launch) for launch in launches]
    requests = [of(one, TokensConfig(), RunConfig()) for one in options]
    assert len({json_sha256(request.parameters) for request in requests}) == len(launches)


def flip(*folders: Path) -> None:
    for folder in folders:
        flip_a_bit(folder / "learned.safetensors")


DAMAGE = {  # to the checkpoints of steps 5 and 3, and the one that is left
    "a flipped bit": (lambda last, _: flip(last), 3),
    "a missing file": (lambda last, _: (last / "rng_state.pth").unlink(), 3),
    "no manifest": (lambda last, _: manifest_path(last).unlink(), 3),
    "both": (flip, None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(words, stopped, whole, damage, capfd):
    change, left = DAMAGE[damage]
    change(*(checkpoint(stopped, number) for number in (5, 3)))
    learn("moe_sft", stopped, *words)
    said = capfd.readouterr().err
    assert re.findall(r"continuing from step (\d+)\n", said) == ([str(left)] if left else [])
    assert ("checkpoint-5" in said) == (damage != "no manifest")
    assert_same(stopped, whole)


def test_a_second_training_of_the_same_output_is_refused(words, stopped):
    told = f"process {os.getpid()} of .* trains in "
    owner = stopped.parent / ".out.training" / OWNER
    with claimed(owner, ""), pytest.raises(UserError, match=told):
        learn("moe_sft", stopped, *words)
    assert checkpoints(stopped) == ["checkpoint-3", "checkpoint-5"]


def test_the_newest_two_checkpoints_are_kept(words, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(features, "SAVING_SHARE", 0)
    monkeypatch.setattr("xft.common.progress._job", "moe_sft")
    with stopped_in(7):
        learn("moe_sft", tmp_path / "out", *words, "--save-minutes", 0)
    assert checkpoints(tmp_path / "out") == ["checkpoint-6", "checkpoint-7"]
    said = capfd.readouterr().err
    assert said.count("\nmoe_sft: SIGTERM: the training stops after this step\n") == 1
    assert said.endswith("stopped. Run the same command again to continue from step 7\n")


def test_a_stop_in_the_last_step_changes_nothing(words, whole, tmp_path, monkeypatch):
    stop_in(monkeypatch, LENGTH)
    learn("moe_sft", tmp_path / "out", *words)
    assert_same(tmp_path / "out", whole)


def test_a_stop_after_the_last_step_lets_the_result_be_stored(
    words, whole, tmp_path, monkeypatch, capfd
):
    """There is no checkpoint of the last step, so what was learned would be lost."""
    write = artifact.write_checkpoint

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return write(*arguments, **options)

    monkeypatch.setattr(artifact, "write_checkpoint", interrupted)
    learn("moe_sft", tmp_path / "out", *words)
    assert_same(tmp_path / "out", whole)
    assert "Ctrl-C: all steps are done, and the result is being stored." in capfd.readouterr().err


def test_a_second_ctrl_c_ends_at_once(words, tmp_path, monkeypatch):
    stop_in(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        learn("moe_sft", tmp_path / "out", *words)
    assert checkpoints(tmp_path / "out") == [] and len(lines_of(tmp_path / "out")) == 2


def test_a_stop_in_the_writing_leaves_the_checkpoint(words, stopped, whole, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(artifact, "write_checkpoint", Mock(side_effect=SystemExit))
        learn("moe_sft", stopped, *words)
    assert {path.name for path in stopped.parent.iterdir()} == {".out.training", "out.jsonl"}
    learn("moe_sft", stopped, *words)
    assert_same(stopped, whole)


def test_a_full_disk_loses_nothing(words, whole, mount, run_step):
    disk = mount("size=300k")
    words = [*words, *outputs(disk / "out"), "--save-minutes", 0]
    done = run_step("moe_sft", *words)
    assert done.returncode == 1
    fault = r"moe_sft: error: the checkpoint of step 1 could not be written to \S+, where 0 MB are"
    assert re.match(fault, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    assert run_step("moe_sft", *words).returncode == 0
    assert_same(disk / "out", whole)


def test_a_loss_that_is_not_finite_stops_with_the_rows(words, tmp_path, monkeypatch):
    """The weights become NaN before step 3: no rounding decides when the loss does."""

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step == 2:
            for parameter in model.parameters():
                parameter.data.fill_(float("nan"))

    monkeypatch.setattr(ProgressCallback, "on_step_begin", on_step_begin)
    monkeypatch.setattr(features, "SAVING_SHARE", 0)
    flags = ["--save-minutes", 0, "--per-device-train-batch-size", 12]
    with pytest.raises(UserError) as caught:
        learn("moe_sft", tmp_path / "out", *words, *flags)
    fault = str(caught.value)
    assert fault.startswith("step 3: loss nan, gradient norm nan. Rows of the batch, ")
    rows = re.search(r"counted from 1: ([\d, ]+)\.", fault)[1]
    assert sorted(map(int, rows.split(", "))) == list(range(1, 13))
    assert f"Last good checkpoint: {checkpoint(tmp_path / 'out', 2)}. " in fault
    assert not (tmp_path / "out").exists()


CALLBACK = """
from transformers import TrainerCallback

class Counts(TrainerCallback):
    def __init__(self, start, out):
        self.count, self.out = start, out

    def on_init_end(self, args, state, control, **kwargs):
        self.file = open(self.out, "w")

    def on_step_end(self, args, state, control, **kwargs):
        self.count += 1
        print(self.count, state.global_step, file=self.file, flush=True)

class NoCallback:
    pass

class Fails(TrainerCallback):
    def __init__(self):
        raise OSError("no")

class FailsLater(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        return {}["loss"]
"""


def test_a_callback_is_called_in_each_step_and_is_in_the_manifest(words, tmp_path):
    file, log, out = (tmp_path / name for name in ("mine.py", "log", "out"))
    file.write_text(CALLBACK)
    learn("moe_sft", out, *words, "--callbacks", f"{file}:Counts( start = 1,out={str(log)!r})")
    assert log.read_text() == "".join(f"{n + 1} {n}\n" for n in range(1, LENGTH + 1))
    manifest = read_manifest(manifest_path(out))
    assert manifest.parameters["callbacks"] == [f"mine.py:Counts(out={str(log)!r}, start=1)"]
    assert manifest.inputs["callback 1"] == hash_program(file)
    for name, message in (
        ("NoCallback", "mine.py: NoCallback is no transformers.TrainerCallback"),
        ("Fails", r"mine.py, line 20: OSError: no$"),
        ("FailsLater", r"^\S+mine.py, line 24: KeyError: 'loss'$"),
    ):
        with pytest.raises(UserError, match=message):
            learn("moe_sft", tmp_path / name, *words, "--callbacks", f"{file}:{name}")
