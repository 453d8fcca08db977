"""Token healing: the last token of a prompt is taken back, and the model chooses it again.

A prompt can end within a token of the texts that a model was trained on. For example, it ends at
three quotation marks. In the texts a newline follows, and the marks with the newline are one token.
Then the model must continue from a place that it hardly saw in training. So the last token is taken
back, and the first new token may be any that begins with its text.
"""

import re
from bisect import bisect_left, bisect_right

SINGLE_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Vocabulary:
    """The tokens of a tokenizer, sorted by text. Special tokens and single bytes are left out.

    The texts are the tokenizer's own, with `Ġ` or `▁` for a blank. There each token is whole, and
    the text of several tokens is the sum of their texts.
    """

    def __init__(self, tokenizer):
        added = tokenizer.added_tokens_decoder.items()
        special = {*tokenizer.all_special_ids, *(number for number, one in added if one.special)}
        tokens = sorted(
            (text, number)
            for text, number in tokenizer.get_vocab().items()
            if number not in special and not SINGLE_BYTE.fullmatch(text)
        )
        self._texts = [text for text, _ in tokens]
        self._ids = [number for _, number in tokens]
        self._text_of = dict(zip(self._ids, self._texts, strict=True))

    def replacements(self, token_id: int) -> list[int]:
        """The ids of the tokens that begin with the text of this one, and its own.

        Empty if there is no other one, or if this one is special or a single byte.
        """
        text = self._text_of.get(token_id)
        if text is None:
            return []
        start = bisect_left(self._texts, text)
        end = bisect_right(self._texts, text, key=lambda other: other[: len(text)])
        return self._ids[start:end] if end - start > 1 else []


class FirstTokens:
    """A logits processor: the first new token of each row is one of those that it may be.

    width: tokens of the prompts. allowed: the ids for each row; if empty, any token.
    """

    def __init__(self, width: int, allowed: list[list[int]]):
        self.width = width
        self.allowed = allowed

    def __call__(self, input_ids, scores):
        """scores [rows, vocabulary]."""
        import torch

        if input_ids.shape[1] > self.width:
            return scores
        excluded = torch.zeros_like(scores, dtype=torch.bool)
        for row, ids in enumerate(self.allowed):
            if ids:
                excluded[row] = True
                excluded[row, ids] = False
        return scores.masked_fill(excluded, -torch.inf)
