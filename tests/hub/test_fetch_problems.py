"""The step `fetch_problems` against a real HTTP server: what it takes, and how it fails."""

import gzip
import hashlib
import json
import threading
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Handler
from problem_files import three_problems
from working_folder import CONFIG, fill, wants

from workflow_scripts import fetch_problems
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.config.runs import overlaid
from xft.dag.messages import warnings
from xft.dag.nodes import Node
from xft.dag.problem_checks import missing_sets
from xft.dag.snakemake_run import SnakemakeRun
from xft.dag.workflow_run import WorkflowRun
from xft.evaluation.forms import load_problems
from xft.hub import named_sets
from xft.hub.named_sets import NAMED_SETS, RELEASED, TRANSLATED, check_available
from xft.tools import plan

CONTENT = "".join(json.dumps(row) + "\n" for row in three_problems()).encode()
OTHER = CONTENT[:-1] + b" \n"
PACKED = gzip.compress(CONTENT)
RELEASE = "/humanevalplus_release/releases/download/v0.1.10/HumanEvalPlus.jsonl.gz"


class Server(ThreadingHTTPServer):
    """Answers the n-th request by the n-th of `answers`, and all after them by the last."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), GitHub)
        self.answers, self.paths = [sends(PACKED)], []
        self.url = f"http://127.0.0.1:{self.server_port}"


class GitHub(Handler):
    protocol_version = "HTTP/1.0"  # a connection ends with its answer

    def do_GET(self):
        answers, paths = self.server.answers, self.server.paths
        paths.append(self.path)
        answers[min(len(paths), len(answers)) - 1](self)


def sends(body: bytes, status: int = 200, length: int | None = None, **headers: str):
    """An answer whose header promises `length` bytes (None: as many as there are)."""
    headers |= {"Content_Length": str(length)} if length else {}
    return lambda handler: handler.answer(status, body, **headers)


def stalls(handler: Handler) -> None:
    sends(PACKED[:50], length=len(PACKED))(handler)
    handler.server.released.wait()


@pytest.fixture
def server(monkeypatch):
    """A server in GitHub's place."""
    with Server() as server:
        server.released = threading.Event()
        monkeypatch.setattr(named_sets, "RELEASES", server.url)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine without EvalPlus's cache, on which CONTENT is the pinned release."""
    pinned = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(NAMED_SETS, "humaneval", replace(RELEASED["humaneval"], sha256=pinned))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HUMANEVAL_OVERRIDE_PATH", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "results" / "problems" / "humaneval.jsonl"


def fetch(out: Path) -> None:
    fetch_problems.main(["--dataset", "humaneval", "--out", str(out)])


def release_of(out: Path) -> str | None:
    """What the manifest says of a file."""
    return read_manifest(manifest_path(out)).parameters["release"]


def put_into_cache(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "cache" / "evalplus" / "HumanEvalPlus-v0.1.10.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def refusal(out: Path) -> str:
    """What the step says, which leaves nothing."""
    with pytest.raises(UserError) as caught:
        fetch(out)
    assert not out.exists()
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    return str(caught.value)


# What is taken


def test_the_pins_are_the_real_sets(shared):
    for chosen in RELEASED.values():
        file = shared / "data" / f"{chosen.release}.jsonl.gz"
        assert named_sets.unpacked_sha256(file) == chosen.sha256


def test_evalplus_means_the_same_versions_urls_and_cache():
    from evalplus.data import humaneval, mbpp
    from evalplus.data.utils import get_dataset_metadata

    versions = {"humaneval": humaneval.HUMANEVAL_PLUS_VERSION, "mbpp": mbpp.MBPP_PLUS_VERSION}
    for name, chosen in RELEASED.items():
        url, cached = get_dataset_metadata(chosen.release, versions[name], mini=False)
        assert (chosen.version, chosen.url) == (versions[name], url)
        assert chosen.cached.name == Path(cached).name


def test_the_release_is_fetched_once_and_unpacked(server, out, capsys):
    """Over an earlier file, and where the server leads."""
    out.parent.mkdir(parents=True)
    out.write_text("older")
    server.answers = [sends(b"", 302, Location="/elsewhere"), sends(PACKED)]
    fetch(out)
    assert out.read_bytes() == CONTENT
    assert set(out.parent.iterdir()) == {out, manifest_path(out)}
    assert release_of(out) == "HumanEval+ v0.1.10"
    assert server.paths == [RELEASE, "/elsewhere"]
    assert load_problems(str(out)).name == "humaneval"
    assert capsys.readouterr().err == f"HumanEval+ v0.1.10 from {server.url}{RELEASE}\n"


@pytest.mark.parametrize("content", [CONTENT, OTHER])
def test_the_variables_file_is_taken_as_it_is(server, out, tmp_path, monkeypatch, capsys, content):
    file = tmp_path / "mine.jsonl.gz"
    file.write_bytes(gzip.compress(content))
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(file))
    put_into_cache(tmp_path, CONTENT)
    fetch(out)
    assert out.read_bytes() == content
    assert server.paths == []
    (line,) = capsys.readouterr().err.splitlines()
    assert ("by HUMANEVAL_OVERRIDE_PATH, is not HumanEval+ v0.1.10" in line) == (content == OTHER)
    assert str(file) in line
    release = None if content == OTHER else "HumanEval+ v0.1.10"
    assert release_of(out) == release


def test_the_cache_of_evalplus_is_taken_if_it_is_the_release(server, out, tmp_path, capsys):
    file = put_into_cache(tmp_path, CONTENT)
    fetch(out)
    assert (out.read_bytes(), server.paths) == (CONTENT, [])
    assert str(file) in capsys.readouterr().err
    file.write_bytes(CONTENT[:100])
    fetch(out)
    assert (out.read_bytes(), server.paths) == (CONTENT, [RELEASE])
    assert file.read_bytes() == CONTENT[:100]
    assert f"{file} is not HumanEval+ v0.1.10, so it is not used" in capsys.readouterr().err


# What goes wrong


def test_a_fault_is_named_with_what_to_do(server, out, tmp_path):
    others = PACKED[:50], gzip.compress(OTHER), b"<html>Log in</html>"
    for answer, fault in (
        (sends(PACKED[:50], length=len(PACKED)), ""),
        *((sends(body), "the fetched file is not that release") for body in others),
        (sends(b"gone", 404), "Client error '404 Not Found' for url "),
    ):
        server.answers = [answer]
        message = refusal(out)
        start = f"HumanEval+ v0.1.10 could not be fetched from {server.url}{RELEASE}: {fault}"
        assert message.startswith(start)
        assert "set HUMANEVAL_OVERRIDE_PATH to its path, or unpack it to" in message
        assert str(tmp_path / "cache" / "evalplus" / "HumanEvalPlus-v0.1.10.jsonl") in message


def test_what_is_far_too_long_is_not_read_to_its_end(server, out, monkeypatch):
    monkeypatch.setattr(named_sets, "CHUNK_BYTES", 16)
    for limit in (len(PACKED) - 16, len(CONTENT) - 1):  # packed the second would do
        monkeypatch.setattr(named_sets, "MAX_DOWNLOAD", limit)
        assert "the fetched file is not that release" in refusal(out)


def test_a_server_that_says_nothing(server, out, monkeypatch):
    monkeypatch.setattr(named_sets, "TIMEOUT", 0.1)
    server.answers = [stalls]
    assert "timed out" in refusal(out)


def test_only_a_file_that_can_be_read_back_is_written(tmp_path):
    assert "must end in .jsonl" in refusal(tmp_path / "results" / "humaneval.jsonl.gz")


# What is known before


def test_a_set_that_cannot_be_had_is_known_and_none_is_fetched_for_it(server, tmp_path):
    chosen = NAMED_SETS["humaneval"]
    check_available(chosen)
    assert server.paths == [RELEASE]
    server.answers = [sends(b"gone", 404)]
    with pytest.raises(UserError, match=r"v0.1.10 could not be fetched from .*404 Not .*OVERRIDE"):
        check_available(chosen)
    server.paths.clear()
    put_into_cache(tmp_path, CONTENT)
    check_available(chosen)
    assert server.paths == []


def test_so_is_one_of_the_hub(hub, monkeypatch):
    template = "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE"
    monkeypatch.setattr(template, f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
    chosen = TRANSLATED["multipl-e/humaneval-js"]
    with pytest.raises(UserError, match=r"humaneval-js at 28441b6: .* could not be fetched: .*404"):
        check_available(chosen)
    files = {chosen.place: b"rows"}
    hub.add(chosen.hub_id, files, kind="datasets", commit=chosen.revision)
    check_available(chosen)
    assert {request.method for request in hub.requests} == {"HEAD"}


def test_a_dry_run_a_plan_and_the_start_of_a_run_tell_it(server, place, monkeypatch, capsys):
    """Of the sets that a job will need. A training would end before the missing set is told."""
    server.answers = [sends(b"gone", 404)]
    told = "HumanEval+ v0.1.10 could not be fetched"
    sets = {"evaluation": {"datasets": ["problems.jsonl", "humaneval"], "max_new_tokens": 8}}
    run = wants(**sets)
    assert any(line.startswith(f"WARNING: {told}") for line in warnings(run, run.to_make))
    (place / "config.yaml").write_text(json.dumps(overlaid(CONFIG, sets)))
    plan.main(["--config", "config.yaml"])
    assert f"\nMissing here: {told}" in capsys.readouterr().out
    server.paths.clear()
    plan.main(["--config", "config.yaml", "--gpu", "h100"])
    assert server.paths == []

    fault = start_fault(run, run.to_make)
    assert fault.startswith(told) and "--until" in fault
    trainings = [node for node in run.to_make if "eval" not in node.name]
    server.paths.clear()
    assert start_fault(run, trainings) is None and server.paths == []
    fill(run)
    assert missing_sets(run.experiment.known) == [] == server.paths


def start_fault(run: WorkflowRun, nodes: list[Node]) -> str | None:
    """What the start of a run says that makes these nodes through a scheduler."""
    jobs = [SimpleNamespace(wildcards=SimpleNamespace(digest=node.digest)) for node in nodes]
    workflow = SimpleNamespace(local_exec=False)
    started = SimpleNamespace(run=run, config=run.config, deployment=(), workflow=workflow)
    started._jobs = lambda: jobs
    try:
        SnakemakeRun.start(started, Path())
    except SystemExit as end:
        return str(end.code)
    return None
