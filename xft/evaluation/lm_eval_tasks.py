"""Measures a model's general abilities on tasks of lm-evaluation-harness.

Written for lm_eval 0.4.13.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from xft.artifacts.manifest import hash_file
from xft.common.errors import UserError
from xft.common.optional import require
from xft.evaluation.lm_eval_result import build_result
from xft.evaluation.loading import artifact_id, load_model
from xft.evaluation.result import package_versions

SEED = 1234  # lm_eval's default, for few-shot examples and bootstraps
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def measure(model_folder: str, names: Sequence[str], options: dict, verify_all: bool) -> dict:
    """The result of a model on the tasks, groups of tasks, and files of tasks with these names.

    options: batch_size; limit, the examples of each task (None: all); threads. verify_all: whether
    to hash the whole model. Nothing is fetched. Raises UserError if lm_eval, a task or its data is
    missing, or if the model does not match its manifest or cannot be loaded.
    """
    require("lm_eval")
    identity = artifact_id(Path(model_folder), full=verify_all)
    os.environ |= OFFLINE
    model, tokenizer = load_model(Path(model_folder), options["threads"])

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from yaml import YAMLError

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    try:
        measured = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options["batch_size"]),
            tasks=list(names),
            limit=options["limit"],
            log_samples=False,
            **dict.fromkeys(seeds, SEED),
        )
    except (OSError, KeyError, TypeError, ValueError, YAMLError) as error:
        # The task is unknown, broken, runs model-written code, or needs files that are not here.
        raise UserError(
            f"lm_eval cannot measure {', '.join(names)}: {error}. `lm_eval ls tasks` lists all "
            "tasks. Nothing is fetched here, and nothing that a model writes is run: see section "
            "General abilities of docs/evaluation.md"
        ) from error
    settings = options | {"tasks": [Path(name).name for name in names], "seed": SEED}
    settings |= {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
    return build_result(
        measured,
        model={"path": model_folder, "id": identity},
        settings=settings,
        versions=package_versions("torch", "transformers", "datasets", "lm_eval"),
    )


def task_hashes(names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each task that is a file, by file name.

    Raises UserError if two files have the same name: results show only the name.
    """
    files = [Path(name) for name in names if name.endswith(".yaml") and Path(name).is_file()]
    hashes = {}
    for file in files:
        if file.name in hashes:
            raise UserError(f"two tasks are files with the name {file.name}. Rename one of them")
        hashes[file.name] = hash_file(file)
    return hashes
