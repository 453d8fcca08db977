"""Losses of plain transformers' logits, one row at a time."""

from pathlib import Path

import torch
from trainings import ROWS
from transformers import AutoTokenizer

from xft.data.prompt_templates import make_template

STEPS, RATE = 4, 0.01


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
    logits = [model(torch.tensor([ids])).logits[0, prompt - 1 : -1] for ids, prompt in rows]
    expected = torch.cat([torch.tensor(ids[prompt:]) for ids, prompt in rows])
    return torch.nn.functional.cross_entropy(torch.cat(logits), expected)


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
