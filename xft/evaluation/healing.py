"""Token healing: the last token of a prompt is taken back, and the model chooses it again.

A prompt can end within a token of the texts that a model was trained on. For example, it ends at
three quotation marks. In the texts a newline follows, and the marks with the newline are one token.
Then the model must continue from a place that it hardly saw in training. So the last token is taken
back, and the first new token may be any that begins with its text.
"""

import re

SINGLE_BYTE = re.compile("<0x[0-9A-F]{2}>")


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
