"""Finds out from the folders of a result which variant, seed and model it is about."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from xft.common.errors import UserError
from xft.config.sections import XftConfig
from xft.config.step_keys import READS, keys_of_step

EVALUATIONS_FOLDER = "eval"
SEED = "seed"
MARK = "~"  # between a key and its value


@dataclass(frozen=True)
class Subject:
    """What a result is about.

    changes: the keys with other values than the configuration's own, such as "moe.num_experts~4".
    model: `dense/lam~0.75`. seed: None if the path names none.
    """

    changes: tuple[str, ...]
    model: str
    seed: int | None = None

    @property
    def unseeded(self) -> "Subject":
        """The same model for all seeds."""
        return replace(self, seed=None)


def subject(
    result_file: Path, model_folder: str = "", above: str | None = EVALUATIONS_FOLDER
) -> Subject:
    """The subject of `[KEY~VALUE/...]eval/MODEL/DATASET.json`.

    above: the folder that the models' folders lie in; None if the result has no model in its path.
    """
    folders = result_file.parent.parts
    model = ""
    if above is not None:
        model = model_name(result_file, model_folder, above)
        depth = folders[::-1].index(above) + 1 if above in folders else 0
        folders = folders[: len(folders) - depth] if depth else ()
    changes = [*takewhile(_is_change, reversed(folders))][::-1]
    seeds = [int(part.partition(MARK)[2]) for part in changes if part.startswith(SEED + MARK)]
    varied = tuple(part for part in changes if not part.startswith(SEED + MARK))
    return Subject(varied, model, seeds[-1] if seeds else None)


def model_name(result_file: Path, model_folder: str, above: str = EVALUATIONS_FOLDER) -> str:
    """The folders between `eval/` (`above`) and a result file: `dense/lam~0.75`.

    If the result file is not below such a folder, the name is that of its model's folder.
    """
    *folders, _ = result_file.parts
    if above not in folders:
        return Path(model_folder).name
    depth = folders[::-1].index(above)
    return "/".join(folders[len(folders) - depth :]) or Path(model_folder).name


def _is_change(folder: str) -> bool:
    """Whether a folder names a key of the configuration and a value: `moe.num_experts~4`."""
    key, mark, value = folder.partition(MARK)
    section, dot, _ = key.partition(".")
    if key == SEED:
        return value.isdecimal()
    return bool(mark and dot and value) and section in XftConfig.model_fields


def with_own_seed(subjects: Sequence[Subject], own_seed: int | None) -> list[Subject]:
    """Give the own seed to the results whose path names none, if the model has other seeds too.

    A model without other seeds may not depend on the seed at all. It stays without one.
    """
    seeded = {one.unseeded for one in subjects if one.seed is not None}
    return [
        replace(one, seed=own_seed) if one.seed is None and one in seeded else one
        for one in subjects
    ]


def check_distinct(files: Mapping[Path, tuple[Subject, str]]) -> None:
    """Raise UserError if two results are about one subject with one seed, and one data set.

    files: subject and data set by file.
    """
    seen: dict[tuple[Subject, str], Path] = {}
    for file, about in files.items():
        if about[0].seed is not None and about in seen:
            raise UserError(
                f"{seen[about]} and {file} are both results of seed {about[0].seed}. Give "
                "--own-seed the seed of the results without seed~, or leave one of them out"
            )
        seen[about] = file


class Names:
    """The names of variants and models in texts."""

    def __init__(self, variants: Iterable[str] = ()):
        """variants: NAME=PREFIX each, where PREFIX is a path such as moe.shared_expert~false/.

        Raises UserError if one has another form, or if two have one name or one prefix.
        """
        self.names: dict[tuple[str, ...], str] = {}
        for words in variants:
            name, equals, prefix = words.partition("=")
            changes = Path(prefix).parts
            if not (name and equals) or not all(map(_is_change, changes)):
                raise UserError(
                    f"--variant {words}: must be NAME=PREFIX, such as "
                    "vanilla=moe.shared_expert~false/, or NAME= for the configuration's own values"
                )
            if changes in self.names or name in self.names.values():
                raise UserError(f"--variant {words}: another variant has this name or this prefix")
            self.names[changes] = name

    def variant(self, changes: tuple[str, ...]) -> str:
        """The name of a variant; else its changes as text. Empty for the configuration's own."""
        return self.names.get(changes) or ", ".join(map(_short, changes))

    def label(self, subject: Subject) -> str:
        """A name for a model of a variant, such as `dense/lam~0.75 (vanilla, seed~43)`.

        Without a model: `vanilla, seed~43`.
        """
        seed = "" if subject.seed is None else f"{SEED}{MARK}{subject.seed}"
        variation = ", ".join(filter(None, (self.variant(subject.changes), seed)))
        if subject.model and variation:
            return f"{subject.model} ({variation})"
        return subject.model or variation


def _short(change: str) -> str:
    """A change without the section of its key, if no other section has a key of this name."""
    names = {key for step in READS for key in keys_of_step(step).values()}
    counts = Counter(key.rpartition(".")[2] for key in names)
    key, mark, value = change.partition(MARK)
    name = key.rpartition(".")[2]
    return name + mark + value if counts[name] <= 1 else change
