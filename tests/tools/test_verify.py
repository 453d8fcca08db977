"""The step `verify`: what it reports of artifacts, of their lineage, and of what is amiss."""

import shutil
from pathlib import Path

import pytest
from damage import rewrite
from trainings import identity

from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import Manifest, hash_files, manifest_path, short
from xft.common.errors import UserError
from xft.store.store import MARK, Recipe, finish, partial
from xft.tools import verify

DATA = "d" * 64


def make(out, kind, **inputs) -> Path:
    """An artifact of one file. `inputs` are paths of other artifacts, or hashes."""
    ids = {name: made if isinstance(made, str) else identity(made) for name, made in inputs.items()}
    with create_artifact(out, kind, inputs=ids) as draft:
        (draft.path / "a.txt").write_text("content")
    return out


@pytest.fixture
def made(tmp_path, monkeypatch) -> dict[str, Path]:
    """Artifacts in results/, where one stands."""
    monkeypatch.chdir(tmp_path)
    results = Path("results")
    made = {"base": make(results / "base", "base")}
    made["moe"] = make(results / "moe", "moe", base=made["base"], data=DATA)
    made["ffn"] = make(results / "ffn", "ffn", moe=made["moe"])
    made["dense"] = make(results / "dense" / "lam~0.5", "dense", moe=made["moe"], ffn=made["ffn"])
    made["soup"] = make(results / "soup", "soup", model=made["dense"])
    made["eval"] = out = results / "eval" / "dense" / "problems.json"
    out.parent.mkdir(parents=True)
    files = {file.name: file for file in (out, out.with_name("problems.generations.jsonl"))}
    for file in files.values():
        file.write_text("{}")
    inputs = {"dataset": DATA, "model": identity(made["dense"])}
    stated = Manifest("eval", hash_files(files), {"limit": 4}, inputs)
    manifest_path(out).write_text(stated.to_json())
    return made


def run(capsys, *arguments) -> tuple[dict[str, list[str]], str]:
    """What verify prints of each artifact, as its lines, and its message."""
    try:
        verify.main([str(argument) for argument in arguments])
        message = None
    except UserError as error:
        message = str(error)
    output = capsys.readouterr()
    blocks, name = {}, None
    for line in output.out.splitlines():
        if line.startswith("    "):
            blocks[name].append(line.strip())
        else:
            name, _, rest = line.partition(": ")
            blocks[name] = [rest]
    return blocks, message or output.err.strip()


# What is sound


def test_a_sound_results_folder_is_told_with_its_lineage(made, capsys):
    blocks, message = run(capsys, "results", "--full")
    assert message == "6 of 6 artifacts fit their manifests"
    assert blocks.keys() == {str(path) for path in made.values()}
    ids = {name: short(identity(path)) for name, path in made.items()}
    assert blocks["results/base"] == [f"base {ids['base']}, fits"]
    base, dense = f"{ids['base']}, results/base", f"{ids['dense']}, results/dense/lam~0.5"
    lineage = [f"moe {ids['moe']}, fits", f"from base {base}", "from data dddddddd"]
    assert blocks["results/moe"] == lineage
    lineage = [f"eval {ids['eval']}, fits", "from dataset dddddddd", f"from model {dense}"]
    assert blocks["results/eval/dense/problems.json"] == lineage


def test_a_store_is_told_with_what_it_has_from_other_stores(made, capsys):
    place = Path("store/moe")
    own, linked, gone = (place / (digit * 16) for digit in "012")
    (place / f"{'3' * 16}.partial").mkdir(parents=True)  # by a job that runs
    Path("store", MARK).touch()
    make(own / "artifact", "moe")
    linked.symlink_to(make(Path("theirs/artifact"), "moe").parent.absolute())
    blocks, message = run(capsys, "store")
    assert blocks.keys() == {f"{entry}/artifact" for entry in (own, linked)}
    assert message == "2 of 2 artifacts fit their manifests"
    gone.symlink_to("nowhere")
    assert run(capsys, "store")[1] == f"{gone}: no manifest beside it and none below it"


# What is amiss


def stored(store: str, step: str, metrics: str = "", **inputs) -> Path:
    """The entry of an artifact, with metrics beside it, whose inputs have these digests."""
    recipe = Recipe(step, 1, {}, inputs)
    entry = Path(store, step, recipe.digest)
    make(partial(entry) / "artifact", step)
    (partial(entry) / "metrics.jsonl").write_text(metrics)
    finish(entry, recipe)
    Path(store, MARK).touch()
    return entry


def test_what_a_store_no_longer_holds_is_told_and_is_no_fault(tmp_path, monkeypatch, capsys):
    """An artifact that is linked from another store may have its inputs there."""
    monkeypatch.chdir(tmp_path)

    def lost() -> list[str]:
        verify.main(["store"])
        return [line for line in capsys.readouterr().out.splitlines() if "no longer" in line]

    base = stored("theirs", "base", model=DATA)
    moe = stored("theirs", "moe", base=base.name)
    first, _ = (stored("store", step, moe=moe.name) for step in ("ffn", "moe_sft"))
    link = Path("store", *moe.parts[1:])
    link.parent.mkdir()
    link.symlink_to(moe.absolute())
    assert lost() == []
    shutil.rmtree(base)
    assert lost() == [f"{base.name}, the base of {link}, is no longer in the store"]
    link.unlink()
    assert lost() == [f"{moe.name}, the moe of {first} and 1 more, is no longer in the store"]


def test_full_compares_every_byte_of_an_entry(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    entry = stored("store", "moe", metrics="a loss")
    sound = "1 of 1 artifacts fit their manifests"
    assert run(capsys, "store", "--full")[1] == sound
    for file in (path for path in entry.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for change in (content.swapcase(), content.replace(b"1", b"2"), content + b" "):
            rewrite(file, change)
            told = run(capsys, "store", "--full")[1]
            assert (told == sound) == (change == content) and (told == sound or str(entry) in told)
        rewrite(file, content)
    assert run(capsys, "store", "--full")[1] == sound


def test_every_fault_of_every_artifact_is_reported(made, capsys):
    rewrite(made["moe"] / "a.txt", b"longer content")
    (made["moe"] / "c.txt").touch()
    manifest_path(made["eval"]).unlink()
    manifest_path(made["eval"]).mkdir()
    made["soup"].rename("elsewhere")
    blocks, message = run(capsys, "nowhere", "results")
    for fault in (
        "nowhere: no manifest beside it and none below it",
        "results/moe/a.txt has 14 bytes, not 7",
        "results/moe/c.txt is not in the manifest",
        "results/eval/dense/problems.json.manifest.json is a folder, not a file",
        "results/soup is missing, but its manifest is there",
    ):
        assert [each.startswith(fault) for each in message.split("; ")].count(True) == 1, fault
    assert "! results/moe/a.txt has 14 bytes, not 7" in blocks["results/moe"]
    assert "! results/moe/c.txt is not in the manifest" in blocks["results/moe"]


@pytest.mark.parametrize(("parameters", "is_local"), [({}, True), ({"model": "a/b"}, False)])
def test_a_change_of_the_users_model_is_told_as_such(made, capsys, parameters, is_local):
    model, linked = Path("model").absolute(), Path("results/linked")
    model.mkdir()
    for name in ("a.json", "b.json"):
        (model / name).write_text("{}")
    with create_artifact(linked, "base", parameters) as draft:
        for file in model.iterdir():
            (draft.path / file.name).symlink_to(file)
    assert run(capsys, linked)[1] == "1 of 1 artifacts fit their manifests"
    (model / "a.json").write_text("[0]")
    _, message = run(capsys, linked)
    assert message.startswith(f"{linked}/a.json links to {model}/a.json, which has 3 bytes, not 2")
    advice = f"; {linked} links to your own model. If you changed it, the next snakemake run makes"
    assert (advice in message) == is_local
    (model / "b.json").unlink()
    assert f"{linked}/b.json links to {model}/b.json, which is missing" in run(capsys, linked)[1]


def test_names_that_are_no_text_are_told(made, run_step):
    Path(b"results/moe/\xff".decode(errors="surrogateescape")).touch()
    result = run_step("verify", "results", cwd=Path.cwd())
    assert result.stderr == "verify: error: results/moe/\\udcff is not in the manifest\n"
