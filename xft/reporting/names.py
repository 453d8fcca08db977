"""Short names of models, and of swept keys with their values: one form in tables and charts.

Such as `dense 0.75, lr 5e-4`. Paths in the results folder keep their own form.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath

from xft.config.sections import MERGED
from xft.hub.named_sets import set_in_words

MERGE = re.compile(r"(?P<kind>\w+)/lam~(?P<lam>[\d.]+)")
OWN_FOLDERS = re.compile(r"((?:[^/]*~[^/]*(?:/|$))*)(.*)")  # of a variant and seed, and the rest
SHORT_KEYS = {
    "learning_rate": "lr",
    "num_experts": "experts",
    "num_experts_per_tok": "top-k",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
}
SMALL, LARGE = 0.01, 1e6  # numbers beyond these have an exponent
DIGITS = 6  # of a number that is no integer


def name_list(names: Sequence[str]) -> str:
    """The names as words: `a, b and c`. Empty without names."""
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


def sets_text(datasets: Sequence[str]) -> str:
    """Data sets in a sentence: `humaneval and "problems"`."""
    return name_list([set_in_words(name) for name in datasets])


def model_text(model: str) -> str:
    """`dense 0.75` of the model `dense/lam~0.75`. Other results of a lambda say what the number is:
    `weighted_trained, lambda 0.75`.
    """
    merge = MERGE.fullmatch(model)
    if not merge:
        return model
    kind, lam = merge["kind"], merge["lam"]
    return f"{kind} {lam}" if kind in MERGED else f"{kind}, lambda {lam}"


def without_lambda(model: str) -> tuple[str, float | None]:
    """`dense` and 0.75 of the model `dense/lam~0.75`; None for a model that is not merged."""
    merge = MERGE.fullmatch(model)
    return (merge["kind"], float(merge["lam"])) if merge else (model, None)


def key_texts(keys: Collection[str]) -> dict[str, str]:
    """`lr` for `sft.learning_rate`; `sft.lr` if several sections have the key."""
    sections: dict[str, str] = {}
    ends: dict[str, str] = {}
    for key in keys:
        section, _, end = key.rpartition(".")
        sections[key] = section
        ends[key] = SHORT_KEYS.get(end, end)
    count = Counter(ends.values())
    texts = {}
    for key, end in ends.items():
        has_section = sections[key] and count[end] > 1
        texts[key] = f"{sections[key]}.{end}" if has_section else end
    return texts


def value_texts(values: Iterable[object]) -> list[str]:
    """Short texts of the values of a key. Values that would look alike have their full texts."""
    values = [*values]
    short = [value_text(value) for value in values]
    count = Counter(short)
    return [
        text if count[text] == 1 else _full_text(value)
        for text, value in zip(short, values, strict=True)
    ]


def value_text(value: object) -> str:
    """`5e-4` for 0.0005, the file's name for a path, and the function's for code in a file."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    if isinstance(value, list) and value:
        return " + ".join(map(value_text, value))
    if isinstance(value, str):
        path, _, function = value.partition(".py:")
        return function or PurePosixPath(path).name or value
    return json.dumps(value)


def number_text(value: float) -> str:
    """A number with at most so many digits, and with an exponent if it is small or large."""
    rounded = f"{value:.{DIGITS}g}" if isinstance(value, float) else value
    number = Decimal(rounded).normalize()
    has_exponent = value and not SMALL <= abs(value) < LARGE
    return format(number, "e" if has_exponent else "f").replace("e+", "e")


def _full_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def path_text(name: str) -> str:
    """A name in the results folder: `moe_sft, lr 5e-4, seed 43`."""
    folders, rest = OWN_FOLDERS.match(name).groups()
    texts = {}
    for folder in folders.strip("/").split("/"):
        if folder:
            key, _, value = folder.partition("~")
            texts[key] = _path_value_text(value)
    short_keys = key_texts(_different(texts))
    words = [f"{short} {texts[key]}" for key, short in short_keys.items()]
    return ", ".join(filter(None, [model_text(rest), *words]))


def _different(texts: Mapping[str, str]) -> list[str]:
    """The keys without those that follow another section's key of the same name and value."""
    first = {}
    for key, text in texts.items():
        first.setdefault((key.rpartition(".")[2], text), key)
    return list(first.values())


def _path_value_text(text: str) -> str:
    try:
        return number_text(float(text)) if "e" in text or "." in text else text
    except ValueError:
        return text
