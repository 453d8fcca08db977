"""Write a random Llama of 111,000 parameters and 50,000 rows, for experiments/capacity-base.yaml.

python resources/small_base.py build/small
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from rows import instructions
from transformers import AutoConfig, AutoModelForCausalLM

BASE = Path(__file__).parent / "base"
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(BASE)
    config.update(SIZES)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, folder / "base" / name)
    with (folder / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in instructions(50_000, seed=777))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
