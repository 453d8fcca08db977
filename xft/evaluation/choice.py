"""Chooses the setting of a method with the lowest mean loss over the seeds."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from math import inf
from pathlib import Path
from statistics import mean

from xft.artifacts.manifest import DIVERGED_FILE, LOSS_RESULT
from xft.common.errors import UserError, counted
from xft.common.file_access import read_text
from xft.config.reading import validated
from xft.config.section import Section, as_csv


class Candidate(Section, strict=False):
    """A model of a method, at one of its settings and with one seed.

    setting: the values that were tried, in words.
    loss: the file with the loss on the choice rows.
    model: its folder.
    rows, epochs: what its trainings see, each row once for each expert that computes a token.
    """

    setting: str
    seed: int
    loss: Path
    model: Path
    rows: float = 0.0
    epochs: float = 0.0


@dataclass(frozen=True)
class Setting:
    """A setting of a method.

    losses: by seed; None of a model that diverged.
    cost: the rows that its trainings see.
    """

    name: str
    losses: dict[int, float | None]
    cost: float

    @property
    def diverged(self) -> list[int]:
        """The seeds with which it diverged."""
        return [seed for seed, loss in self.losses.items() if loss is None]

    @property
    def loss(self) -> float:
        """The mean over the seeds; infinite if it diverged with one of them."""
        return inf if self.diverged else mean(self.losses.values())


def write_candidates(candidates: Iterable[Candidate]) -> str:
    """The table of candidates as CSV."""
    return as_csv(Candidate, candidates)


def read_candidates(file: Path) -> list[Candidate]:
    """The candidates in a table. Its paths are relative to its folder.

    Raises UserError if it is no such table, has no rows, or names a setting and seed twice.
    """
    table = csv.DictReader(StringIO(read_text(file)), strict=True)
    try:
        candidates = [
            validated(Candidate, _values(line, file), f"{file}, line {table.line_num}")
            for line in table
        ]
    except csv.Error as error:
        raise UserError(f"{file} is not a CSV file: {error}") from None
    if not candidates:
        raise UserError(f"{file} names no candidates. Add a row for each model")
    known = [(candidate.setting, candidate.seed) for candidate in candidates]
    for setting, seed in known:
        if known.count((setting, seed)) > 1:
            raise UserError(f"{file} names {setting} with seed {seed} twice. Leave one of them out")
    return candidates


def _values(line: dict[str, str], table: Path) -> dict[str, object]:
    """The values of a row, with paths as seen from here. Empty cells are left out."""
    known = {name: value for name, value in line.items() if value}
    paths = {name: known[name] for name in ("loss", "model") if name in known}
    return known | {name: os.path.normpath(table.parent / paths[name]) for name in paths}


def read_settings(candidates: Sequence[Candidate], training_rows: int) -> list[Setting]:
    """The settings of candidates, in their order.

    Raises UserError if a file holds no loss, or if the losses are of different rows.

    training_rows: of an epoch.
    """
    measured = {candidate.loss: _measured(candidate.loss) for candidate in candidates}
    tokens = {content["tokens"] for content in measured.values() if content["loss"] is not None}
    if len(tokens) > 1:
        raise UserError(
            "the losses are not of the same rows, so they do not compare: "
            f"{', '.join(map(str, measured))}. Measure all with the same tokens"
        )
    by_setting: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_setting.setdefault(candidate.setting, []).append(candidate)
    settings = []
    for name, models in by_setting.items():
        losses = {model.seed: measured[model.loss]["loss"] for model in models}
        cost = sum(model.rows + model.epochs * training_rows for model in models)
        settings.append(Setting(name, losses, cost))
    return settings


def _measured(file: Path) -> dict:
    """The content of a file of a loss. The loss is None if the training diverged before."""
    if file.with_name(DIVERGED_FILE).is_file():
        return {"loss": None}
    return LOSS_RESULT.read(file)


def choose(settings: Sequence[Setting]) -> int:
    """The number of the setting with the lowest mean loss, from 0.

    Of equal ones it is the cheapest, and then the first. Raises UserError if all diverged.
    """

    def order(number: int) -> tuple[float, float, int]:
        setting = settings[number]
        return setting.loss, setting.cost, number

    best = min(range(len(settings)), key=order)
    if settings[best].diverged:
        names = "; ".join(setting.name for setting in settings)
        raise UserError(
            f"all {counted(len(settings), 'setting')} diverged, so none can be chosen: {names}. "
            "Try lower learning rates, or more warmup_steps"
        )
    return best


def described(settings: Sequence[Setting], best: int) -> dict:
    """The content of chosen.json.

    chosen: the number, setting and loss of the chosen setting, and margin: how much lower its loss
    is than that of the next setting. The margin is None without a next setting.
    settings: of all the setting, the mean loss (None if it diverged), the losses by seed, the cost
    and the seeds with which it diverged.
    """
    chosen = settings[best]
    other_losses = [setting.loss for number, setting in enumerate(settings) if number != best]
    next_loss = min(other_losses, default=inf)
    return {
        "chosen": {
            "number": best,
            "setting": chosen.name,
            "loss": chosen.loss,
            "margin": None if next_loss == inf else next_loss - chosen.loss,
        },
        "settings": [
            {
                "setting": setting.name,
                "loss": None if setting.diverged else setting.loss,
                "losses": {str(seed): loss for seed, loss in setting.losses.items()},
                "cost": setting.cost,
                "diverged": setting.diverged,
            }
            for setting in settings
        ],
    }


def choice_text(content: dict) -> str:
    """The choice in one line. content: of chosen.json."""
    chosen = content["chosen"]
    settings = content["settings"]
    text = f"{chosen['setting']}, of {counted(len(settings), 'setting')}: loss {chosen['loss']:.4f}"
    if chosen["margin"] is not None:
        text += f", {chosen['margin']:.4f} below the next ({_agreement(content)})"
    diverged = [setting["setting"] for setting in settings if setting["diverged"]]
    if diverged:
        text += f"; diverged and left out: {'; '.join(diverged)}"
    return text


def _agreement(content: dict) -> str:
    """With how many seeds the chosen setting has a lower loss than the next one."""
    best = content["chosen"]["number"]
    losses = content["settings"][best]["losses"]
    if len(losses) == 1:
        return "with one seed; another seed may choose otherwise"
    others = [
        setting
        for number, setting in enumerate(content["settings"])
        if number != best and not setting["diverged"]
    ]
    next_setting = min(others, key=lambda setting: setting["loss"])
    lower = sum(losses[seed] < next_setting["losses"][seed] for seed in losses)
    return f"lower with {lower} of {len(losses)} seeds"
