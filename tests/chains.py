"""Tiny artifacts that belong together, from the base to the merged model."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

SIZES = ["--num-experts", "4", "--num-experts-per-tok", "3"]
OPTIONS = {"moe": SIZES, "weighted_init": ["--lam", "0.75"]}


def run_here(step: str, words: Iterable) -> None:
    """Run a step in this process."""
    importlib.import_module(f"workflow_scripts.{step}").main([*map(str, words)])


class Chain:
    """The artifacts of a chain of steps. Each is made, at folder/STEP, if it is asked for.

    `Chain(folder, base=model)["dense"]` makes moe, ffn, weighted_init and dense. `given` are
    artifacts that are there already, and `data`, the rows. `options` are the flags of a step
    besides its inputs, in place of those in OPTIONS. The merged model is that of a training if the
    training is given or has options. `mixture`, `weighted`: the names of those
    that are merged.
    """

    def __init__(self, folder: Path, options: Mapping = {}, **given: Path):
        self.folder = folder
        self._options = OPTIONS | options
        self._made = dict(given)
        trained = self._options.keys() | given
        self.mixture = "moe_sft" if "moe_sft" in trained else "moe"
        self.weighted = "weighted_trained" if "weighted_trained" in trained else "weighted_init"

    def __getitem__(self, name: str) -> Path:
        if name not in self._made:
            out = self.folder / name
            run_here(name, [*self.words(name), "--out", out])
            self._made[name] = out
        return self._made[name]

    def words(self, step: str) -> list[str]:
        """The arguments of a step but its --out. Its inputs are made."""
        inputs = [(flag, str(self[name])) for flag, name in self._inputs(step).items()]
        options = map(str, self._options.get(step, []))
        return [*(word for pair in inputs for word in pair), *options]

    def _inputs(self, step: str) -> dict[str, str]:
        """The names of a step's inputs, by their flags."""
        sources = {"--moe": self.mixture, "--ffn": "ffn"}
        return {
            "base": {},
            "sft": {"--base": "base", "--data": "data"},
            "moe": {"--base": "base"},
            "moe_sft": {"--moe": "moe", "--data": "data"},
            "ffn": {"--moe": self.mixture},
            "weighted_init": sources,
            "weighted_trained": {"--weighted": "weighted_init", **sources, "--data": "data"},
            "dense": {"--weighted": self.weighted, **sources},
            "tokens": {"--model": "base", "--data": "data"},
        }[step]
