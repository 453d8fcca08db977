"""The choice of a setting: by the mean loss over the seeds, without settings that diverged."""

import json
from pathlib import Path

import numpy as np
import pytest

from workflow_scripts import choose as step
from workflow_scripts import measure_chosen
from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import (
    CHOICE,
    DIVERGED,
    DIVERGED_FILE,
    LOSS_RESULT,
    manifest_path,
    read_manifest,
)
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.evaluation.choice import Candidate, Setting, choose, write_candidates


def setting(name: str, *losses: float | None, cost: float = 1) -> Setting:
    return Setting(name, dict(enumerate(losses)), cost)


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        # The best single model is one of a, the best mean is that of b.
        ([setting("a", 1.0, 3.0), setting("b", 1.8, 1.6), setting("c", 2.0, 2.0)], "b"),
        ([setting("dear", 1.0, 2.0, cost=9), setting("cheap", 2.0, 1.0)], "cheap"),
        ([setting("first", 1.5), setting("second", 1.5)], "first"),
        ([setting("a", 1.0, None), setting("b", 5.0, 6.0)], "b"),
    ],
    ids=["mean", "cheaper", "first", "diverged"],
)
def test_the_setting_with_the_lowest_mean_loss_is_chosen(settings, chosen):
    assert settings[choose(settings)].name == chosen


def test_no_setting_is_chosen_if_all_diverged():
    with pytest.raises(UserError, match=r"^all 2 settings diverged, .*: a; b\. Try lower learning"):
        choose([setting("a", 1.0, None), setting("b", None, None)])


# The step


@pytest.fixture
def tokens(tmp_path) -> Path:
    """Tokens with 6 rows. 4 rows are for training."""
    out = tmp_path / "tokens"
    held_out = np.array([0, 0, 1, 2, 0, 0], np.uint8)
    with create_artifact(out, "tokens") as draft:
        import torch

        tensor = torch.from_numpy(held_out)
        draft.write_tensors([TensorSpec("held_out", "U8", (6,), lambda: [tensor])])
    return out


def candidate(folder: Path, name: str, seed: int, loss: float | None, **more) -> Candidate:
    """A model, and the file of its loss or of its divergence. more: fields, and tokens."""
    place = folder / f"{name}-{seed}"
    (place / "model").mkdir(parents=True)
    measured = {"rows": [], "loss": loss, "tokens": more.pop("tokens", "t")}
    if loss is None:
        DIVERGED.write(place / DIVERGED_FILE, {"cause": "step 3: loss nan"})
    else:
        LOSS_RESULT.write(place / "loss.json", measured)
    paths = {"loss": f"{place.name}/loss.json", "model": f"{place.name}/model"}
    return Candidate(setting=name, seed=seed, **paths, **more)


def run(folder: Path, tokens: Path, candidates: list[Candidate]) -> dict:
    table = folder / "candidates.csv"
    table.write_text(write_candidates(candidates))
    out = folder / "out/chosen.json"
    step.main(["--candidates", str(table), "--data", str(tokens), "--out", str(out)])
    assert read_manifest(manifest_path(out)).kind == "choice"
    return CHOICE.read(out)


def test_the_step_links_the_chosen_models_and_tells_of_all_settings(tmp_path, tokens, capsys):
    content = run(
        tmp_path,
        tokens,
        [
            candidate(tmp_path, "rate=1", 7, 1.0, rows=8, epochs=0.5),
            candidate(tmp_path, "rate=1", 8, 1.5, rows=8, epochs=0.5),
            candidate(tmp_path, "rate=2", 7, 1.125),
            candidate(tmp_path, "rate=2", 8, 1.125),
            candidate(tmp_path, "rate=9", 7, None),
            candidate(tmp_path, "rate=9", 8, 0.5),
        ],
    )
    chosen = {"number": 1, "setting": "rate=2", "loss": 1.125, "margin": 0.125}
    assert content["chosen"] == chosen
    first, _, diverged = content["settings"]
    assert (first["loss"], first["losses"]) == (1.25, {"7": 1.0, "8": 1.5})
    assert first["cost"] == 2 * (8 + 0.5 * 4)
    assert (diverged["loss"], diverged["diverged"]) == (None, [7])
    links = {link.name: link.resolve() for link in (tmp_path / "out/models").iterdir()}
    assert links == {f"seed~{seed}": tmp_path / f"rate=2-{seed}/model" for seed in (7, 8)}
    told = "rate=2, of 3 settings: loss 1.1250, 0.1250 below the next (lower with 1 of 2 seeds); "
    assert f"{told}diverged and left out: rate=9" in capsys.readouterr().err


def test_the_choice_of_one_seed_says_that_it_is_one(tmp_path, tokens, capsys):
    candidates = [candidate(tmp_path, "a", 1, 1.5), candidate(tmp_path, "b", 1, 1.25)]
    run(tmp_path, tokens, candidates)
    told = "0.2500 below the next (with one seed; another seed may choose otherwise)"
    assert told in capsys.readouterr().err


def test_losses_of_other_rows_are_refused(tmp_path, tokens):
    candidates = [candidate(tmp_path, "a", 1, 1.0), candidate(tmp_path, "b", 1, 1.0, tokens="u")]
    with pytest.raises(UserError, match="the losses are not of the same rows"):
        run(tmp_path, tokens, candidates)
    with pytest.raises(UserError, match="names a with seed 1 twice"):
        run(tmp_path, tokens, [candidates[0], candidates[0]])


@pytest.fixture
def taking(tmp_path) -> list[str]:
    """The command line that takes the second of two results. The first one is missing."""
    choice, result = tmp_path / "chosen.json", tmp_path / "b/result.json"
    CHOICE.write(choice, {"chosen": {"number": 1, "setting": "b"}, "settings": [{}, {}]})
    LOSS_RESULT.write(result, {"rows": [], "loss": 1.0})
    return [f"--choice={choice}", "--results", str(tmp_path / "a/result.json"), str(result)]


def test_the_result_of_the_chosen_setting_is_taken_with_what_lies_beside_it(tmp_path, taking):
    """Those of other settings may be missing."""
    out, result = tmp_path / "out/result.json", Path(taking[-1])
    measure_chosen.main([*taking, f"--out={out}"])
    assert json.loads(out.read_text())["loss"] == 1.0
    assert read_manifest(manifest_path(out)).id == read_manifest(manifest_path(result)).id
    with pytest.raises(UserError, match=r"--results names 1 files, but .* is about 2 settings"):
        measure_chosen.main([*taking[:-1], f"--out={out}"])


@pytest.mark.parametrize("loss", [None, "2.0", "10.0"], ids=["gone", "altered", "longer"])
def test_a_result_that_does_not_fit_its_manifest_is_not_taken(tmp_path, taking, loss):
    out, result = tmp_path / "out/result.json", Path(taking[-1])
    if loss:
        result.write_text(result.read_text().replace("1.0", loss))
    else:
        result.unlink()
    with pytest.raises(
        UserError, match=r"b/result.json does not fit its manifest: .*Make it again"
    ):
        measure_chosen.main([*taking, f"--out={out}"])
    assert not out.parent.exists()
