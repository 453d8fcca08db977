"""Losses of plain transformers' logits, one row at a time, in float64."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from xft.config.sections import TokensConfig
from xft.data.preparation import prepare


def labelled_rows(model: Path, rows: Path) -> list[tuple[list[int], int]]:
    """The rows of a file: token ids, and how many of them have no label."""
    tokens, _ = prepare(rows, AutoTokenizer.from_pretrained(model), TokensConfig())
    return [(row["input_ids"], row["labels"].count(-100)) for row in tokens.training]


def plain_parts(teacher: Path, model: Path, rows: list[tuple[list[int], int]]) -> list[float]:
    """The mean cross-entropy and KL over the labelled tokens of `labelled_rows`."""
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (teacher, model)]
    sums, count = torch.zeros(2, dtype=torch.float64), 0
    for ids, prompt in rows:
        with torch.no_grad():
            logits = [model(torch.tensor([ids])).logits[0, prompt - 1 : -1] for model in models]
        wanted, own = (values.double().log_softmax(-1) for values in logits)
        targets = torch.tensor(ids[prompt:])
        sums[0] += torch.nn.functional.nll_loss(own, targets, reduction="sum")
        sums[1] += torch.nn.functional.kl_div(own, wanted, reduction="sum", log_target=True)
        count += len(targets)
    return (sums / count).tolist()
