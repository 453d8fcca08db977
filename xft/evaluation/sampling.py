"""Generates samples with a model. Finished completions of an interrupted run are kept."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xft.common.optional import installed
from xft.common.progress import say
from xft.config.sections import GenerationConfig
from xft.evaluation import generation, loading, vllm_backend
from xft.evaluation.generation import Completion, Sampling
from xft.evaluation.journal import Journal
from xft.evaluation.loading import artifact_id
from xft.evaluation.prompts import TaskPrompt
from xft.evaluation.result import package_versions
from xft.evaluation.samples import Sample

# The functions of each backend that load a model folder, and that write rows of tokens with it.
BACKENDS = {
    "transformers": (loading.load_model, generation.write_rows),
    "vllm": (vllm_backend.load_model, vllm_backend.write_rows),
}


@dataclass(frozen=True)
class SamplingOptions:
    """How a model writes. prompt: the identity of a template. seed: None if nothing is drawn.
    threads: None if the backend chooses them.
    """

    generation: GenerationConfig
    prompt: str
    seed: int | None
    threads: int | None

    @property
    def settings(self) -> dict:
        """The options as they are kept with the samples."""
        own = {"prompt": self.prompt, "seed": self.seed, "threads": self.threads}
        return self.generation.model_dump() | own


def sample(
    model_folder: str,
    prompts: Sequence[TaskPrompt],
    options: SamplingOptions,
    journal_file: Path,
    verify_all: bool,
) -> tuple[list[Sample], Journal]:
    """`samples` samples for each prompt, in the order of the prompts, and the journal.

    verify_all: the model is hashed whole.
    Raises UserError where the model does not fit its manifest, or cannot be loaded.
    """
    identity = artifact_id(Path(model_folder), full=verify_all)
    load, write = BACKENDS[options.generation.backend]
    model, tokenizer = load(Path(model_folder), options.threads, options.generation.precision)
    origin = {
        "model": {"path": model_folder, "id": identity},
        "settings": options.settings
        | {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")},
        "versions": package_versions(
            "torch", "transformers", *installed(options.generation.backend)
        ),
    }
    requests = [
        (prompt, number) for prompt in prompts for number in range(options.generation.samples)
    ]
    journal = Journal(journal_file, origin | _content(model_folder, identity, prompts))
    generate = partial(generation.generate, model, tokenizer, write=write)
    completions = _complete(generate, requests, options, journal)
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
    generate: Callable,
    requests: list[tuple[TaskPrompt, int]],
    options: SamplingOptions,
    journal: Journal,
) -> list[Completion]:
    finished = dict(journal.finished)
    left = [place for place in range(len(requests)) if place not in finished]
    if finished:
        say(f"continuing: {len(finished)} of {len(requests)} are written")
    generation, sampling = options.generation, None
    if generation.temperature:
        seeds = [_seed(options.seed, *requests[place]) for place in left]
        sampling = Sampling(generation.temperature, generation.top_p, seeds)

    def keep(number: int, completion: Completion) -> None:
        finished[left[number]] = completion
        journal.add(left[number], completion)

    generate(
        [requests[place][0] for place in left],
        max_new_tokens=generation.max_new_tokens,
        batch_size=generation.batch_size,
        token_healing=generation.token_healing,
        sampling=sampling,
        on_completion=keep,
    )
    return [finished[place] for place in range(len(requests))]


def _seed(seed: int, prompt: TaskPrompt, number: int) -> int:
    text = f"{seed} {prompt.task_id} {number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _content(model_folder: str, identity: str | None, prompts: Sequence[TaskPrompt]) -> dict:
    """Values that determine the completions and are not in the samples' origin."""
    content = {"prompts": [prompt.sha256 for prompt in prompts]}
    if identity is None:  # a folder without a manifest
        files = sorted(path for path in Path(model_folder).iterdir() if path.is_file())
        stats = [path.stat() for path in files]
        content["files"] = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    return content
