"""Fine-tune a mixture in a loop with torch's FSDP, which shards the model. It works on CPUs, too.

    torchrun --standalone --nproc-per-node 2 examples/trainers/tune_fsdp.py

On GPUs use the backend "nccl", and move the model and the batches there; this was not tried.
"""

import torch
from rows import read_rows
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

import xft  # registers the model type

distributed.init_process_group("gloo")
model = AutoModelForCausalLM.from_pretrained("other/moe", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("other/moe")
for layer in model.get_decoder().layers:
    fully_shard(layer)
fully_shard(model)
rows = read_rows("other/tokens", "other/moe")
loader = DataLoader(
    rows,
    batch_size=2,
    sampler=DistributedSampler(rows),
    collate_fn=DataCollatorForSeq2Seq(tokenizer),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0)
model.train()
for _, batch in zip(range(20), loader, strict=False):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
state = get_model_state_dict(model, options=whole)  # whole in the first process, empty in the other
if distributed.get_rank() == 0:
    model.save_pretrained("other/fsdp", state_dict=state)
    tokenizer.save_pretrained("other/fsdp")
distributed.destroy_process_group()
