"""Losses of plain transformers' logits, one row at a time."""

from pathlib import Path

import torch
from trainings import ROWS
from transformers import AutoModelForCausalLM, AutoTokenizer

from xft.data.templates import make_template

STEPS, RATE = 4, 0.01


def plain_parts(teacher: Path, model: Path, rows: list[tuple[list[int], int]]) -> list[float]:
    """The mean cross-entropy and KL over the tokens of rows that follow a prompt, in float64.

    rows: the token ids of each, and the number of those of its prompt.
    """
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


def encoded(folder) -> list[tuple[list[int], int]]:
    """The token ids of each of ROWS, with BOS and EOS, and the number of those of its prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = make_template("magicoder", None)
    rows = []
    for row in ROWS:
        prompt = tokenizer(template.render(row["instruction"]), add_special_tokens=False).input_ids
        answer = tokenizer(row["response"], add_special_tokens=False).input_ids
        ids = [tokenizer.bos_token_id, *prompt, *answer, tokenizer.eos_token_id]
        rows.append((ids, 1 + len(prompt)))
    return rows


def plain_loss(model, rows) -> torch.Tensor:
    """The mean over the response tokens of all rows, one row at a time."""
    losses = []
    for ids, prompt in rows:
        logits = model(torch.tensor([ids])).logits[0, prompt - 1 : -1]
        targets = torch.tensor(ids[prompt:])
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean()


def plain_loop(model, parameters, folder: Path) -> list[float]:
    """Train on ROWS, all of them in each of STEPS steps, by AdamW at RATE. The losses."""
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0)
    rows, losses = encoded(folder), []
    for _ in range(STEPS):
        loss = plain_loss(model, rows)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses
