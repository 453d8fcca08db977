"""Loading a model folder for generation."""

from pathlib import Path

from workflow_scripts.checkpoints.manifest import find_faults, manifest_path, read_manifest
from workflow_scripts.errors import UserError


def artifact_id(folder: Path) -> str | None:
    """The id in the manifest beside a model folder; None where there is no manifest.

    Raises UserError where the folder does not fit its manifest.
    """
    path = manifest_path(folder)
    if not path.exists():
        return None
    manifest = read_manifest(path)
    if faults := find_faults(folder, manifest):
        raise UserError(f"{folder} does not fit its manifest: {'; '.join(faults)}. Make it again")
    return manifest.id


def load_model(folder: Path, threads: int):
    """The causal language model and the tokenizer of a folder, ready for generation.

    On a GPU, where there is one, in the dtype of its weights; else on the CPU in float32 with so
    many threads. Raises UserError where the folder is missing, incomplete or broken.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    import workflow_scripts.modeling  # noqa: F401  registers the model types of this project

    torch.set_num_threads(threads)
    on_gpu = torch.cuda.is_available()
    logging.disable_progress_bar()
    tokenizer = _load(AutoTokenizer, folder, "tokenizer")
    model, report = _load(
        AutoModelForCausalLM,
        folder,
        "model",
        dtype="auto" if on_gpu else torch.float32,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{folder} is incomplete: it has no weights for {', '.join(missing[:5])}")
    return model.to("cuda" if on_gpu else "cpu").eval(), tokenizer


def _load(auto_class, folder: Path, what: str, **options):
    from safetensors import SafetensorError

    try:
        return auto_class.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: the {what} cannot be loaded: {error}") from error
