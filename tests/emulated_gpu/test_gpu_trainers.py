"""Other trainers tune a mixture on the emulated GPU as on the CPU (docs/trainers.md)."""

import pytest
from gpu_and_cpu import BF16, on_both
from other_trainers import ONE_STEP, balanced, trainer_of

import xft

STEPS = ONE_STEP | {"max_steps": 3, "learning_rate": 1e-3}
# How far the losses may be from the CPU's, relative to them.
PRECISIONS = {"fp32": 1e-4, "bf16": 4 * BF16}


def options_of(place: str, precision: str) -> dict:
    """The arguments of a Trainer in a place, "gpu" or "cpu"."""
    return STEPS | {"use_cpu": place == "cpu", "bf16": precision == "bf16"}


def learned(trainer, place: str) -> list[float]:
    """The losses of the steps of a trainer, and those of its evaluation."""
    trainer.train()
    trainer.evaluate()
    devices = {parameter.device.type for parameter in trainer.model.parameters()}
    assert devices == {"cuda" if place == "gpu" else "cpu"}
    logs = trainer.state.log_history
    return [log[key] for log in logs for key in ("loss", "aux_loss", "eval_loss") if key in log]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("experts", ["full", "lora"])
def test_transformers_trainer(experts, precision, tmp_path, tokenizer):
    """All experts compute each token. A choice would be another one after rounding to bf16."""

    def learn(place: str) -> list[float]:
        options = options_of(place, precision) | {"activation_checkpointing": True}
        mixture = balanced(experts, per_token=4)
        return learned(trainer_of(mixture, tmp_path, tokenizer, **options), place)

    found, expected = on_both(learn)
    assert len(found) == 4 and found == pytest.approx(expected, rel=PRECISIONS[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_trl(precision, tmp_path, tokenizer):
    """With its own defaults for memory, and `xft.prepare` for the balance loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    ids = [list(range(5 + row, 15 + row - row % 4)) for row in range(4)]
    rows = [{"input_ids": row, "labels": [-100] * 4 + row[4:]} for row in ids]
    data = {"train_dataset": Dataset.from_list(rows), "eval_dataset": Dataset.from_list(rows)}

    def learn(place: str) -> list[float]:
        arguments = SFTConfig(str(tmp_path), **options_of(place, precision))
        mixture = balanced(per_token=4)
        trainer = SFTTrainer(mixture, arguments, processing_class=tokenizer, **data)
        return learned(xft.prepare(trainer), place)

    found, expected = on_both(learn)
    assert len(found) == 7 and found == pytest.approx(expected, rel=PRECISIONS[precision])
