"""Choose a setting of a method: that with the lowest mean loss over the seeds.

The table of candidates has a row for each setting and seed: setting, seed, loss (a file of step
validation_loss with --rows choice) and model (a folder), with paths relative to its own. Of equal
losses the cheaper setting is chosen, by the columns rows and epochs, and then the first one. A
setting that diverged with one of the seeds is left out. The chosen models are linked beside --out,
as models/seed~SEED.
"""

import os

from xft.artifacts.manifest import CHOICE, hash_file
from xft.cli.step import Step, run
from xft.common.progress import say
from xft.config.steps import MODELS_OF_CHOICE
from xft.evaluation.choice import choice_text, choose, described, read_candidates, read_settings


def main(argv: list[str] | None = None) -> None:
    step = Step("choose", __doc__)
    step.path("--candidates", "FILE", "The table of candidates, CSV.")
    step.artifact("--data", "Tokens, from step tokens, that the trainings learn from.")
    step.output("--out", "FILE", "The choice, JSON.")
    args = step.parse_args(argv)
    tokens = step.open("tokens", args.data, "tokens")
    candidates = read_candidates(args.candidates)
    training_rows = int((tokens.checkpoint.get("held_out") == 0).sum())
    settings = read_settings(candidates, training_rows)
    best = choose(settings)
    folder = args.out.parent / MODELS_OF_CHOICE
    folder.mkdir(parents=True, exist_ok=True)
    for candidate in candidates:
        if candidate.setting == settings[best].name:
            link = folder / f"seed~{candidate.seed}"
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(candidate.model, folder))
    content = described(settings, best)
    inputs = dict(step.ids)
    for number, candidate in enumerate(candidates, 1):
        if candidate.loss.is_file():
            inputs[f"loss {number}"] = hash_file(candidate.loss)
    CHOICE.write(args.out, content, inputs=inputs)
    say(choice_text(content))


if __name__ == "__main__":
    run("choose", main)
