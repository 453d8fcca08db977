"""Loads models offline, and refuses weights that are incomplete, do not fit or are not finite."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from xft.checkpoints.layout import LAYER
from xft.checkpoints.reader import ADAPTER_FILE, CheckpointHeaders, check_finite
from xft.common.errors import UserError
from xft.modeling.configuration import XftConfig


def load_whole(
    model_class: type, folder: Path | None, reads_all: bool = False, **options
) -> PreTrainedModel:
    """`model_class.from_pretrained(folder, **options)`, offline, with torch's own layers.

    transformers 5.25 would replace some by kernels that it fetches from the hub.

    reads_all: whether the model must read all weights. Raises UserError if a weight is missing, for
    which transformers would draw random values; if the weights do not fit the config; or if a
    weight in a folder is NaN or infinite.
    """
    place = folder or "the model"
    if folder is not None:
        _check_files(Path(folder))
    with loading(place), _without_report():
        model, report = model_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            use_kernels=False,
            **options,
        )
    _check_report(model, report, place, reads_all)
    if folder is not None:
        for name, parameter in model.named_parameters():
            if not parameter.is_meta:
                check_finite(parameter.detach(), name, folder)
    return model


def check_fit(folder: Path, reads_all: bool = False) -> None:
    """Raise UserError if a model's config.json contradicts its weights. No values are read.

    reads_all: as for `load_whole`.
    """
    load_whole(AutoModelForCausalLM, folder, reads_all, device_map="meta")


def check_loadable(config: dict) -> None:
    """Build a model from a mixture's config.json, without values, on the meta device.

    Raises UserError if loading the model would, for example for an MLP with dropout.
    """
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(XftConfig.from_dict(config))


@contextmanager
def loading(place: Path | str) -> Iterator[None]:
    """Turn errors in the block, which loads a model, into UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each model type raises its own errors
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{place}: the model cannot be loaded: {reason}") from error


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers' progress bar and its report of the weights from the screen."""
    logger = logging.get_logger("transformers.modeling_utils")
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logger.addFilter(_is_other_line)
    try:
        yield
    finally:
        logger.removeFilter(_is_other_line)
        if shows_bars:
            logging.enable_progress_bar()


def _is_other_line(record) -> bool:
    """Whether a log record is not transformers' report, which `_check_report` reads."""
    return "LOAD REPORT" not in record.getMessage()


def _check_files(folder: Path) -> None:
    """Raise UserError if transformers would read anything but sound safetensors and a config."""
    _ = CheckpointHeaders(folder).config
    if (folder / ADAPTER_FILE).exists():  # transformers would load the adapter, too
        raise UserError(
            f"{folder} holds a LoRA adapter ({ADAPTER_FILE}) beside a model. Move the adapter "
            "away, or merge it into the model with peft's merge_and_unload"
        )


def _check_report(model: PreTrainedModel, report: dict, place: Path | str, reads_all: bool) -> None:
    """Raise UserError if transformers reports weights that do not fit the config."""
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{place} is incomplete: it has no weights for {', '.join(missing[:5])}")
    if mismatched := sorted(report["mismatched_keys"]):
        name, held, expected = mismatched[0]
        raise UserError(
            f"{place}: {name} has the shape {list(held)}, but its config.json asks for "
            f"{list(expected)}. One of the two belongs to another model"
        )
    layers = model.config.get_text_config().num_hidden_layers
    for name in sorted(report["unexpected_keys"]):
        if (match := LAYER.search(name)) and int(match[1]) >= layers:
            raise UserError(
                f"{place} holds {name}, but its config.json says num_hidden_layers = {layers}. "
                "One of the two belongs to another model"
            )
        if reads_all:
            raise UserError(
                f"{place} holds {name}, which nothing reads. Merge it into the weights; or load "
                "the model with transformers and save it, which leaves it out"
            )
