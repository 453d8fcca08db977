"""Compares greedy generation by the base, the upcycled mixture and the merged dense model.

The merged model has the base's architecture, so it must generate as fast. Run it as
`python -m benchmarks.generation`. It makes its random models in a temporary folder.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, logging

import xft  # noqa: F401
from benchmarks.timing import interleaved, speed_table
from workflow_scripts import dense, ffn, moe, weighted_init

PROMPT_TOKENS, NEW_TOKENS, BATCH = 64, 64, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        cases = {name: lambda model=model: generate(model) for name, model in models.items()}
        seconds = interleaved(cases, args.repeats, warmup=1)
    print(f"{BATCH} x {PROMPT_TOKENS} prompt tokens, {NEW_TOKENS} new ones each, fp32")
    print(speed_table(seconds, baseline="base"))


def make_models(folder: Path) -> dict[str, torch.nn.Module]:
    """A random Llama of 6 layers with SmolLM2-135M's widths, its mixture and its merged model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    at = {name: str(folder / name) for name in ("base", "moe", "ffn", "weighted", "dense")}
    sources = ["--moe", at["moe"], "--ffn", at["ffn"]]
    moe.main(["--base", at["base"], "--out", at["moe"]])
    ffn.main(["--moe", at["moe"], "--out", at["ffn"]])
    weighted_init.main([*sources, "--lam", "0.75", "--out", at["weighted"]])
    dense.main([*sources, "--weighted", at["weighted"], "--out", at["dense"]])
    return {
        name: AutoModelForCausalLM.from_pretrained(at[name], dtype=torch.float32).eval()
        for name in ("base", "dense", "moe")
    }


def generate(model) -> None:
    prompt = torch.arange(BATCH * PROMPT_TOKENS).view(BATCH, PROMPT_TOKENS) % 8000
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    model.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **options)


if __name__ == "__main__":
    main()
