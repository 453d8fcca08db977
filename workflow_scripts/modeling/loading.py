"""Loads models offline and refuses incomplete weights."""

from pathlib import Path

from transformers import PreTrainedModel

from workflow_scripts.common.errors import UserError


def load_whole(model_class: type, folder: Path | None, **options) -> PreTrainedModel:
    """`model_class.from_pretrained(folder, **options)`, offline.

    Raises UserError if a weight is missing: transformers would draw random values for it.
    """
    model, report = model_class.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(report["missing_keys"]):
        place = folder or "the model"
        raise UserError(f"{place} is incomplete: it has no weights for {', '.join(missing[:5])}")
    return model
