"""The steps `base` and `fetch_data` as processes of their own, against a hub on this machine."""

import hashlib
import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from problem_files import DOUBLE

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.config.sections import TokensConfig
from xft.data.row_files import read_files
from xft.hub.named_sets import NAMED_SETS

MODEL = "org/name"
ROWS = b'{"instruction": "a", "response": "b"}\n' * 1000
TOKEN = "hf_aTokenThatNobodyMayRead"
CARD = {"README.md": b"---\nlicense: mit\n---\n"}
# What a repository has beside the model: formats of others, pickles, pictures.
AGAIN = "consolidated.safetensors", "onnx/model.onnx", "original/consolidated.00.pth"
BESIDE = dict.fromkeys(("pytorch_model.bin", "training_args.bin"), b"a pickle")
BESIDE |= dict.fromkeys(AGAIN, b"the weights again") | {"figure.png": b"a picture"}
NO_WEIGHTS = {"config.json": b"{}", "tokenizer.json": b'{"version": "1.0"}'}


@pytest.fixture
def model(tiny_llama) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny_llama.iterdir()}


@pytest.fixture
def base(run_step, tmp_path):
    """Callable (revision): run the step `base` on org/name. Each run has another --out."""

    def run(revision: str):
        run.out = tmp_path / f"base{len(list(tmp_path.glob('base*.manifest.json')))}"
        return run_step("base", "--model", MODEL, "--revision", revision, "--out", run.out)

    return run


@pytest.fixture
def fetch_data(run_step, tmp_path):
    """Callable (source, revision, *flags): run the step `fetch_data`, to rows/out."""

    def run(source: str, revision: str, *flags: str):
        words = ["--train", source, "--revision", revision, "--out", tmp_path / "rows" / "out"]
        return run_step("fetch_data", *words, *flags, cwd=tmp_path)

    return run


def assert_refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    """One line says why, without a stack trace."""
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert ": error: " in last and "Traceback" not in done.stderr
    for part in parts:
        assert part in last


def contents(folder: Path) -> bytes:
    """All that lies below a folder, names too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


def test_only_what_a_model_needs_is_fetched_and_only_once(hub, base, model, tmp_path, monkeypatch):
    """From a private repository, by a token that nobody sees."""
    hub.tokens = {TOKEN}
    revision = hub.add(MODEL, model | CARD | BESIDE, readers={TOKEN})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = base(revision)
    assert done.returncode == 0, done.stderr
    assert hub.fetched() == sorted(model | CARD)
    manifest = json.loads(Path(f"{base.out}.manifest.json").read_text())
    assert manifest["parameters"] == {"model": MODEL, "revision": revision, "license": "mit"}
    assert {name: (base.out / name).read_bytes() for name in manifest["files"]} == model
    assert TOKEN not in done.stdout + done.stderr
    assert TOKEN.encode() not in contents(tmp_path)
    hub.requests.clear()
    assert base(revision).returncode == 0
    assert hub.requests == []


def test_of_weights_in_shards_those_of_the_index_are_fetched(hub: Hub, base):
    shards = {f"model-0000{i}-of-00002.safetensors": b"shard %d" % i for i in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    files = NO_WEIGHTS | shards | {"model.safetensors.index.json": index}
    done = base(hub.add(MODEL, files | BESIDE | {"model.safetensors": b"the weights again"}))
    assert hub.fetched() == sorted(files)
    assert_refused(done, "model-00001-of-00002.safetensors")  # a word is no weights


def test_what_the_hub_refuses_is_told(hub: Hub, base, fetch_data, monkeypatch):
    unknown = hub.add("org/rows", {"rows.jsonl": ROWS}, kind="datasets")[::-1]
    refused = fetch_data("org/rows/rows.jsonl", unknown), "Revision Not Found"
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # a wrong one
    revision = hub.add(MODEL, NO_WEIGHTS, readers=set())
    for (done, message), asked in ((refused, unknown), ((base(revision), "401"), revision)):
        assert_refused(done, f"at {asked} could not be fetched: ", message, "needs HF_TOKEN")
        assert TOKEN not in done.stderr


# The hub's library tries again for half a minute.
NO_NETWORK = pytest.param("HF_ENDPOINT", marks=pytest.mark.slow)


@pytest.mark.parametrize("setting", [NO_NETWORK, "HF_HUB_OFFLINE"])
def test_without_a_network_it_is_told_how_to_go_on(hub: Hub, base, monkeypatch, setting):
    monkeypatch.setenv(setting, {"HF_ENDPOINT": "http://127.0.0.1:9"}.get(setting, "1"))
    done = base("0123456789" * 4)
    assert_refused(done, f"{MODEL} at 0123456789", "docs/hub.md, section Offline machines")


def test_a_model_of_pickles_alone_is_refused_and_not_fetched(hub: Hub, base):
    done = base(hub.add(MODEL, NO_WEIGHTS | BESIDE | {"consolidated.safetensors": b""}))
    assert_refused(done, "has no model.safetensors and no model.", "pickles", "convert")
    assert hub.fetched() == sorted(NO_WEIGHTS)


def test_rows_are_fetched_once_with_a_token(hub: Hub, fetch_data, tmp_path, monkeypatch):
    hub.tokens = {TOKEN}
    revision = hub.add(MODEL, {"a/rows.jsonl": ROWS}, kind="datasets", readers={TOKEN})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = fetch_data(f"{MODEL}/a/rows.jsonl", revision)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "rows" / "out").read_bytes() == ROWS
    assert TOKEN.encode() not in contents(tmp_path)
    hub.requests.clear()
    assert fetch_data(f"{MODEL}/a/rows.jsonl", revision).returncode == 0
    assert hub.requests == []


def test_a_set_of_multipl_e_is_fetched_once_and_known_by_its_name(hub, run_step, tmp_path):
    chosen = NAMED_SETS["multipl-e/humaneval-sh"]
    pq.write_table(pa.Table.from_pylist([DOUBLE]), tmp_path / "given.parquet")
    files = {chosen.place: (tmp_path / "given.parquet").read_bytes()}
    hub.add("nuprl/MultiPL-E", files, kind="datasets", commit=chosen.revision)
    fetched = tmp_path / chosen.file
    words = "--dataset", chosen.name, "--out"
    for requests in (True, False):
        assert run_step("fetch_problems", *words, fetched).returncode == 0
        assert fetched.read_bytes() == files[chosen.place]
        assert bool(hub.requests) == requests
        hub.requests.clear()
    assert run_step("ground_truth", *words, tmp_path / "truth").returncode == 0
    known = read_manifest(manifest_path(tmp_path / "truth")).inputs["dataset"]
    assert known == hashlib.sha256(files[chosen.place]).hexdigest()


def test_of_a_whole_data_set_files_of_rows_are_fetched(hub: Hub, fetch_data, tmp_path):
    """The rows of a split, over those of another one, and not the local folder of that name."""
    files = dict(CARD)
    for split in ("train", "test"):
        rows = [{"instruction": f"{split} {i}", "response": "r", "other": i} for i in range(3)]
        files[f"data/{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    beside = {"model.pkl": b"a pickle", "loader.py": b"raise SystemExit", "cat.png": b""}
    revision = hub.add(MODEL, files | beside, kind="datasets")
    (tmp_path / MODEL).mkdir(parents=True)
    (tmp_path / MODEL / "test.jsonl").write_bytes(ROWS)
    for split in ("train", "test"):
        done = fetch_data(MODEL, revision, "--split", split)
        assert done.returncode == 0, done.stderr
    assert hub.fetched() == ["README.md", "test.jsonl", "train.jsonl"]
    out = tmp_path / "rows" / "out"
    rows, _ = read_files([out], TokensConfig())
    assert [row.instruction for row in rows] == [f"test {i}" for i in range(3)]
    known = read_manifest(manifest_path(out)).parameters
    assert (known["split"], known["datasets"]) == ("test", [MODEL])
    done = fetch_data(MODEL, revision, "--split", "dev")
    assert_refused(done, f"{MODEL} at {revision}, split dev, cannot be read: ")


FILES = "---\nconfigs: [{{config_name: default, data_files: [{{split: train, path: {}}}]}}]\n---\n"


def test_a_data_set_names_only_its_own_files(hub: Hub, fetch_data, tmp_path):
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(ROWS)
    outside = secret, "../../secret.jsonl", "http://127.0.0.1:9/x.jsonl"
    faults = dict.fromkeys(outside, "as rows, which is not in the data set")
    faults |= dict.fromkeys(("&a [*a]", "["), "its README.md cannot be read")
    for path, fault in (faults | {"[data/tr*.jsonl]": None}).items():
        files = {"data/train.jsonl": ROWS, "README.md": FILES.format(path).encode()}
        done = fetch_data(MODEL, hub.add(MODEL, files, kind="datasets"))
        if fault:
            assert_refused(done, fault)
        assert (tmp_path / "rows" / "out").exists() == (fault is None), done.stderr
