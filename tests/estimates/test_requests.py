"""What steps ask a scheduler for, against closed forms for the published base."""

import json
import math
import struct
from pathlib import Path

import pytest
from published import DEEPSEEK

from xft.checkpoints.dtypes import DTYPE_BYTES
from xft.config.validation import complete
from xft.estimates.jobs import configured_job
from xft.estimates.memory import training_memory
from xft.estimates.resources import Requests
from xft.estimates.tensors import compute_table

MIXTURE, DENSE = 7_028_346_008, 1_346_471_936  # parameters
STEPS = {"max_steps": 10}
ON_GPUS = STEPS | {"launch": "zero3", "processes": 4}


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory) -> Path:
    """The base of the paper: the headers of its weights, and no values."""
    folder = tmp_path_factory.mktemp("deepseek")
    (folder / "config.json").write_text(json.dumps(DEEPSEEK))
    header, end = {}, 0
    for name, (dtype, shape) in compute_table(folder / "config.json").tensors.items():
        start, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def requests(base: Path, **config) -> Requests:
    sections = {"base": {"model": "x"}, "data": {"train": "x"}} | config
    return Requests(complete(sections), base)


def memory(base: Path, section="moe_sft", **config) -> int:
    """Bytes that a training asks for."""
    return requests(base, **config).training(section).mem_mb * 10**6


def assert_about(asked: int, needed: float) -> None:
    """At least what is needed, in bytes, and at most half of it more and 10 GB for libraries."""
    assert needed < asked < 1.5 * needed + 10e9


def test_a_base_that_is_not_there_is_seen_as_soon_as_it_is(deepseek, tmp_path):
    asked = requests(tmp_path / "base", moe_sft={"launch": "ddp", "processes": 4})
    assert asked.training("moe_sft").mem_mb == 4 * 16000
    before = asked.conversion(), asked.evaluation(is_mixture=False)
    (tmp_path / "base").symlink_to(deepseek)
    assert asked.training("moe_sft").mem_mb > 4 * 16000
    assert asked.conversion() != before[0]
    assert asked.evaluation(is_mixture=False) != before[1]


@pytest.mark.parametrize("missing", ["vocab_size", "model_type", "num_hidden_layers"])
def test_a_base_that_makes_no_sense_is_left_to_the_steps(deepseek, tmp_path, missing):
    config = {key: value for key, value in DEEPSEEK.items() if key != missing}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(deepseek / "model.safetensors")
    for asked in (requests(tmp_path), requests(tmp_path, gpus=1)):
        needs = [asked.conversion(), asked.evaluation(is_mixture=True)]
        needs += map(asked.training, ("moe_sft", "mixing"))
        assert all(need.mem_mb > 0 for need in needs)


def test_a_training_on_a_cpu_is_all_in_the_hosts_memory(deepseek):
    asked = requests(deepseek, moe_sft=STEPS)
    planned = training_memory(asked.models, configured_job(asked.config, "moe_sft"))
    one = memory(deepseek, moe_sft=STEPS)
    assert_about(one, planned.peak)
    assert memory(deepseek, moe_sft=STEPS | {"launch": "ddp", "processes": 2}) > 2 * one  # buckets
    assert 16 * DENSE < memory(deepseek, "sft", moe_sft=STEPS) < one


def test_with_gpus_each_process_loads_the_model_and_one_gathers_it(deepseek):
    one = memory(deepseek, gpus=1, moe_sft=ON_GPUS)
    assert_about(one, 4 * (2 * MIXTURE + 6e9) + 4 * MIXTURE)
    more = memory(deepseek, gpus=1, moe_sft=ON_GPUS | {"offload_optimizer": True}) - one
    assert more == pytest.approx(1.25 * 12 * MIXTURE, rel=0.01)  # Adam's state and master weights
    taught = memory(deepseek, "heal", gpus=1, heal={"objective": "kl"})
    plain = memory(deepseek, "heal", gpus=1)
    assert taught - plain == pytest.approx(1.25 * 2 * MIXTURE, rel=0.01)
    ddp = STEPS | {"launch": "ddp", "processes": 2}
    of_nodes = memory(deepseek, gpus=1, moe_sft=ddp | {"nodes": 3})
    assert of_nodes == memory(deepseek, gpus=1, moe_sft=ddp)  # each node asks for itself


def test_conversions_stream_and_evaluations_load(deepseek):
    evaluation = {"batch_size": 8, "max_new_tokens": 512}
    asked = requests(deepseek, evaluation=evaluation)
    assert asked.conversion().mem_mb * 10**6 < 2 * DENSE * 4
    # Keys and values of 8 rows of 1024 tokens in 24 layers.
    cache = 8 * 1024 * 24 * 2 * 2048 * 4
    on_gpu = requests(deepseek, gpus=1, evaluation=evaluation)
    in_fp32 = requests(deepseek, gpus=1, evaluation=evaluation | {"precision": "fp32"})
    on_cpus = (asked, False, 4 * DENSE + cache), (asked, True, 4 * MIXTURE + cache)
    on_gpus = (on_gpu, True, 2 * MIXTURE), (in_fp32, True, 4 * MIXTURE)
    for asked_for, is_mixture, needed in (*on_cpus, *on_gpus):
        assert_about(asked_for.evaluation(is_mixture).mem_mb * 10**6, needed)
    assert in_fp32.evaluation(is_mixture=True).minutes >= on_gpu.evaluation(is_mixture=True).minutes


def test_time_follows_the_work_up_to_a_day(deepseek, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"\n" * 10_000_000)  # 20,000 rows of 500 bytes
    data = {"data": {"train": str(rows)}, "gpus": 1}

    def minutes(section="moe_sft", **changes) -> int:
        return requests(deepseek, **data, **{section: changes}).training(section).minutes

    assert minutes(max_steps=1) == 60
    assert minutes(num_train_epochs=1000) == 24 * 60
    assert requests(deepseek).training("moe_sft").minutes == 24 * 60  # of unknown rows
    once = minutes(num_train_epochs=1)
    # 6 FLOPs for each active parameter and token, and the attention's, on 0.3 of an A10.
    assert once * 60 == pytest.approx(6 * 20_000 * 1024 * 5.4e9 / (0.3 * 125e12), rel=0.1)
    # sft_flops takes as many FLOPs. The epochs of section sft do not matter.
    tunings = {"moe_sft": {"num_train_epochs": 1}, "sft": {"num_train_epochs": 0.1}}
    assert requests(deepseek, **data, **tunings).training("sft").minutes == once
    sped = minutes(num_train_epochs=1, launch="ddp", processes=4)
    assert sped == pytest.approx(once / 4, abs=1)
