"""Stores in buckets: what comes back, what is refused, what a failure leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from buckets import KINDS, Part, fetch, make, s3_bucket, sftp_bucket
from damage import flip_a_bit
from huggingface_hub import HfApi
from processes import free_port
from working_folder import CONFIG, begin, wants, write_inputs

from xft.artifacts.artifact import ENTRY_FILE, create_artifact
from xft.artifacts.manifest import SMALL_BYTES, Manifest
from xft.checkpoints.model_files import read_tensors
from xft.common.errors import UserError
from xft.common.optional import SCHEMES, installed
from xft.config.reading import complete
from xft.dag.jobs import page_reads
from xft.dag.messages import unpublished_line
from xft.dag.nodes import Node
from xft.dag.snakemake_options import check_storage
from xft.dag.workflow_run import WorkflowRun
from xft.store import others, remote
from xft.store import server as servers
from xft.store.make import link_declared
from xft.store.make import make as run_job
from xft.store.remote import FILES, Bucket, describe
from xft.store.server import DRAFT, Server
from xft.store.store import Recipe, fetched, finish, is_whole, log_of, partial
from xft.tools import gc, pull, push


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    others.say_once.cache_clear()
    return tmp_path


@pytest.fixture(params=KINDS)
def url(request, tmp_path, monkeypatch):
    """An empty bucket."""
    if server := {"s3": s3_bucket, "sftp": sftp_bucket}.get(request.param):
        with server(monkeypatch, tmp_path) as url:
            yield url
    else:
        if request.param == "memory":  # its files know only one reader
            for module in (others, remote):
                monkeypatch.setattr(module, "AT_ONCE", 1)
        yield f"{request.param}://{tmp_path}/bucket"
    others.bucket.cache_clear()


def send(url: str, *parts: Part) -> None:
    others.push(url, others.unpublished(url, parts))


def objects(url: str) -> dict[str, bytes]:
    """The contents of a bucket, by name."""
    bucket = Bucket(url)
    fs = bucket.server.fs
    return {name: fs.cat_file(name) for name in fs.find(bucket.server.named())}


def stating(part: Part, files: dict) -> bytes:
    """The manifest of an entry with these files."""
    return Manifest("entry", files, {"entry": part.name}).to_json().encode()


def change(url: str, name: str, content: bytes | None) -> None:
    """Replace an object, or remove it."""
    fs = Server(url).fs
    fs.rm_file(name) if content is None else fs.pipe_file(name, content)


def test_entries_come_back_as_they_were(url, file_hashes, capsys):
    """Each content lies in the bucket once, and what it has already is not sent again."""
    parts = [make("moe", 1, 3_000_000), make("eval", 2), make("eval", 3)]
    assert sum(others.unpublished(url, parts).values()) > 3_000_000
    send(url, *parts)
    assert others.unpublished(url, parts) == {}
    contents = [content for name, content in objects(url).items() if FILES in name]
    assert len(contents) == len({*contents})
    assert all(map(is_whole, (part.entry for part in fetch(url, *parts))))
    assert "3 artifacts taken from" in capsys.readouterr().err
    for part in parts:
        assert file_hashes(part.at("ours").entry) == file_hashes(part.entry)
    assert not (part.at("ours").entry / "artifact/weights.bin").stat().st_mode & 0o222
    assert not any(Path("ours/.fetched").glob("*/*"))


LARGE = SMALL_BYTES + 1  # whose content is compared neither when it is opened nor before an upload


def test_a_large_file_is_sent_once_and_what_is_damaged_is_replaced(url, file_hashes, monkeypatch):
    """A small one is always sent."""
    part, sent, put = make("moe", 1, LARGE), [], type(Server(url).fs).put_file
    weights = describe(part.entry)["artifact/weights.bin"]["sha256"]
    place = Server(url).named(FILES, weights)

    def publishes_weights(entry: Path) -> bool:
        sent.clear()
        others.bucket.cache_clear()
        assert others.publish(url, entry) is None
        return any(weights in name for name in sent)

    def put_file(fs, lpath, rpath, **options):
        sent.append(rpath)
        put(fs, lpath, rpath, **options)

    monkeypatch.setattr(type(Server(url).fs), "put_file", put_file)
    change(url, place, b"what a killed upload left")
    assert publishes_weights(part.entry)
    assert file_hashes(fetch(url, part)[0].entry) == file_hashes(part.entry)

    recipe = Recipe("moe", 1, {"number": 2}, {})
    other = Part(Path("theirs", "moe", recipe.digest))
    with create_artifact(partial(other.entry) / "artifact", "moe") as draft:
        shutil.copy(part.entry / "artifact/weights.bin", draft.path)
    finish(other.entry, recipe)
    assert not publishes_weights(other.entry)
    assert file_hashes(fetch(url, other)[0].entry) == file_hashes(other.entry)

    damaged = bytearray(objects(url)[place])
    damaged[0] ^= 1
    change(url, place, bytes(damaged))  # with its size
    assert not is_whole(fetch(url, part, store="third")[0].entry)
    assert publishes_weights(part.entry)
    assert is_whole(fetch(url, part, store="third")[0].entry)


def test_a_large_file_that_was_altered_here_is_not_uploaded(url):
    """Others would take it for what it no longer is, or tell that the bucket is damaged."""
    part = make("moe", 1, LARGE)
    weights = part.entry / "artifact/weights.bin"
    flip_a_bit(weights)
    assert f"{weights} was altered" in (others.publish(url, part.entry) or "")
    names = {name.rpartition("/")[2] for name in objects(url)}
    assert not names & {describe(part.entry)["artifact/weights.bin"]["sha256"], ENTRY_FILE}


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_what_is_damaged_is_told_and_not_taken(url, damage, capsys):
    """Who makes it and publishes it then replaces it."""
    part = make("moe", 1)
    send(url, part)
    for name, content in objects(url).items():
        bad = {"flipped": bytes([content[0] ^ 1]) + content[1:], "truncated": content[:-1]}
        change(url, name, bad.get(damage))
        shutil.rmtree("ours", ignore_errors=True)
        assert not is_whole(fetch(url, part)[0].entry)
        said = capsys.readouterr().err
        if damage != "missing" or not name.endswith(ENTRY_FILE):  # then there is no entry
            assert f"{part.name} is not taken from {url}: " in said
            assert name.rpartition("/")[2] in said
        assert others.publish(url, part.entry) is None
        assert objects(url)[name] == content
    assert is_whole(fetch(url, part)[0].entry)


def test_what_is_foreign_is_told_and_not_taken(url, capsys):
    """No name leads out of an entry."""
    part, other = make("moe", 1), make("moe", 2)
    send(url, part, other)
    bucket = Bucket(url)
    name, files = bucket.server.named(part.name, ENTRY_FILE), describe(part.entry)
    more = {"more/costs.json": describe(other.entry)["costs.json"]}
    wrong = {
        "that of another entry": objects(url)[bucket.server.named(other.name, ENTRY_FILE)],
        "not valid JSON": b"{",
        "other files than it states": stating(part, files | more),
        "holds another recipe": stating(part, describe(other.entry)),
    }
    for no in ["../out", "/tmp/out", "a/../../out", "", "a//b", "a\0b"]:
        said = f"{no!r} is not the path of a file inside the artifact"
        wrong[said] = stating(part, files | {no: files["costs.json"]})
    for said, content in wrong.items():
        change(url, name, content)
        (ours,) = fetch(url, part)
        assert not is_whole(ours.entry) and not fetched(ours.entry).exists()
        assert said in capsys.readouterr().err
    assert others.publish(url, part.entry) is None
    change(url, bucket.server.named(FILES, files["costs.json"]["sha256"]), b"x" * 10**6)
    assert not is_whole(fetch(url, part)[0].entry)


UNUSABLE = {
    "a name that no disk takes": {"n" * 300: {}},
    "a file in a file": {"artifact/model.safetensors/x.safetensors": {}},
    "nested too deeply": {f"{'a/' * 3000}x": {}},
    "nested nearly too deeply": {f"{'a/' * 900}x": {}},
    "half of a pair": {"\ud800": {}},
    "more bytes than any disk has": {"artifact/b.safetensors": {"size": 2**62}},
    "a number without end": {"x": {"size": 10**400}},
}


@pytest.mark.parametrize("more", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_entry_that_no_disk_takes_is_told_and_the_others_are_taken(more, place, capsys):
    """Whole, and in part for the report. Nothing of it is in the way of a good one."""
    url = f"file://{place}/bucket"
    bad, good = make("sft", 1), make("sft", 2)
    send(url, bad, good)
    name, files = Server(url).named(bad.name, ENTRY_FILE), describe(bad.entry)
    like, content = files["artifact/model.safetensors"], objects(url)[name]
    change(url, name, stating(bad, files | {name: like | own for name, own in more.items()}))
    for read in (lambda _, stated: stated, page_reads):
        others.bucket.cache_clear()
        parts = [part.at("ours") for part in (bad, good)]
        others.Offer([url], parts).fetch_parts(parts, read)
        assert f"{bad.name} is not taken from {url}: " in capsys.readouterr().err
        assert fetched(parts[1].entry).is_dir()
    taken = fetch(url, bad, good)
    assert [is_whole(part.entry) for part in taken] == [False, True]
    assert f"{bad.name} is not taken from {url}: " in capsys.readouterr().err
    change(url, name, content)
    assert is_whole(fetch(url, bad)[0].entry)


def test_an_entry_whose_manifest_is_nested_too_deeply_is_told(place, capsys):
    """As many objects in one another as the reader of JSON takes, and its writer does not."""
    url = f"file://{place}/bucket"
    part = make("moe", 1)
    send(url, part)
    name = Server(url).named(part.name, ENTRY_FILE)
    for depth in (300, 600, 900, 10**5):
        nested = '{"a": ' * depth + "1" + "}" * depth
        stated = json.loads(stating(part, describe(part.entry)))
        text = json.dumps(stated | {"parameters": "?"}).replace('"?"', nested)
        change(url, name, text.encode())
        assert not is_whole(fetch(url, part)[0].entry)
        assert f"{part.name} is not taken from {url}: " in capsys.readouterr().err
        with pytest.raises(UserError, match=part.name):
            gc.main(["--store", url, "--yes"])


def test_two_publishers_of_one_digest_do_no_harm(url, monkeypatch):
    """Their costs differ. One entry is there in the end, and it is that of one of them."""
    parts = [make("moe", 1, store=store) for store in ("theirs", "others")]
    assert parts[0].name == parts[1].name
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda part: others.publish(url, part.entry), parts))
    (ours,) = fetch(url, parts[0])
    costs = {(part.entry / "costs.json").read_text() for part in parts}
    assert (ours.entry / "costs.json").read_text() in costs


def test_a_killed_upload_is_no_entry_and_the_next_repairs_it(url, monkeypatch, capsys):
    part = make("moe", 1)
    with monkeypatch.context() as patch:
        patch.setattr(type(Server(url).fs), "pipe_file", None)  # which writes the manifest
        assert "not callable" in others.publish(url, part.entry)
    others.bucket.cache_clear()
    assert not is_whole(fetch(url, part)[0].entry)
    gc.main(["--store", url, "--yes"])  # younger than a day
    said = capsys.readouterr()
    assert len(objects(url)) == 6 and "Nothing to remove" in said.out
    assert f"{url} holds nothing that is missing here" in said.err
    gc.main(["--store", url, "--yes", "--keep-days", "0"])
    assert objects(url) == {} and "Removed: " in capsys.readouterr().out
    send(url, part)
    gc.main(["--store", url, "--yes", "--keep-days", "0"])
    assert is_whole(fetch(url, part)[0].entry)
    change(url, Server(url).named(part.name, ENTRY_FILE), b'{"format": 2}')  # of a newer version
    with pytest.raises(UserError, match="format 2"):
        gc.main(["--store", url, "--yes", "--keep-days", "0"])
    assert len(objects(url)) > 1


@pytest.mark.parametrize("write", ["put_file", "pipe_file"])  # of contents, of the manifest
def test_a_file_that_is_cut_off_has_no_name_in_a_folder(place, monkeypatch, write):
    """Where a file can be seen while it is written, others would take a part for the whole."""
    url, part = f"file://{place}/bucket", make("moe", 1)
    kind = type(Server(url).fs)
    put = getattr(kind, write)

    def cut_off(fs, *given, **options):
        put(fs, *given, **options)
        (file,) = [path for path in given if str(path).startswith(f"{place}/bucket/")]
        os.truncate(file, 1)
        raise OSError("connection lost")

    monkeypatch.setattr(kind, write, cut_off)
    assert "connection lost" in others.publish(url, part.entry)
    cut = {name for name, content in objects(url).items() if len(content) == 1}
    assert cut and all(name.endswith(DRAFT) for name in cut)


DAY = 24 * 3600


@pytest.mark.parametrize("ahead", [2 * DAY, -2 * DAY])
def test_the_age_of_a_leftover_is_that_on_the_server(url, ahead, monkeypatch):
    """The clock of this machine may be wrong by days."""
    part, right = make("moe", 1), time.time
    send(url, part)
    change(url, Server(url).named(part.name, ENTRY_FILE), None)  # an upload that goes on
    left = objects(url)
    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    gc.main(["--store", url, "--yes"])
    assert objects(url) == left
    if url.startswith("file:"):
        for file in map(Path, left):
            os.utime(file, (right() - 1.5 * DAY,) * 2)
        gc.main(["--store", url, "--yes"])
        assert objects(url) == {}


def test_what_an_unreadable_folder_may_name_is_kept(place, monkeypatch):
    answers = [[{"name": f"{place}/moe", "type": "directory"}], PermissionError("denied")]
    monkeypatch.setattr(type(Server("file:///").fs), "ls", Mock(side_effect=answers))
    with pytest.raises(UserError, match="denied"):
        gc.main(["--store", f"file://{place}", "--yes"])


def test_a_killed_download_goes_on_where_it_stopped(url, monkeypatch):
    part = make("moe", 1)
    send(url, part)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", None)  # which makes it whole
        with pytest.raises(TypeError):
            fetch(url, part)
    names = {path.name for path in fetched(part.at("ours").entry).rglob("*") if path.is_file()}
    assert {"weights.bin", "costs.json", ENTRY_FILE} <= names
    monkeypatch.setattr(type(Server(url).fs), "get_file", None)  # nothing is fetched again
    assert is_whole(fetch(url, part)[0].entry)


INTERRUPTED = """import sys
from concurrent.futures import Future
from pathlib import Path
from buckets import Part
from xft.store import others, server
server.SILENT = 10**6
server.Server._begin = lambda *_: print("waits", flush=True) or Future()
others.push("memory://box", {Part(Path(sys.argv[1])): 1})
"""


def test_an_interrupt_does_not_wait_for_transfers(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{repository}/tests")
    words = [sys.executable, "-c", INTERRUPTED, make("moe", 1).entry]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == -signal.SIGINT


def test_a_server_that_dies_is_told_once(url, monkeypatch, capsys):
    """Nothing is written after that."""
    parts, began, ended = [make("eval", number) for number in range(9)], [], []
    send(url, *parts)

    def get_file(*_, **__):
        began.append(1)
        time.sleep(0.3 if len(began) > 1 else 0)
        ended.append(1)
        raise OSError("connection lost")

    monkeypatch.setattr(type(Server(url).fs), "get_file", get_file)
    fetch(url, *parts)
    assert capsys.readouterr().err.count(f"{url}: connection lost. The run goes on without it") == 1
    assert len(began) == len(ended)


def test_of_weights_a_part_has_only_the_header(url):
    """Damaged headers are told. When the whole is fetched, it takes the place of the part."""
    part = make("sft", 1)
    send(url, part)
    ours = part.at("ours")
    others.Offer([url], [ours]).fetch_parts([ours], page_reads)
    file = Path("artifact", "model.safetensors")
    parted, whole = fetched(ours.entry) / file, part.entry / file
    assert not is_whole(ours.entry)
    assert read_tensors(parted) == read_tensors(whole)
    assert parted.stat().st_size == whole.stat().st_size
    assert not any(parted.read_bytes()[-1000:]) and any(whole.read_bytes()[-1000:])
    fetch(url, part)
    assert (ours.entry / file).read_bytes() == whole.read_bytes()


def stand_in(node: Node) -> None:
    """Make an entry that holds nothing of what its step would make."""
    with create_artifact(partial(node.entry) / node.file, node.step) as draft:
        (draft.path / "config.json").write_text("{}")
        (draft.path / "weights.bin").write_text(node.name)
    (partial(node.entry) / "metrics.jsonl").write_text("{}")
    finish(node.entry, node.recipe)


@pytest.fixture
def published(tiny_llama, place) -> WorkflowRun:
    """A finished configuration, and all of it that goes into the bucket `bucket`."""
    write_inputs(tiny_llama)
    run = begin(wants(publish=f"file://{place}/bucket"))
    for node in run.experiment.known:
        stand_in(node)
    push.main(["results", run.config.publish])
    return run


READ_BY_PEOPLE = {"report.html", "summary.csv"}
MODELS = ("base", "moe_sft", "dense/lam~0.75")
MEASURED = {"diversity.json", *(f"eval/{model}/problems.json" for model in MODELS)}


AT_HOME = {"base", "ffn", "summary", "report"}


def lose(run: WorkflowRun, *names: str) -> None:
    """Remove entries from the bucket."""
    for node in map(run.experiment.by_name.get, names):
        Path("bucket", node.step, node.digest, ENTRY_FILE).unlink()
    others.bucket.cache_clear()


def fetched_by(work: Callable[[WorkflowRun], object], *buckets: str) -> tuple[set[str], set[str]]:
    """The names of what a second machine with an empty store fetches, whole and in part.

    buckets: in their order; by default `bucket`.
    """
    shutil.rmtree("second", ignore_errors=True)
    urls = [f"file://{Path.cwd()}/{name}" for name in buckets or ["bucket"]]
    run = wants(stores=urls, store="second", results_dir="second_results")
    work(run)
    whole = {node.name for node in run.experiment.known if is_whole(node.entry)}
    return whole, {n.name for n in run.experiment.known if fetched(n.entry).is_dir()}


def test_a_push_repairs_what_is_lost_and_leaves_links_at_home(published):
    """One that is damaged here is told, and the others are uploaded."""
    steps = {path.name for path in Path("bucket").iterdir()}
    assert steps == {node.step for node in published.experiment.known} - AT_HOME | {FILES}
    lost, truncated, *_ = Path("bucket", FILES).iterdir()
    lost.unlink()
    truncated.write_bytes(b"")
    push.main(["results", published.config.publish])
    assert lost.stat().st_size and truncated.stat().st_size
    damaged = published.experiment.by_name["moe"].entry / ENTRY_FILE
    damaged.write_text("{")
    lose(published, "sft")
    for words, number in ((["--dry-run"], 1), ([], 2), ([], 1)):
        with pytest.raises(UserError, match=f"1 of {number} .* cannot be uploaded:\n{damaged}"):
            push.main(["results", published.config.publish, *words])


def test_the_time_is_shown_before_an_upload_ends(published, monkeypatch):
    shown = Event()
    monkeypatch.setattr("xft.common.progress.Bar.update", lambda *_: shown.set())
    monkeypatch.setattr(Bucket, "push", lambda *_: shown.wait(60))
    others.push(published.config.publish, {published.experiment.summary: 1})
    assert shown.is_set()


def mixture(run: WorkflowRun) -> None:
    """Begin a run that makes the tuned mixture alone."""
    run.begin([run.experiment.by_name["moe_sft"]])
    run.close()


def test_what_one_bucket_holds_damaged_comes_from_the_next(published, capsys):
    shutil.copytree("bucket", "next")
    for file in Path("bucket", FILES).iterdir():
        file.write_bytes(b"")
    assert fetched_by(mixture, "bucket", "next") == ({"moe_sft"}, set())
    assert f"moe_sft is not taken from file://{Path.cwd()}/bucket: " in capsys.readouterr().err


def test_only_what_is_needed_moves(published):
    """Of what the report alone reads, no weights are fetched. Tables and report are made here."""

    def results(run: WorkflowRun) -> None:
        Path("second.yaml").write_text(json.dumps(run.config.model_dump(mode="json")))
        pull.main(["second_results", run.config.stores[0], "--config", "second.yaml"])

    shared = {node.name for node in published.experiment.wanted if others.is_shared(node)}
    run = wants(stores=[f"file://{Path.cwd()}/bucket"], store="third")
    assert {node.name for node in run.offered(run.experiment.ends, run.offer())} == MEASURED
    assert fetched_by(mixture) == ({"moe_sft"}, set())
    assert fetched_by(begin) == (MEASURED, shared - MEASURED)
    assert Path("second_results/metrics/moe_sft.jsonl").is_file()
    assert not Path("second_results/moe_sft").exists()
    weights = Path("second/.fetched").rglob("weights.bin")
    assert {file.parents[2].name for file in weights} == {"tokens"}

    lose(published, "eval/moe_sft/problems.json")
    done = MEASURED - {"eval/moe_sft/problems.json"}
    assert fetched_by(begin)[0] == done | {"moe_sft", "ground_truth/problems"}
    assert fetched_by(results)[0] == done
    assert Path("second_results/metrics/moe_sft.jsonl").is_file()


def test_what_people_read_is_taken_from_nobody(published):
    """Whoever writes into a bucket could have them read a verdict and a script of his own. A bucket
    may hold tables and reports, as older versions put them there, and a store holds its own.
    """
    ends = published.experiment.ends
    assert {node.name for node in ends} == READ_BY_PEOPLE
    for node in ends:
        assert others.publish(published.config.publish, node.entry) is None
        assert Path("bucket", node.step, node.digest, ENTRY_FILE).is_file()
    whole, _ = fetched_by(begin)
    assert whole == MEASURED
    begin(run := wants(stores=["store"], store="third", results_dir="third_results"))
    assert {node.name for node in run.missing} == READ_BY_PEOPLE


def test_the_small_files_of_an_entry_go_to_the_hub_together(monkeypatch):
    """The hub counts requests."""
    sent, part = [], make("moe", 1, remote.SMALL + 1)
    for name in ("bucket_info", "get_bucket_paths_info"):
        monkeypatch.setattr(HfApi, name, lambda *_: [])
    monkeypatch.setattr(HfApi, "batch_bucket_files", lambda *_, add: sent.append(len(add)))
    assert others.publish("hf://buckets/org/name/folder", part.entry) is None
    assert sent == [len(describe(part.entry)) - 1, 1, 1]


@pytest.mark.slow
def test_each_file_system_takes_its_settings(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
    for scheme in {*filter(installed, SCHEMES)} - {"sftp://"}:
        assert Server(f"{scheme}box/folder").fs
    with pytest.raises(UserError, match="Connect call failed"):  # sftp connects at once
        pull.main(["results", f"sftp://127.0.0.1:{free_port()}/folder"])


SECRET = "holds a password or a key"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stores", ["s3://ID:SE/CRET@bucket"], f'stores[0] = "s3://...": {SECRET}'),
        ("stores", "s3://ID:SECRET@bucket", 'stores = "s3://...": should be a list'),
        ("publish", "s3://bucket?key=SECRET", f'publish = "s3://...": {SECRET}'),
        ("publish", "hf://ORG/NAME", "another kind than s3://, gs://, az://, hf://buckets/, sftp"),
        ("publish", "folder", 'publish = "folder": should be a URL, such as s3://bucket/folder'),
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_shown(key, value, said):
    with pytest.raises(UserError) as told:
        complete(CONFIG | {key: value})
    assert said in str(told.value) and "SECRET" not in str(told.value)
    with pytest.raises(UserError, match=f"URL {SECRET}") as told:
        push.main(["results", "s3://ID:SECRET@bucket"])
    assert "SECRET" not in str(told.value)


def upload_of(node: Node) -> str:
    """What a job's log says of its upload, when the job is done again."""
    log_of(node.entry).unlink(missing_ok=True)
    link_declared(log_of(node.entry))
    node.entry.rename(partial(node.entry))
    (partial(node.entry) / ENTRY_FILE).unlink()
    others.bucket.cache_clear()  # each job is a process
    assert run_job(node.entry, [sys.executable, "-c", ""]) == 0
    assert is_whole(node.entry)
    return log_of(node.entry).read_text()


def test_a_failed_upload_fails_no_job_and_the_end_of_the_run_tells_it(published):
    url = published.config.publish
    assert unpublished_line(published) == ""
    shutil.rmtree("bucket")
    Path("bucket").touch()  # nothing can be written there
    assert f"not uploaded to {url}: " in upload_of(published.experiment.by_name["diversity.json"])
    assert unpublished_line(published).endswith(f"To upload: xft push results {url}")


def test_jobs_do_not_wait_for_a_silent_server_again(published, monkeypatch):
    """They ask it again ten minutes later, or in the next run."""
    url, node, begun = published.config.publish, published.experiment.by_name["diversity.json"], []
    silence = f"not uploaded to {url}: {url}: the server does not answer"
    with monkeypatch.context() as patch:
        patch.setattr(servers, "SILENT", 0.1)
        patch.setattr(servers, "PATIENCE", 0.1)
        patch.setattr(Server, "_begin", lambda *_: begun.append(1) or Future())
        told = upload_of(node), upload_of(node)
    assert all(silence in text for text in told) and len(begun) == 2  # an upload, and a question
    note = Path("store", others.SILENT)
    os.utime(note, (0, 0))
    assert upload_of(node) == ""
    note.touch()
    assert silence in upload_of(node)
    begin(wants(publish=url))
    assert upload_of(node) == ""


def test_snakemake_s_own_storage_is_refused():
    check_storage(SimpleNamespace(default_storage_provider=None))
    with pytest.raises(UserError, match=r"--default-storage-provider: .* `publish` and `stores`"):
        check_storage(SimpleNamespace(default_storage_provider="s3"))
