"""Fine-tune a mixture with the Trainer of transformers."""

from rows import read_rows
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

import xft  # registers the model type

model = AutoModelForCausalLM.from_pretrained("other/moe", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("other/moe")
trainer = Trainer(
    model,
    TrainingArguments(
        "other/checkpoints",
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1.5e-3,
        save_strategy="no",
        report_to=[],
    ),
    train_dataset=read_rows("other/tokens", "other/moe"),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    processing_class=tokenizer,
)
trainer.train()
trainer.save_model("other/trainer")
