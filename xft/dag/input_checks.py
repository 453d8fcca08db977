"""Files, folders and models that a configuration names are checked before anything runs."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.checkpoints.model_files import check_rank, check_vocabulary, read_model_config, window
from xft.common.errors import UserError, collecting_errors, errors_at
from xft.common.file_access import open_regular
from xft.config import sections
from xft.config.runs import ExaminedRuns
from xft.config.sections import TRAININGS, BaseConfig, DataConfig, MoeConfig, WorkflowConfig
from xft.data import prompt_templates
from xft.data.instruction_rows import Conversation, describe
from xft.data.prompt_templates import CHAT, NAMES, PROMPT_NAMES, TemplateFault, read_template
from xft.data.row_files import check_format, read_files
from xft.data.tokenizers import check_eos, has_chat_template, load_tokenizer
from xft.estimates.rows import check_rows
from xft.evaluation.forms import hint_of_set, load_problems
from xft.hub.named_sets import NAMED_SETS
from xft.hub.source import HUB_ID, check_model, check_source, dataset_source, find_local

PROBLEM_SETS = ("data.decontaminate_against", "evaluation.datasets")  # keys
# Bytes of a path and of a name in it. Linux takes longer paths, as those of results are.
LONGEST = 2_000
LONGEST_NAME = 255


def check_all_files(configs: Iterable[WorkflowConfig]) -> None:
    """Raise UserError with the faults of the files and folders that configurations name.

    Snakemake itself does not notice a missing input while the outputs made from it exist.
    """
    load = cache(load_problems)
    faults: list[str] = []
    faults_of_values: dict[str, list[str]] = {}  # by the values that name files
    numbers: dict[str, int | None] = {}  # of rows at most, by section data; None if unknown
    for config in configs:
        values = _values_that_name_files(config)
        if values not in faults_of_values:
            faults_of_values[values] = faults_of_files(dict(config), load)
            faults += faults_of_values[values]
        data = config.data.model_dump_json()
        with collecting_errors(faults):
            if not faults_of_values[values] and data not in numbers:
                numbers[data] = None  # also if the rows are wrong
                numbers[data] = check_rows(config.data)
            if numbers.get(data) is not None:
                check_number_of_rows(config, numbers[data])
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def _values_that_name_files(config: WorkflowConfig) -> str:
    """The values of a configuration that `faults_of_files` reads, as text."""
    values = (
        config.base,
        config.moe,
        (config.moe_sft.model, config.sft.model, config.sft.lora_rank),
        config.data,
        config.evaluation,
        list(sections.named_code(dict(config))),
    )
    return repr(values)


def other_faults(examined: ExaminedRuns) -> Iterator[str]:
    """The faults of the files that a configuration with other faults names, and of its runs.

    What only follows from a wrong value is left out.
    """
    whole = examined.whole
    if whole.valid is None:
        return
    load = cache(load_problems)
    for config in [whole.valid, *(run.config for run in examined.runs)]:
        known = {name: value for name, value in config if name not in whole.lacking}
        for fault in faults_of_files(known, load):
            if not whole.is_about_wrong(fault):
                yield fault


def faults_of_files(given: Mapping[str, Any], load: Callable = load_problems) -> list[str]:
    """The faults of the files and folders that sections of a configuration name.

    given: sections by name. With all of them, and the keys of the top level, it is also checked
    whether the base supports what they ask for.
    load: reads a set of problems.
    """
    faults = []
    paths = [(key, given[key]) for key in ("results_dir", "store") if key in given]
    paths += [("stores", path) for path in given.get("stores", ())]
    for key, path in [*paths, *sections.named_paths(given)]:
        with collecting_errors(faults):
            _check_path(key, path)
            _check_named(key, path, given, load)
    return faults + faults_of_code(given)


def faults_of_sets(given: Mapping[str, Any]) -> list[str]:
    """The faults of problem sets that are no known names, nor files that may be elsewhere."""
    faults = []
    for key, path in sections.named_paths(given):
        if key in PROBLEM_SETS and path not in NAMED_SETS and not Path(path).suffix:
            with collecting_errors(faults):
                _check_file(key, path, hint_of_set(path))
    return faults


def faults_of_code(given: Mapping[str, Any]) -> list[str]:
    """The faults of the user's code that sections of a configuration name."""
    faults = []
    for key, code, names in sections.named_code(given):
        with collecting_errors(faults), errors_at(f"config: {key}"):
            if code.check(names) and "moe_sft" in given and given["moe_sft"].model:
                raise UserError(
                    f"{code.label} takes the load of each expert, which moe_sft.model does not say"
                )
    return faults


def _check_named(key: str, path: str, given: Mapping[str, Any], load: Callable) -> None:
    """Raise UserError if a file or folder is not what its key needs."""
    if key == "results_dir":
        _check_results(path)
    elif key == "base.model":
        with errors_at("config"):
            check_source(path, given["base"].revision)
        if Path(path).is_dir():
            with errors_at(f"config: {key}"):
                check_model(Path(path))
        if WorkflowConfig.model_fields.keys() <= given.keys():
            check_base(given)
    elif key == "moe_sft.model":
        with errors_at(f"config: {key}"):
            check_tuned(Path(path), given.get("moe"))
    elif key == "sft.model":
        with errors_at(f"config: {key}"):
            check_tuned(Path(path), None)
    elif key == "data.train":
        _check_rows(given["data"], path)
    elif key == "data.template":
        with errors_at(f"config: {key}"):
            read_template(path, NAMES)
    elif key == "evaluation.base_prompt":
        with errors_at(f"config: {key}"):
            read_template(path, PROMPT_NAMES)
    elif key in PROBLEM_SETS:
        _check_problems(key, path, load)


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
    if data.held_out_rows and data.held_out_rows >= number:
        choice = f", data.choice_rows = {data.choice_rows}" if data.choice_rows else ""
        raise UserError(
            f"config: data.validation_rows = {data.validation_rows}{choice}: "
            f"{', '.join(data.files)} has at most {number} rows, and a training needs some of "
            "them. Set fewer"
        )
    faults = []
    for name in TRAININGS:
        options = getattr(config, name)
        rows = number - data.held_out_rows
        fault = options.fault_of_steps(options.steps(rows, options.global_batch))
        if fault:
            faults.append(f"config: {name}, with at most {number} rows: {fault}")
    if faults:
        raise UserError("\n".join(faults))


def _check_problems(key: str, dataset: str, load: Callable) -> None:
    """Raise UserError if a set of problems is wrong. The pinned ones are not."""
    named = NAMED_SETS.get(dataset)
    if named is None:
        _check_file(key, dataset, hint_of_set(dataset))
    elif not named.override:
        return
    with errors_at(f"config: {key}"):
        load(dataset)


def _check_file(key: str, path: str, hint: str = "") -> None:
    if not Path(path).exists():
        raise UserError(f"config: {key}: there is no file {path}{hint}")
    with errors_at(f"config: {key}"):
        open_regular(Path(path)).close()


def check_base(given: Mapping[str, Any]) -> None:
    """Raise UserError with the keys of the options that the base does not support.

    The length of texts, chat templates, the EOS token, the vocabulary, the numbers of layers and
    the ranks of low-rank products are checked. given: sections of the config, by name. Nothing is
    fetched: files that are not on this machine are not checked.
    """
    base = given["base"]
    folder = find_local(base.model, base.revision, ["config.json"])
    config = {}
    if folder:
        with errors_at("config: base.model"):
            config = read_model_config(folder / "config.json")
    faults = _faults_of_sizes(given, config)
    folder = find_local(base.model, base.revision, TOKENIZER_PATTERNS)
    if folder:
        faults += _faults_of_tokenizer(given, folder)
    if faults:
        raise UserError("\n".join(faults))


def _faults_of_sizes(given: Mapping[str, Any], config: dict) -> list[str]:
    """The faults of ranks, layers and lengths. config: the base's, empty if it is elsewhere."""
    model = given["base"].model
    moe = given["moe"]
    lora_rank = given["sft"].lora_rank
    stated = [config.get(name) for name in ("hidden_size", "intermediate_size")]
    known = [size for size in stated if isinstance(size, int)]
    sizes = {f"a matrix of {model}": min(known)} if known else {}
    faults: list[str] = []
    if moe.experts == "lora":
        with _collecting_faults(faults):
            check_rank("moe.rank", moe.rank, sizes)
    if lora_rank is not None:
        with _collecting_faults(faults):
            check_rank("sft.lora_rank", lora_rank, sizes)
    with _collecting_faults(faults):
        _check_layers(moe.upcycled_layers or [], model, config)
    tokens = window(config)
    if tokens is not None:
        length = given["data"].max_length
        new_tokens = given["evaluation"].max_new_tokens
        with _collecting_faults(faults):
            _check_length("data.max_length", length, model, tokens, most=tokens)
        with _collecting_faults(faults):
            _check_length("evaluation.max_new_tokens", new_tokens, model, tokens, most=tokens - 1)
    return faults


def _faults_of_tokenizer(given: Mapping[str, Any], folder: Path) -> list[str]:
    """The faults of chat templates, the vocabulary and the EOS token. folder: of the tokenizer."""
    model = given["base"].model
    faults: list[str] = []
    for check in (check_vocabulary, check_eos, has_chat_template):
        with _collecting_faults(faults), errors_at("base.model"):
            check(folder)
    if faults:
        return list(dict.fromkeys(faults))  # several read the same file
    templates = {
        "data.template": given["data"].template,
        "evaluation.base_prompt": given["evaluation"].base_prompt,
    }
    for key, template in templates.items():
        if template == CHAT:
            with _collecting_faults(faults):
                _check_chat(key, model, folder)
    return faults


@contextmanager
def _collecting_faults(faults: list[str]) -> Iterator[None]:
    """Add the message of a UserError of the block to others, as one about the configuration."""
    with collecting_errors(faults), errors_at("config"):
        yield


def check_tuned(folder: Path, moe: MoeConfig | None) -> None:
    """Raise UserError unless a folder holds a model that can stand in place of a training.

    moe: the config's section, which the mixture must have been made with; None for a dense model.
    """
    if moe is None:
        check_model(folder)
        return
    check_model(folder, is_base=False)
    held = sections.mixture_settings(read_model_config(folder / "config.json"))
    asked = sections.mixture_settings(dict(moe))
    if held != asked:
        other = json.dumps({key: held[key] for key in held if held[key] != asked.get(key)})
        raise UserError(
            f"{folder} is no mixture by section moe. Its config.json says {other}. Set this in "
            "section moe, or name another folder"
        )


def check_made_of(model: str, base: BaseConfig) -> None:
    """Raise UserError unless a tuned model may be one of the base, if that is on this machine.

    Only the values of its weights are not looked at.
    """
    folder = find_local(base.model, base.revision, ["config.json", *TOKENIZER_PATTERNS])
    if folder:
        from xft.modeling import other_trainers  # imports torch

        other_trainers.check_made_of(Path(model), folder)


def check_chat_template(model: Path, data: DataConfig) -> None:
    """Raise UserError if a file of rows has no good one, or if the chat template cannot write it.

    Of each file the first good row is tried. The turns of a conversation must be marked.
    """
    with errors_at("config"):
        template = prompt_templates.ChatTemplate(load_tokenizer(model))
        first = data.model_copy(update={"limit": 1})
        for file in data.files:
            rows, bad = read_files([Path(file)], first, template.accept)
            if not rows:
                raise UserError(describe(bad))
            try:
                if isinstance(rows[0], Conversation):
                    template.encode_conversation(rows[0], data.max_length)
                else:
                    template.render(rows[0].instruction)
            except TemplateFault as fault:
                raise UserError(f"{fault}. {prompt_templates.ANOTHER}") from None


def _check_length(key: str, value: int, model: str, window: int, most: int) -> None:
    if value > most:
        room = "" if most == window else ", and the prompt needs some of them"
        raise UserError(
            f"{key} = {value}: {model} takes texts of at most {window} tokens, by its "
            f"config.json{room}. Set at most {most}"
        )


def _check_layers(layers: list[int], model: str, config: dict) -> None:
    number = config.get("num_hidden_layers")
    beyond = [layer for layer in layers if isinstance(number, int) and layer >= number]
    if beyond:
        raise UserError(
            f"moe.upcycled_layers names {', '.join(map(str, beyond))}: {model} has layers 0 to "
            f"{number - 1}, by its config.json"
        )


def _check_chat(key: str, model: str, folder: Path) -> None:
    if not has_chat_template(folder):
        raise UserError(
            f"{key} = {CHAT}: {model} has no chat template: neither chat_template.jinja nor "
            "chat_template in tokenizer_config.json. Use the template magicoder, or a file"
        )
