"""Files and folders that a configuration names are checked before anything runs."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from xft.common.errors import UserError, did_you_mean, naming
from xft.common.files import open_regular
from xft.config.sections import TRAININGS, DataConfig, EvaluationConfig, XftConfig
from xft.dag.base_fit import check_base
from xft.data.instructions import check_format
from xft.data.templates import PROMPT_NAMES, read_template
from xft.estimates.rows import count_lines
from xft.evaluation.lm_eval_tasks import task_files
from xft.evaluation.problems import load_problems
from xft.hub.named_sets import NAMED_SETS
from xft.hub.source import HUB_ID, check_source, dataset_source
from xft.training.steps import optimizer_steps


def check_all_files(configs: Iterable[XftConfig]) -> None:
    """Raise UserError if a file or folder that one of these configurations names cannot be used."""
    checked, rows = [], {}
    for config in configs:
        sections = config.base, config.moe, config.sft.lora_rank, config.data, config.evaluation
        sections += (config.mixing.text,)
        if sections not in checked:
            check_files(config)
            checked.append(sections)
        data = config.data.model_dump_json()
        if data not in rows:
            rows[data] = count_lines(config.data)
        if rows[data] is not None:
            check_number_of_rows(config, rows[data])


def check_files(config: XftConfig) -> None:
    """Raise UserError if a file or folder that the configuration names cannot be used.

    Snakemake itself does not notice a missing input while the outputs made from it exist.
    """
    base, data, evaluation = config.base, config.data, config.evaluation
    with naming("config: data.template"):
        read_template(data.template)
    with naming("config: evaluation.base_prompt"):
        read_template(evaluation.base_prompt, PROMPT_NAMES)
    for key, path in [("results_dir", config.results_dir), *config.paths()]:
        _check_path(key, path)
    _check_results(config.results_dir)
    with naming("config"):
        check_source(base.model, base.revision)
    _check_rows(data)
    with naming("config"):
        check_base(
            base.model,
            base.revision,
            max_length=data.max_length,
            max_new_tokens=evaluation.max_new_tokens,
            template=data.template,
            base_prompt=evaluation.base_prompt,
            ranks={
                "moe.rank": config.moe.rank if config.moe.experts == "lora" else None,
                "sft.lora_rank": config.sft.lora_rank,
            },
            upcycled_layers=config.moe.upcycled_layers,
        )
    if config.mixing.text:
        _check_file("mixing.text", config.mixing.text)
    for dataset in data.decontaminate_against or ():
        _check_problems("data.decontaminate_against", dataset)
    _check_evaluated(evaluation)


def _check_path(key: str, path: str) -> None:
    """Raise UserError if Snakemake or a step would read a path as something else."""
    if set(path) & set("{}"):
        fault = "a path must not hold braces: Snakemake would read them as wildcards"
    elif path.startswith("-"):
        fault = "a path must not begin with -: it would be read as a flag"
    elif not path.isprintable():
        fault = "a path must not hold line breaks or other characters that cannot be printed"
    else:
        return
    raise UserError(f"config: {key} = {json.dumps(path)}: {fault}. Rename it, or give a link to it")


def _check_results(folder: str) -> None:
    for place in (Path(folder), *Path(folder).parents):
        if place.exists() and not place.is_dir():
            raise UserError(
                f"config: results_dir = {folder}: {place} is a file, not a folder. Name another"
            )


def _check_rows(data: DataConfig) -> None:
    with naming("config"):
        source = dataset_source(data.train, data.revision) if data.revision else None
    with naming("config: data.train"):
        check_format(source.file_name if source else data.train)
    if source:
        if source.file and data.split != "train":
            raise UserError(
                f"config: data.split = {data.split}: data.train names a file, which has no splits. "
                "Leave out data.split, or name only the data set"
            )
        return
    hint = ". If it is on the hub, set data.revision to one of its commit hashes"
    _check_file("data.train", data.train, hint if HUB_ID.match(data.train) else "")


def check_number_of_rows(config: XftConfig, number: int) -> None:
    """Raise UserError if so many rows, at most, are too few for the configuration."""
    data = config.data
    if not number:
        raise UserError(f"config: data.train: {data.train} holds no rows")
    if data.validation_rows and data.validation_rows >= number:
        raise UserError(
            f"config: data.validation_rows = {data.validation_rows}: {data.train} has at most "
            f"{number} rows, and a training needs some of them. Set fewer"
        )
    for name in TRAININGS:
        options = getattr(config, name)
        share = math.ceil((number - data.validation_rows) * getattr(options, "share", 1))
        steps = optimizer_steps(options, share, options.global_batch)
        learns_rows = getattr(options, "text", None) is None
        if learns_rows and (fault := options.fault_of_steps(steps)):
            raise UserError(f"config: {name}, with at most {number} rows: {fault}")


def _check_evaluated(evaluation: EvaluationConfig) -> None:
    for dataset in evaluation.datasets:
        _check_problems("evaluation.datasets", dataset)
    for task in evaluation.lm_eval:
        if task.endswith(".yaml"):
            _check_file("evaluation.lm_eval", task)
    with naming("config: evaluation.lm_eval"):
        task_files(evaluation.lm_eval)


def _check_problems(key: str, dataset: str) -> None:
    """Raise UserError if a set of problems is wrong. The pinned releases are not."""
    named = NAMED_SETS.get(dataset)
    if named is None:
        _check_file(key, dataset, did_you_mean(dataset, NAMED_SETS))
    elif named.wanted_sha256 == named.sha256:
        return
    with naming(f"config: {key}"):
        load_problems(dataset)


def _check_file(key: str, path: str, hint: str = "") -> None:
    if not Path(path).exists():
        raise UserError(f"config: {key}: there is no file {path}{hint}")
    with naming(f"config: {key}"):
        open_regular(Path(path)).close()
