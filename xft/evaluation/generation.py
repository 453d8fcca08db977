"""Generates completions in batches. A row leaves its batch soon after its solution is complete.

Token healing: the last token of a prompt is taken back, and the model chooses it again.

A prompt can end within a token of the texts that a model was trained on. For example, it ends at
three quotation marks. In the texts a newline follows, and the marks with the newline are one token.
Then the model must continue from a place that it hardly saw in training. So the last token is taken
back, and the first new token may be any that begins with its text.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

from xft.common.errors import UserError
from xft.common.gpus import advice_on_nan
from xft.common.progress import progress
from xft.data.tokenizers import end_tokens
from xft.evaluation.prompts import TaskPrompt, check_fit

SINGLE_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Completion:
    """A model's text after a prompt.

    finish: "eos", "stop" (a stop sequence) or "length".
    """

    text: str
    finish: str


@dataclass(frozen=True)
class Sampling:
    """Draws from the most likely tokens, up to the probability `top_p`, at this temperature.

    seeds: one for each prompt. A row's draws depend only on its seed, not on other rows.
    """

    temperature: float
    top_p: float
    seeds: Sequence[int]


@dataclass(frozen=True)
class Writing:
    """How a backend writes rows.

    batch_size: rows at a time.
    sampling: None for greedy.
    on_token(number): may be called when each row of a batch has so many new tokens.
    """

    eos_ids: list[int]
    max_new_tokens: int
    batch_size: int
    sampling: Sampling | None
    on_token: Callable[[int], object] = lambda _: None


def generate(
    model,
    tokenizer,
    prompts: Sequence[TaskPrompt],
    *,
    max_new_tokens: int,
    batch_size: int,
    token_healing: bool = False,
    sampling: Sampling | None = None,
    write: Callable | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Each prompt's number and completion, as soon as it is complete; greedy without `sampling`.

    The model's own sampling settings are replaced. Raises UserError if a prompt plus
    `max_new_tokens` does not fit into the model's window, or if the model computes NaN.

    prompts: all of one template, which ends a completion where it ends a turn.
    token_healing: as in `healing`; the token that is chosen again counts as a new one.
    write: as `write_rows`, which is the default.
    """
    rows = make_rows(model.config, tokenizer, prompts, max_new_tokens, token_healing)
    if not rows:
        return
    eos_ids = end_tokens(model.generation_config.eos_token_id, tokenizer, prompts[0].template)
    with progress(desc="generate", total=len(rows), unit="problem", at_once=batch_size) as bar:

        def show(number: int) -> None:
            bar.set_postfix(token=f"{number}/{max_new_tokens}", refresh=False)
            bar.update(0)

        how = Writing(eos_ids, max_new_tokens, batch_size, sampling, show)
        for row, ids in (write or write_rows)(model, tokenizer, rows, how):
            yield row.number, completion_of(tokenizer, row, ids, eos_ids)
            bar.update()


@dataclass
class EncodedPrompt:
    """An unfinished sequence.

    number: of its prompt.
    prompt_ids: of the whole prompt.
    first_ids: the first new token is one of these, and stands in the place of the prompt's last
    token. Empty: the new tokens follow the prompt.
    """

    number: int
    prompt_ids: list[int]
    stops: tuple[str, ...]
    first_ids: list[int]

    @property
    def kept_ids(self) -> list[int]:
        """The ids of the prompt that the model continues."""
        return self.prompt_ids[:-1] if self.first_ids else self.prompt_ids


Written = tuple[EncodedPrompt, list[int]]  # with its new tokens


def make_rows(
    config, tokenizer, prompts: Sequence[TaskPrompt], max_new_tokens: int, token_healing: bool
) -> list[EncodedPrompt]:
    """A row for each prompt, in order.

    Raises UserError if a prompt plus `max_new_tokens` does not fit into its window.

    config: of the model.
    """
    window = getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf
    replacements = cache(Vocabulary(tokenizer).replacements)
    rows = []
    for number, prompt in enumerate(prompts):
        ids = prompt.encode(tokenizer)
        first_ids = replacements(ids[-1]) if token_healing and len(ids) > 1 else []
        rows.append(EncodedPrompt(number, ids, prompt.stops, first_ids))
    lengths = {prompts[row.number].task_id: len(row.prompt_ids) for row in rows}
    check_fit(lengths, window, max_new_tokens)
    return rows


def write_rows(model, tokenizer, rows: list[EncodedPrompt], how: Writing) -> Iterator[Written]:
    """Each row with its new token ids, as soon as it is done."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        do_sample=False,
        eos_token_id=how.eos_ids or None,
        pad_token_id=_padding_id(tokenizer, how.eos_ids),
    )
    # Longest first: padding stays small, and too little memory shows at once.
    rows = sorted(rows, key=lambda row: -len(row.prompt_ids))
    for start in range(0, len(rows), how.batch_size):
        batch = rows[start : start + how.batch_size]
        draws = None
        if how.sampling is not None:
            draws = _Draws(how.sampling, [row.number for row in batch])
        yield from _write_batch(model, tokenizer, batch, how, draws)


def _padding_id(tokenizer, eos_ids: list[int]) -> int:
    """The id of padding. A tokenizer without such a token has any other one in its place."""
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return eos_ids[0] if eos_ids else 0


def _write_batch(
    model, tokenizer, rows: list[EncodedPrompt], how: Writing, draws: "_Draws | None"
) -> Iterator[Written]:
    """Continue `rows` until all are done. Whenever half of them are done, these leave the batch."""
    batch = _Batch(model, rows)
    width = batch.ids.shape[1]
    first_ids = [row.first_ids for row in rows]
    processors = [
        partial(_refuse_nan, model.name_or_path),
        partial(restrict_first, width, first_ids),
    ]
    if draws is not None:
        processors.append(draws)
    while batch.rows:
        watch = RowWatch(tokenizer, width, batch.rows, how)
        is_full = batch.write(width + how.max_new_tokens, watch, processors)
        left = []
        for place, (row, length) in enumerate(zip(batch.rows, watch.lengths, strict=True)):
            if length is None and not is_full:
                left.append(place)
            else:
                yield row, batch.ids[place, width:].tolist()[:length]
        batch.keep(left)
        if draws is not None:
            draws.keep(left)


class _Batch:
    """Rows that are written together.

    ids, mask: their tokens, padded on the left, [rows, width].
    cache: the keys and values of what is written.
    """

    def __init__(self, model, rows: list[EncodedPrompt]):
        import torch

        kept = [torch.tensor(row.kept_ids, device=model.device, dtype=torch.long) for row in rows]
        ones = [torch.ones_like(ids) for ids in kept]
        pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
        self.model = model
        self.rows = rows
        self.ids = pad(kept, padding_value=model.generation_config.pad_token_id)
        self.mask = pad(ones)
        self.cache = None

    def write(self, most: int, watch: "RowWatch", processors: list) -> bool:
        """Write until `watch` ends all rows, or until the batch is `most` wide.

        Returns whether it is `most` wide.
        """
        import torch

        with torch.inference_mode():
            output = self.model.generate(
                input_ids=self.ids,
                attention_mask=self.mask,
                cache=self.cache,
                max_new_tokens=most - self.ids.shape[1],
                stopping_criteria=[watch],
                logits_processor=processors,
                return_dict_in_generate=True,
            )
        added = output.sequences.shape[1] - self.ids.shape[1]
        self.ids = output.sequences
        self.cache = output.cache
        self.mask = torch.nn.functional.pad(self.mask, (0, added), value=1)
        return self.ids.shape[1] == most

    def keep(self, places: list[int]) -> None:
        """Keep only these rows."""
        self.rows = [self.rows[place] for place in places]
        if places:
            chosen = self.ids.new_tensor(places)
            self.ids = self.ids[chosen]
            self.mask = self.mask[chosen]
            self.cache.batch_select_indices(chosen)


def _refuse_nan(place: str, input_ids, scores):
    """A logits processor that raises UserError at a NaN. As the largest score it would be chosen.

    place: of the model. scores [rows, vocabulary].
    """
    if scores.isnan().any():
        raise UserError(f"{place}: the logits are NaN. Its training diverged{advice_on_nan()}")
    return scores


class _Draws:
    """A logits processor: afterwards the largest score is a random draw (Gumbel-max trick).

    chosen: the numbers of the prompts whose rows are drawn.
    """

    def __init__(self, sampling: Sampling, chosen: list[int]):
        import torch
        from transformers import TopPLogitsWarper

        self.temperature = sampling.temperature
        self.warper = TopPLogitsWarper(sampling.top_p)
        seeds = [sampling.seeds[number] for number in chosen]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids, scores):
        """scores [rows, vocabulary]."""
        import torch

        scores = self.warper(input_ids, scores.float() / self.temperature)
        size = scores.shape[1]
        of_rows = [torch.rand(size, generator=generator) for generator in self.generators]
        uniform = torch.stack(of_rows).clamp_min(torch.finfo(torch.float32).tiny)
        return scores - (-uniform.log()).log().to(scores.device)

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows."""
        self.generators = [self.generators[row] for row in rows]


class RowWatch:
    """A stopping criterion for transformers.

    It ends a row at EOS or at a stop sequence, and all rows once half of them have ended.

    lengths: the number of new tokens of each row, None while it runs.
    """

    def __init__(self, tokenizer, prompt_width: int, rows: list[EncodedPrompt], how: Writing):
        self.tokenizer = tokenizer
        self.prompt_width = prompt_width
        self.rows = rows
        self.how = how
        self.lengths: list[int | None] = [None] * len(rows)
        # A token is at least one byte long, so a stop sequence that ends in the newest token
        # begins at most this many tokens back.
        self.tail = max(len(stop.encode()) for row in rows for stop in row.stops)

    def __call__(self, input_ids, scores, **_):
        """True for each row that must end.

        input_ids: prompts and new tokens, [rows, width].
        """
        new_tokens = input_ids.shape[1] - self.prompt_width
        self.how.on_token(new_tokens)
        tails = input_ids[:, -min(self.tail, new_tokens) :].tolist()
        is_all = new_tokens <= self.tail
        for place, (row, tail) in enumerate(zip(self.rows, tails, strict=True)):
            if self.lengths[place] is None and self._ends(row, tail, is_all):
                self.lengths[place] = new_tokens
        ended = [length is not None for length in self.lengths]
        if 2 * sum(ended) >= len(ended):
            ended = [True] * len(ended)
        return input_ids.new_tensor(ended).bool()

    def _ends(self, row: EncodedPrompt, tail: list[int], is_all: bool) -> bool:
        """is_all: whether the tail holds all new tokens. The first may repeat the prompt's end."""
        if tail[-1] in self.how.eos_ids:
            return True
        text = _text(self.tokenizer, row, tail) if is_all else _decode(self.tokenizer, tail)
        return any(stop in text for stop in row.stops)


def completion_of(
    tokenizer, row: EncodedPrompt, new_ids: list[int], eos_ids: list[int]
) -> Completion:
    """The text of a row's new tokens, and why it ended."""
    text = _text(tokenizer, row, new_ids)
    if any(stop in text for stop in row.stops):
        return Completion(text, "stop")
    return Completion(text, "eos" if new_ids[-1] in eos_ids else "length")


def _text(tokenizer, row: EncodedPrompt, new_ids: list[int]) -> str:
    """The text that the new tokens add to the whole prompt."""
    # A continuation that is decoded alone can lose its leading blank, and thus its indentation.
    whole = _decode(tokenizer, row.kept_ids + new_ids)
    return whole[len(_decode(tokenizer, row.prompt_ids)) :]


def _decode(tokenizer, token_ids: list[int]) -> str:
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Vocabulary:
    """The tokens of a tokenizer. Special tokens and single bytes are left out.

    The texts are the tokenizer's own, with `Ġ` or `▁` for a blank. There each token is whole, and
    the text of several tokens is the sum of their texts.
    """

    def __init__(self, tokenizer):
        added = tokenizer.added_tokens_decoder.items()
        special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
        self._texts = {
            number: text
            for text, number in tokenizer.get_vocab().items()
            if number not in special and not SINGLE_BYTE.fullmatch(text)
        }

    def replacements(self, token_id: int) -> list[int]:
        """The ids of the tokens that begin with the text of this one, and its own.

        Empty if there is no other one, or if this one is special or a single byte.
        """
        text = self._texts.get(token_id)
        if text is None:
            return []
        ids = [number for number, other in self._texts.items() if other.startswith(text)]
        return ids if len(ids) > 1 else []


def restrict_first(width: int, allowed: list[list[int]], input_ids, scores):
    """A logits processor: the first new token of each row is one of those that it may be.

    width: tokens of the prompts.
    allowed: the ids for each row; if empty, any token.
    scores: [rows, vocabulary].
    """
    import torch

    if input_ids.shape[1] > width:
        return scores
    excluded = torch.zeros_like(scores, dtype=torch.bool)
    for row, ids in enumerate(allowed):
        if ids:
            excluded[row] = True
            excluded[row, ids] = False
    return scores.masked_fill(excluded, -torch.inf)
