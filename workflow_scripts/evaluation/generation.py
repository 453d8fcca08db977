"""Greedy generation in batches that stops each problem as soon as its solution is whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.prompts import TaskPrompt
from workflow_scripts.progress import progress


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt. finish: "eos", "stop" (a stop sequence) or "length"."""

    text: str
    finish: str


def generate(
    model, tokenizer, prompts: Sequence[TaskPrompt], *, max_new_tokens: int, batch_size: int
) -> list[Completion]:
    """A completion for each prompt, in order.

    The model's own sampling settings are replaced by plain greedy decoding. Raises UserError where
    a prompt and `max_new_tokens` do not fit into the model's window.
    """
    token_ids = [prompt.encode(tokenizer) for prompt in prompts]
    _check_window(model, prompts, token_ids, max_new_tokens)
    _set_greedy(model, tokenizer, max_new_tokens)
    # Longest first: padding stays small, and memory that does not suffice shows at once.
    order = sorted(range(len(prompts)), key=lambda i: -len(token_ids[i]))
    completions = [None] * len(prompts)
    with progress(desc=f"generate {model.name_or_path}", total=len(prompts), unit="problem") as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = [token_ids[i] for i in chosen]
            stops = [prompts[i].stops for i in chosen]
            for i, completion in zip(
                chosen, _generate_batch(model, tokenizer, rows, stops, bar.update), strict=True
            ):
                completions[i] = completion
    return completions


def _check_window(model, prompts, token_ids, max_new_tokens: int) -> None:
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window is None:
        return
    too_long = [
        f"{prompt.task_id} ({len(ids)} tokens)"
        for prompt, ids in zip(prompts, token_ids, strict=True)
        if len(ids) + max_new_tokens > window
    ]
    if too_long:
        raise UserError(
            f"{len(too_long)} prompts and max_new_tokens = {max_new_tokens} do not fit into the "
            f"model's window of {window} tokens: {', '.join(too_long[:5])}. Lower max_new_tokens"
        )


def _set_greedy(model, tokenizer, max_new_tokens: int) -> None:
    from transformers import GenerationConfig

    eos = model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    eos_ids = eos if isinstance(eos, list) else [eos] if eos is not None else []
    pad = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=eos_ids or None,
        pad_token_id=pad if pad is not None else (eos_ids or [0])[0],
    )


def _generate_batch(model, tokenizer, rows: list[list[int]], stops, on_finish) -> list[Completion]:
    """Completions of `rows` (token ids), each with its own stop sequences."""
    import torch

    pad = model.generation_config.pad_token_id
    eos_ids = model.generation_config.eos_token_id or []
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    watch = RowWatch(tokenizer, width, stops, eos_ids, on_finish)
    with torch.inference_mode():
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            stopping_criteria=[watch],
        )
    watch.finish_all()
    return [
        _completion(tokenizer, row, new_ids[:length], row_stops, eos_ids)
        for row, new_ids, length, row_stops in zip(
            rows, output[:, width:].tolist(), watch.lengths, stops, strict=True
        )
    ]


class RowWatch:
    """A stopping criterion for transformers: ends a row at EOS or once it holds a stop sequence.

    lengths: the number of new tokens of each row, None while it runs.
    """

    def __init__(
        self,
        tokenizer,
        prompt_width: int,
        stops: list[tuple[str, ...]],
        eos_ids: list[int],
        on_finish: Callable[[int], object],
    ):
        self.decode = partial(_decode, tokenizer)
        self.prompt_width = prompt_width
        self.stops = stops
        self.eos_ids = eos_ids
        self.on_finish = on_finish
        self.lengths: list[int | None] = [None] * len(stops)
        # A token is at least one byte long, so a stop sequence that ends in the newest token
        # begins at most this many tokens back.
        self.tail = max(len(stop.encode()) for row in stops for stop in row)

    def __call__(self, input_ids, scores, **_):
        """True for each row that is done. input_ids: prompts and new tokens, [rows, width]."""
        new_tokens = input_ids.shape[1] - self.prompt_width
        tails = input_ids[:, -min(self.tail, new_tokens) :].tolist()
        for row, tail in enumerate(tails):
            if self.lengths[row] is None and self._ends(row, tail):
                self.lengths[row] = new_tokens
                self.on_finish(1)
        return input_ids.new_tensor([length is not None for length in self.lengths]).bool()

    def _ends(self, row: int, tail: list[int]) -> bool:
        if tail[-1] in self.eos_ids:
            return True
        text = self.decode(tail)
        return any(stop in text for stop in self.stops[row])

    def finish_all(self) -> None:
        """Report the rows that ran to the limit of new tokens."""
        self.on_finish(self.lengths.count(None))


def _completion(tokenizer, prompt_ids, new_ids, stops, eos_ids) -> Completion:
    # A continuation that is decoded alone can lose its leading blank, and with it the indentation.
    text = _decode(tokenizer, prompt_ids + new_ids)[len(_decode(tokenizer, prompt_ids)) :]
    if any(stop in text for stop in stops):
        return Completion(text, "stop")
    return Completion(text, "eos" if new_ids[-1] in eos_ids else "length")


def _decode(tokenizer, token_ids: list[int]) -> str:
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
