"""Loading models without surprises."""

from pathlib import Path

from transformers import PreTrainedModel

from workflow_scripts.common.errors import UserError


def load_whole(model_class: type, folder: Path | None, **options) -> PreTrainedModel:
    """`model_class.from_pretrained(folder, **options)`, offline.

    Raises UserError where a weight is missing, for which transformers would draw random values.
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
