"""Fine-tune a mixture in a loop with accelerate. Each process holds the whole model (DDP).

    torchrun --standalone --nproc-per-node 2 examples/trainers/tune_accelerate.py

On a machine with GPUs leave out `cpu=True`.
"""

import torch
from accelerate import Accelerator
from rows import read_rows
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

import xft  # registers the model type

accelerator = Accelerator(cpu=True)
model = AutoModelForCausalLM.from_pretrained("other/moe", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("other/moe")
rows = DataLoader(
    read_rows("other/tokens", "other/moe"),
    batch_size=2,
    shuffle=True,
    collate_fn=DataCollatorForSeq2Seq(tokenizer),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0)
model, optimizer, rows = accelerator.prepare(model, optimizer, rows)
model.train()  # with the routing noise; from_pretrained gives a model without it
for _, batch in zip(range(20), rows, strict=False):
    loss = model(**batch).loss
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.print(f"{loss.item():.4f}")
if accelerator.is_main_process:
    accelerator.unwrap_model(model).save_pretrained("other/accelerate")
    tokenizer.save_pretrained("other/accelerate")
accelerator.end_training()
