"""Loads a model folder for generation."""

from pathlib import Path

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.gpus import describe_device
from xft.common.progress import say
from xft.data.tokenizers import load_tokenizer


def trained_template(folder: Path) -> str | None:
    """The identity of the template that a model was tuned with; None if no manifest states it."""
    file = manifest_path(folder)
    return read_manifest(file).parameters.get("template") if file.exists() else None


def load_model(folder: Path, threads: int, precision: str = "auto"):
    """The causal language model and the tokenizer of a folder, ready for generation.

    If there is a GPU, the model is there. Otherwise it is on the CPU, with this number of threads.
    Raises UserError if the folder is missing, incomplete or broken.

    precision: as for `computing_dtype`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from xft.modeling.whole_models import check_fit, load_whole

    torch.set_num_threads(threads)
    on_gpu = torch.cuda.is_available()
    dtype = computing_dtype(precision, "auto", on_gpu)
    check_fit(folder)  # first: transformers allocates weights that do not fit
    model = load_whole(AutoModelForCausalLM, folder, dtype=dtype)
    tokenizer = load_tokenizer(folder)
    model = model.to("cuda" if on_gpu else "cpu").eval()
    say(describe_device(str(model.device), str(model.dtype), threads))
    return model, tokenizer


def computing_dtype(precision: str, stored, on_gpu: bool):
    """torch's dtype in which a model computes.

    precision: "fp32", "bf16", or "auto": `stored` on a GPU, float32 on a CPU.
    stored: the dtype of the weights in the model folder, or what stands for it.
    """
    import torch

    if precision == "auto":
        return stored if on_gpu else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
