"""Measures a model's general abilities on tasks of lm-evaluation-harness.

Written for lm_eval 0.4.13.
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from xft.common.errors import UserError
from xft.common.files import read_text
from xft.common.optional import require
from xft.evaluation.lm_eval_result import build_result
from xft.evaluation.loading import artifact_id, computed_on, load_model
from xft.evaluation.result import package_versions

SEED = 1234  # lm_eval's default, for few-shot examples and bootstraps
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
FUNCTION = re.compile(r"!function\s+[\"']?([\w.]+)\.\w+")  # of a module


class TaskLoader(yaml.SafeLoader):
    """Reads a file of tasks. Functions stay names: nothing is imported."""


TaskLoader.add_constructor("!function", yaml.SafeLoader.construct_yaml_str)


def measure(model_folder: Path, names: Sequence[str], options: dict, verify_all: bool) -> dict:
    """The result of a model on the tasks, groups of tasks, and files of tasks with these names.

    options: batch_size; limit, the examples of each task (None: all); threads. verify_all: whether
    to hash the whole model. Nothing is fetched. Raises UserError if lm_eval, a task or its data is
    missing, or if the model does not match its manifest or cannot be loaded.
    """
    require("lm_eval")
    identity = artifact_id(model_folder, full=verify_all)
    os.environ |= OFFLINE
    model, tokenizer = load_model(model_folder, options["threads"])

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

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
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        # The task is unknown, broken, runs model-written code, or needs files that are not here.
        raise UserError(
            f"lm_eval cannot measure {', '.join(names)}: {error}. `lm_eval ls tasks` lists all "
            "tasks. Nothing is fetched here, and nothing that a model writes is run: see section "
            "General abilities of docs/evaluation.md"
        ) from error
    own = {"tasks": [Path(name).name for name in names], "seed": SEED}
    return build_result(
        measured,
        model={"path": str(model_folder), "id": identity},
        settings=options | own | computed_on(model),
        versions=package_versions("torch", "transformers", "datasets", "lm_eval"),
    )


def task_files(names: Sequence[str]) -> dict[str, Path]:
    """The files of those tasks that are files, by name.

    signs.yaml includes, or takes functions from, signs.yaml 1, signs.yaml 2, and so on. Raises
    UserError if one cannot be read, or if two tasks have one name: results show only the name.
    """
    found = {}
    for task in (Path(name) for name in names if name.endswith(".yaml") and Path(name).is_file()):
        if task.name in found:
            raise UserError(f"two tasks are files with the name {task.name}. Rename one of them")
        parts = [task]
        for part in parts:
            parts += [file for file in _used_by(part) if file not in parts]
        found |= {f"{task.name} {n}" if n else task.name: part for n, part in enumerate(parts)}
    return found


def _used_by(file: Path) -> list[Path]:
    """The files that a task's file includes, and the modules beside it with its functions."""
    if file.suffix == ".py":
        return []
    text, folder = read_text(file), file.resolve().parent
    try:
        content = TaskLoader(text).get_single_data()
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{file} is not a task of lm_eval: {error}") from None
    included = content.get("include", []) if isinstance(content, dict) else []
    included = included if isinstance(included, list) else [included]
    modules = [folder / f"{name.replace('.', '/')}.py" for name in FUNCTION.findall(text)]
    used = [*(folder / str(name) for name in included), *filter(Path.is_file, modules)]
    return list(dict.fromkeys(path.resolve() for path in used))
