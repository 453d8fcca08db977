"""Files and folders that a configuration names are checked before anything runs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xft.common.errors import UserError, collecting_errors, errors_at
from xft.common.files import open_regular
from xft.config.sections import TRAININGS, DataConfig, WorkflowConfig, named_code, named_paths
from xft.dag.base_fit import check_base, check_tuned
from xft.data.instructions import check_format
from xft.data.templates import NAMES, PROMPT_NAMES, read_template
from xft.estimates.rows import check_rows
from xft.evaluation.forms import hint_of_set, load_problems
from xft.hub.named_sets import NAMED_SETS
from xft.hub.source import HUB_ID, check_source, dataset_source

LONGEST, LONGEST_NAME = 2_000, 255  # bytes; Linux takes longer paths, as those of results are


def check_all_files(configs: Iterable[WorkflowConfig]) -> None:
    """Raise UserError with the faults of the files and folders that a configuration names.

    They are those of the first of these configurations that has some. Snakemake itself does not
    notice a missing input while the outputs made from it exist.
    """
    checked, rows = [], {}
    for config in configs:
        tunings = config.moe_sft.model, config.sft.model, config.sft.lora_rank
        sections = config.base, config.moe, tunings, config.data, config.evaluation
        sections += (list(named_code(dict(config))),)
        faults = []
        if sections not in checked:
            checked.append(sections)
            faults = faults_of_files(dict(config))
        data = config.data.model_dump_json()
        with collecting_errors(faults):
            if not faults and data not in rows:
                rows[data] = check_rows(config.data)
            if rows.get(data) is not None:
                check_number_of_rows(config, rows[data])
        if faults:
            raise UserError("\n".join(dict.fromkeys(faults)))


def faults_of_files(sections: Mapping[str, Any]) -> list[str]:
    """The faults of the files and folders that sections of a configuration name.

    sections: by name. With all of them, and the keys of the top level, it is also checked whether
    the base supports what they ask for.
    """
    faults = []
    paths = [(key, sections[key]) for key in ("results_dir", "store") if key in sections]
    paths += [("stores", path) for path in sections.get("stores", ())]
    for key, path in [*paths, *named_paths(sections)]:
        with collecting_errors(faults):
            _check_path(key, path)
            _check_named(key, path, sections)
    return faults + faults_of_code(sections)


def faults_of_code(sections: Mapping[str, Any]) -> list[str]:
    """The faults of the user's code that sections of a configuration name."""
    faults = []
    for key, code, names in named_code(sections):
        with collecting_errors(faults), errors_at(f"config: {key}"):
            if code.check(names) and "moe_sft" in sections and sections["moe_sft"].model:
                raise UserError(
                    f"{code.shown} takes the load of each expert, which moe_sft.model does not say"
                )
    return faults


def _check_named(key: str, path: str, sections: Mapping[str, Any]) -> None:
    """Raise UserError if a file or folder is not what its key needs."""
    match key:
        case "results_dir":
            _check_results(path)
        case "base.model":
            with errors_at("config"):
                check_source(path, sections["base"].revision)
                if WorkflowConfig.model_fields.keys() <= sections.keys():
                    check_base(sections)
        case "moe_sft.model" | "sft.model":
            with errors_at(f"config: {key}"):
                check_tuned(Path(path), sections.get("moe") if key == "moe_sft.model" else None)
        case "data.train":
            _check_rows(sections["data"], path)
        case "data.template" | "evaluation.base_prompt":
            with errors_at(f"config: {key}"):
                read_template(path, NAMES if key == "data.template" else PROMPT_NAMES)
        case "data.decontaminate_against" | "evaluation.datasets":
            _check_problems(key, path)


def _check_path(key: str, path: str) -> None:
    """Raise UserError if Snakemake, a step or the system would not take a path as it is."""
    encoded = path.encode(errors="replace")
    if set(path) & set("{}"):
        fault = "a path must not hold braces: Snakemake would read them as wildcards"
    elif path.startswith("-"):
        fault = "a path must not begin with -: it would be read as a flag"
    elif not path.isprintable():
        fault = "a path must not hold line breaks or other characters that cannot be printed"
    elif len(encoded) > LONGEST or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        fault = f"a path has at most {LONGEST:,} bytes, and each name in it {LONGEST_NAME}"
    else:
        return
    raise UserError(f"config: {key} = {json.dumps(path)}: {fault}. Rename it, or give a link to it")


def _check_results(folder: str) -> None:
    for place in (Path(folder), *Path(folder).parents):
        if place.exists() and not place.is_dir():
            raise UserError(
                f"config: results_dir = {folder}: {place} is a file, not a folder. Name another"
            )


def _check_rows(data: DataConfig, path: str) -> None:
    with errors_at("config"):
        source = dataset_source(data.train, data.revision) if data.revision else None
    with errors_at("config: data.train"):
        check_format(source.file_name if source else path)
    if source:
        if source.file and data.split != "train":
            raise UserError(
                f"config: data.split = {data.split}: data.train names a file, which has no splits. "
                "Leave out data.split, or name only the data set"
            )
        return
    hint = ". If it is on the hub, set data.revision to one of its commit hashes"
    _check_file("data.train", path, hint if HUB_ID.match(path) else "")


def check_number_of_rows(config: WorkflowConfig, number: int) -> None:
    """Raise UserError if so many rows, at most, are too few for the configuration."""
    data = config.data
    if data.validation_rows and data.validation_rows >= number:
        raise UserError(
            f"config: data.validation_rows = {data.validation_rows}: {', '.join(data.files)} "
            f"has at most {number} rows, and a training needs some of them. Set fewer"
        )
    faults = []
    for name in TRAININGS:
        options = getattr(config, name)
        rows = number - data.validation_rows
        if fault := options.fault_of_steps(options.steps(rows, options.global_batch)):
            faults.append(f"config: {name}, with at most {number} rows: {fault}")
    if faults:
        raise UserError("\n".join(faults))


def _check_problems(key: str, dataset: str) -> None:
    """Raise UserError if a set of problems is wrong. The pinned ones are not."""
    named = NAMED_SETS.get(dataset)
    if named is None:
        _check_file(key, dataset, hint_of_set(dataset))
    elif not named.override:
        return
    with errors_at(f"config: {key}"):
        load_problems(dataset)


def _check_file(key: str, path: str, hint: str = "") -> None:
    if not Path(path).exists():
        raise UserError(f"config: {key}: there is no file {path}{hint}")
    with errors_at(f"config: {key}"):
        open_regular(Path(path)).close()
