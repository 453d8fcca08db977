"""Fine-tune a mixture with TRL's SFTTrainer, tried with trl 1.16.0."""

from datasets import Dataset
from rows import read_rows
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import xft  # registers the model type

model = AutoModelForCausalLM.from_pretrained("other/moe", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("other/moe")
trainer = SFTTrainer(
    model,
    SFTConfig(
        "other/checkpoints",
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1.5e-3,
        max_length=None,  # the rows are cut already
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
    ),
    train_dataset=Dataset.from_list(read_rows("other/tokens", "other/moe")),
    processing_class=tokenizer,
)
xft.prepare(trainer)  # the model's own loss, which has the balance loss
trainer.train()
trainer.save_model("other/trl")
