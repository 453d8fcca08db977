"""Generates samples with a model. Finished completions of an interrupted run are kept."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from xft.artifacts.artifact import check_artifact
from xft.common.errors import UserError
from xft.common.gpus import computed_on
from xft.common.optional import installed
from xft.common.progress import say
from xft.config.sections import MODEL_KINDS, GenerationConfig, RunConfig
from xft.evaluation import vllm_backend
from xft.evaluation.generation import Completion, Sampling, generate, write_rows
from xft.evaluation.model_loading import load_model
from xft.evaluation.prompts import TaskPrompt
from xft.evaluation.result import Sample, journal_path, package_versions

# The functions of each backend that load a model folder, and that write rows of tokens with it.
BACKENDS = {
    "transformers": (load_model, write_rows),
    "vllm": (vllm_backend.load_model, vllm_backend.write_rows),
}


class Journal:
    """The completions of a run, each written to the disk as soon as it is complete.

    The first line of the file identifies the run. The file of another run is replaced. Raises
    UserError if another process writes the same file.

    run: JSON values that determine the completions.
    finished: the completions by number.
    """

    def __init__(self, path: Path, run: dict):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(f"{path} is in use: another process evaluates for it now") from None
        self.finished = self._read(run)

    def _read(self, run: dict) -> dict[int, Completion]:
        """The completions by number. Text after the last complete line is removed."""
        self._file.seek(0)
        first, *lines = self._file.read().split("\n")
        head = json.dumps(run, sort_keys=True)
        complete = lines[:-1] if first == head else []  # an incomplete line has no end
        finished = {}
        for line in complete:
            number, text, finish = json.loads(line)
            finished[number] = Completion(text, finish)
        self._file.truncate(0)
        self._write("\n".join([head, *complete]))
        return finished

    def add(self, number: int, completion: Completion) -> None:
        """Keep a completion."""
        self.finished[number] = completion
        self._write(json.dumps([number, completion.text, completion.finish]))

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Remove the file: the completions are no longer needed."""
        self.path.unlink()
        self._file.close()


def sample(
    model_folder: Path,
    prompts: Sequence[TaskPrompt],
    generation: GenerationConfig,
    run: RunConfig,
    result: Path,
    verify_all: bool,
) -> tuple[list[Sample], Journal]:
    """`samples` samples for each prompt, in the order of the prompts, and the journal.

    The samples' settings state no seed if nothing is drawn, and no threads if the backend chooses
    them. Raises UserError where the model does not fit its manifest, or cannot be loaded.

    prompts: all of one template.
    result: the file beside which the journal is.
    verify_all: the model is hashed whole.
    """
    manifest = check_artifact(model_folder, *MODEL_KINDS, full=verify_all)
    model_id = None if manifest is None else manifest.id
    load, write = BACKENDS[generation.backend]
    threads = None if generation.backend == "vllm" else run.threads
    model, tokenizer = load(model_folder, threads, generation.precision)
    used = {
        "prompt": prompts[0].template.identity,
        "threads": threads,
        "seed": run.seed if generation.temperature else None,
    }
    origin = {
        "model": {"path": str(model_folder), "id": model_id},
        "settings": generation.model_dump() | used | computed_on(model),
        "versions": package_versions("torch", "transformers", *installed(generation.backend)),
    }
    requests = list(product(prompts, range(generation.samples)))
    journal = Journal(journal_path(result), origin | _content(model_folder, model_id, prompts))
    write_all = partial(generate, model, tokenizer, write=write)
    completions = _complete(write_all, requests, generation, run.seed, journal)
    samples = [
        Sample(
            task_id=prompt.task_id,
            number=number,
            prompt_sha256=prompt.sha256,
            completion=completion.text,
            solution=prompt.solution(completion.text),
            finish=completion.finish,
            origin=origin,
        )
        for (prompt, number), completion in zip(requests, completions, strict=True)
    ]
    return samples, journal


def _complete(
    write_all: Callable, requests: list, generation: GenerationConfig, seed: int, journal: Journal
) -> list[Completion]:
    """The completions of all requests. The journal may already hold some of them.

    write_all: `generate` with a loaded model.
    requests: for each the prompt, and the number of its sample.
    """
    left = [place for place in range(len(requests)) if place not in journal.finished]
    if journal.finished:
        say(f"continuing: {len(journal.finished)} of {len(requests)} are written")
    sampling = None
    if generation.temperature:
        seeds = [_seed(seed, *requests[place]) for place in left]
        sampling = Sampling(generation.temperature, generation.top_p, seeds)
    limits = generation.model_dump(include={"max_new_tokens", "batch_size", "token_healing"})
    chosen = [requests[place][0] for place in left]
    for number, completion in write_all(chosen, **limits, sampling=sampling):
        journal.add(left[number], completion)
    return [journal.finished[place] for place in range(len(requests))]


def _seed(seed: int, prompt: TaskPrompt, number: int) -> int:
    text = f"{seed} {prompt.task_id} {number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _content(model_folder: Path, model_id: str | None, prompts: Sequence[TaskPrompt]) -> dict:
    """Values that determine the completions and are not in the samples' origin.

    model_id: None for a folder without a manifest.
    """
    content = {"prompts": [prompt.sha256 for prompt in prompts]}
    if model_id is None:
        stats = [path.stat() for path in sorted(model_folder.iterdir()) if path.is_file()]
        content["files"] = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    return content
