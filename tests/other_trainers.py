"""What other trainers learn in an optimiser step, and the same from rows that are alone."""

from functools import partial

import pytest
import torch
from backbones import random_dense
from mixtures import squared_variation
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

import xft

ONE_STEP = {
    **{"use_cpu": True, "max_steps": 1, "learning_rate": 0.0, "max_grad_norm": 0},
    **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 1},
    **{"save_strategy": "no", "report_to": [], "disable_tqdm": True},
}
unbalanced = partial(pytest.warns, UserWarning, match="the balance loss is not part of this loss")


def balanced(experts: str = "full", per_token: int = 3):
    """A mixture of 4 experts that differ, with a balance loss that is a large part of the loss."""
    sizes = {"num_experts": 4, "num_experts_per_tok": per_token, "experts": experts}
    options = {"router_noise": False, "balance_loss_coef": 1.0}
    mixture = xft.upcycle(random_dense("llama"), **sizes, **options).train()
    for block in mixture.moe_blocks:
        for weight in block.experts.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return mixture


def trainer_of(model, folder, tokenizer, rows: int = 4, **options) -> Trainer:
    """A Trainer of one step, over rows of different lengths, with prompts of 4 tokens."""
    ids = [list(range(5 + row, 15 + row - row % 4)) for row in range(rows)]
    data = [{"input_ids": row, "labels": [-100] * 4 + row[4:]} for row in ids]
    arguments = TrainingArguments(str(folder), **ONE_STEP | options)
    collate = DataCollatorForSeq2Seq(tokenizer)
    return Trainer(model, arguments, collate, train_dataset=data, eval_dataset=data)


def grads_of(model) -> dict[str, torch.Tensor]:
    learned = (item for item in model.named_parameters() if item[1].grad is not None)
    return {name: parameter.grad.clone() for name, parameter in learned}


class Gradients(TrainerCallback):
    """Notes the gradients of the optimiser step, by name."""

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.noted = grads_of(model)


def learn(trainer: Trainer) -> tuple[float, dict, list]:
    """Train for a step. Its loss in the log, gradients, and micro-batches, as `sequences`."""
    batches, collate, gradients = [], trainer.data_collator, Gradients()

    def note(rows):
        batch = collate(rows)
        batches.append(sequences(batch))
        return batch

    trainer.data_collator = note
    trainer.add_callback(gradients)
    trainer.train()
    (loss,) = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return loss, gradients.noted, batches


def sequences(batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The ids and labels of the rows of a batch, padded or packed."""
    if "attention_mask" in batch:
        counts = batch["attention_mask"].sum(dim=1)
        rows = zip(batch["input_ids"], batch["labels"], counts, strict=True)
        return [(ids[:count], labels[:count]) for ids, labels, count in rows]
    starts = (batch["position_ids"][0] == 0).nonzero()[:, 0].tolist()
    sizes = torch.tensor([*starts[1:], batch["input_ids"].shape[1]]) - torch.tensor(starts)
    parts = (batch[key][0].split(sizes.tolist()) for key in ("input_ids", "labels"))
    return list(zip(*parts, strict=True))


def alone(model, batches: list, smoothing: float = 0.0, with_balance: bool = True) -> torch.Tensor:
    """The loss of an optimiser step, its rows computed alone: sum over the micro-batches of their
    share of the trained tokens x (mean cross-entropy + balance loss).
    """
    total, tokens, coefficient = 0.0, 0, model.config.balance_loss_coef
    for rows in batches:
        outputs = [model(ids[None], output_router_logits=True) for ids, _ in rows]
        labels = torch.cat([labels[1:] for _, labels in rows])
        logits = torch.cat([output.logits[0, :-1] for output in outputs]).float()
        count = (labels != -100).sum()
        total += cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        for layer in zip(*(output.routing for output in outputs), strict=True):
            for kind in ("importance", "load"):
                variation = squared_variation(sum(getattr(routing, kind) for routing in layer))
                total += with_balance * count * coefficient * variation
        tokens += count
    return total / tokens


def gap(found: dict, expected: dict) -> float:
    """The largest difference of a tensor, relative to the norm of the expected one."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - g).norm() / g.norm()) for name, g in expected.items())
