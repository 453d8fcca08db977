"""Fine-tune a mixture with LoRA by PEFT in attention and experts. Routers learn as they are."""

from peft import LoraConfig, get_peft_model
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
settings = LoraConfig(
    r=8,
    lora_alpha=16,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    target_parameters=["experts.gate_up_proj", "experts.down_proj"],  # no linear layers
)
adapted = get_peft_model(model, settings)
for block in model.moe_blocks:
    block.router.requires_grad_(True)
trainer = Trainer(
    adapted,
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
)
trainer.train()
adapted.merge_and_unload().save_pretrained("other/lora")
tokenizer.save_pretrained("other/lora")
