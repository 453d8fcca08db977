"""Generates with vLLM, with the same prompts, stop sequences and end tokens as `generation`.

Written for vLLM 0.33.0.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from xft.checkpoints.model_files import torch_dtype
from xft.checkpoints.reader import CheckpointHeaders
from xft.common.errors import UserError
from xft.common.optional import require
from xft.data.tokenizers import generation_settings, load_tokenizer
from xft.evaluation.generation import EncodedPrompt, Sampling, Writing, Written
from xft.evaluation.model_loading import computing_dtype

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # otherwise equal runs may batch differently
    "VLLM_NO_USAGE_STATS": "1",  # otherwise it reports to its authors
    "VLLM_LOGGING_LEVEL": "WARNING",
}
# vLLM's newer model runner ends with an error if a request allows more tokens.
MOST_ALLOWED = 1024


def load_model(folder: Path, threads: int | None, precision: str = "auto"):
    """The model and the tokenizer of a folder, for `write_rows`.

    `write_rows` loads the weights, because vLLM needs the length of the sequences. The model has
    name_or_path, transformers' config and generation_config, and torch's device and dtype of the
    weights. Raises UserError if vLLM is not installed, if the folder is missing or broken, or if it
    is a mixture, which vLLM cannot load.

    threads: not used, because vLLM chooses the number.
    precision: as for `computing_dtype`.
    """
    checkpoint = CheckpointHeaders(folder)
    if "base_config" in checkpoint.config:
        raise UserError(
            f"{folder} is a mixture of experts of this project, which vLLM cannot load. Evaluate "
            "it with --backend transformers"
        )
    require("vllm")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    import torch
    from transformers import AutoConfig, GenerationConfig
    from vllm.platforms import current_platform

    from xft.modeling.whole_models import loading

    tokenizer = load_tokenizer(folder)
    with loading(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        generation = GenerationConfig(**generation_settings(folder, config.to_dict()))
    device = torch.device(current_platform.device_type)
    stored = config.dtype or torch_dtype(checkpoint.dtype(checkpoint.names[0]))
    dtype = computing_dtype(precision, stored, on_gpu=device.type != "cpu")
    model = SimpleNamespace(
        name_or_path=str(folder),
        config=config,
        generation_config=generation,
        device=device,
        dtype=dtype,
    )
    return model, tokenizer


def write_rows(model, tokenizer, rows: list[EncodedPrompt], how: Writing) -> Iterator[Written]:
    """Each row with its new token ids, as soon as it is done, as from `generation.write_rows`.

    The next sequence starts as soon as one is done. A prompt stays as it is if too many tokens
    begin with the text of its last one. A text may go on after a stop sequence that begins in its
    first token.
    """
    rows = [
        row if len(row.first_ids) <= MOST_ALLOWED else replace(row, first_ids=[]) for row in rows
    ]
    longest = max(len(row.prompt_ids) for row in rows) + how.max_new_tokens
    engine = _start(model, longest, how.batch_size)
    first = _first_tokens(engine, rows, how.sampling)
    for row in rows:
        ends = {"stop": list(row.stops), "stop_token_ids": how.eos_ids}
        draws = _draws(how.sampling, row.number)
        kept = row.kept_ids + first[row.number]
        _request(engine, row, kept, max_tokens=how.max_new_tokens, **ends, **draws)
    for number, token_ids in _finished(engine):
        yield rows[number], (first[number] + token_ids)[: how.max_new_tokens]


def _start(model, longest: int, batch_size: int):
    """An engine with the loaded model.

    Raises UserError if vLLM cannot load it.

    longest: the most tokens of a prompt and its completion.
    """
    from vllm import EngineArgs, LLMEngine

    from xft.modeling.whole_models import loading

    with loading(model.name_or_path):
        return LLMEngine.from_engine_args(
            EngineArgs(
                model=model.name_or_path,
                dtype=str(model.dtype).removeprefix("torch."),
                load_format="safetensors",
                max_model_len=longest,
                max_num_seqs=batch_size,
                generation_config="vllm",  # not the model's own sampling settings
                disable_log_stats=True,
            )
        )


def _first_tokens(engine, rows: list[EncodedPrompt], sampling: Sampling | None) -> list[list[int]]:
    """The first new token of each row, in a list. The list is empty if it may be any token."""
    restricted = [row for row in rows if row.first_ids]
    for row in restricted:
        draws = _draws(sampling, row.number)
        if sampling is not None:
            draws["seed"] ^= 1  # the tokens after it have the row's own seed
        _request(engine, row, row.kept_ids, max_tokens=1, allowed_token_ids=row.first_ids, **draws)
    chosen = dict(_finished(engine))
    return [chosen.get(row.number, []) for row in rows]


def _draws(sampling: Sampling | None, number: int) -> dict:
    """The parameters of the random draws for a prompt."""
    if sampling is None:
        return {"temperature": 0.0}
    seed = sampling.seeds[number]
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}


def _request(engine, row: EncodedPrompt, token_ids: list[int], **parameters) -> None:
    """Queue the token ids of a row. The engine reports it once, when it is done."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    # Only the model's end tokens end a text, not the tokenizer's if they differ.
    settings = SamplingParams(
        ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY, **parameters
    )
    engine.add_request(str(row.number), tokens_input(token_ids), settings)


def _finished(engine) -> Iterator[tuple[int, list[int]]]:
    """The number and the new token ids of each queued row, as soon as it is done."""
    while engine.has_unfinished_requests():
        for output in engine.step():
            yield int(output.request_id), list(output.outputs[0].token_ids)
