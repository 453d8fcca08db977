"""Lists the artifacts that a configuration wants, with their options and inputs."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.config.models import MERGED, MIXTURES, OF_MIXTURE, UNTUNED
from xft.config.runs import LISTS, Run
from xft.config.sections import FLOPS_KEYS, learns, problem_label
from xft.config.step_keys import default_of, keys_behind, keys_of_step, options_of_step
from xft.data.templates import COMPLETION, PROMPT_NAMES, read_template
from xft.data.tokenizers import class_choice
from xft.evaluation.lm_eval_tasks import task_files
from xft.hub.named_sets import NAMED_SETS, unpacked_sha256
from xft.hub.source import check_model, dataset_source
from xft.store.memory import Memory, content_hash
from xft.store.recipe import Recipe
from xft.store.store import Store

ARTIFACT, RESULT = "artifact", "result.json"  # in an entry
METRICS, GENERATIONS = "metrics.jsonl", "result.generations.jsonl"
TRAININGS = ("moe_sft", "sft", "weighted_trained", "heal")
# Options of recipes that are no flags with the same value: the content of a file that a flag names,
# what a table or a page shows, and what a merge is chosen from.
NO_FLAGS = ("prompt", "template", "rows", "config", "by", "merges")


@dataclass(eq=False)
class Wanted:
    """An artifact that a configuration wants.

    run: the first run that wants it. place: its file or folder in its entry. keys: those of the
    configuration that it depends on. sources: the artifacts that it is made from, by input; `needs`
    are read too, but their content is in the recipe. files: those of the user that the step reads.
    flags: of its command, besides the options of its recipe. names: in the results folder.
    """

    recipe: Recipe
    run: "Wants" = field(repr=False)
    entry: Path
    file: str
    keys: frozenset[str] = frozenset()
    sources: dict[str, "Wanted"] = field(default_factory=dict)
    needs: dict[str, "Wanted"] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    flags: dict[str, object] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def rule(self) -> str:
        """The rule and the step that make it."""
        return self.recipe.step

    @property
    def digest(self) -> str:
        return self.recipe.digest

    @property
    def name(self) -> str:
        """Its first name in the results folder."""
        return self.names[0]

    @property
    def place(self) -> Path:
        return self.entry / self.file

    @property
    def inputs(self) -> dict[str, list[str]]:
        """The entries and files that its job reads, by their names in the rule."""
        found = {name: list(paths) for name, paths in self.files.items()}
        for name, source in (self.sources | self.needs).items():
            found.setdefault(name.partition(" ")[0], []).append(str(source.entry))
        return found

    @property
    def options(self) -> dict[str, object]:
        """The flags of its command, other than those of its rule."""
        own = {key.rpartition(".")[2]: value for key, value in self.recipe.options.items()}
        return {name: own[name] for name in own if name not in NO_FLAGS} | self.flags

    def chain(self) -> Iterator["Wanted"]:
        """The artifact and all that it is directly or indirectly made from, each once, in order."""
        seen: dict[Wanted, None] = {}

        def visit(wanted: Wanted) -> None:
            if wanted not in seen:
                for source in (wanted.sources | wanted.needs).values():
                    visit(source)
                seen[wanted] = None

        visit(self)
        yield from seen


class FileContents:
    """The hashes of files that configurations name. memory: where they are remembered."""

    def __init__(self, memory: Memory | None = None):
        self.memory = memory or Memory()
        self.template = read_template
        self.of_model = cache(self.of_model)

    def of_file(self, path: str) -> str:
        return self.memory.of(Path(path), content_hash)

    def of_model(self, folder: str) -> dict[str, str]:
        """The hash of each file of a dense model, by name."""
        place = Path(folder)
        return {
            file.relative_to(place).as_posix(): self.of_file(str(file))
            for file in check_model(place)
        }

    def of_problems(self, name: str) -> str:
        """The SHA-256 of a set of problems: humaneval, mbpp, or a file."""
        if name in NAMED_SETS:
            return NAMED_SETS[name].wanted_sha256
        return self.memory.of(Path(name), unpacked_sha256)


class NoContents(FileContents):
    """Stands for contents that nobody reads: of files that may not be on this machine."""

    def __init__(self):
        super().__init__()
        self.of_file = self.of_problems = self.template = lambda name: name
        self.of_model = lambda folder: {"": folder}


@dataclass
class Shared:
    """What the runs of a configuration share.

    found: their artifacts by digest.
    """

    store: Store
    contents: FileContents
    version_of: Callable[[str], int | str]
    found: dict[str, Wanted] = field(default_factory=dict)

    def artifact(
        self,
        run: "Wants",
        step: str,
        options: dict[str, object],
        sources: dict[str, Wanted],
        contents: Mapping[str, str] = {},
        **about,
    ) -> Wanted:
        """The artifact of a recipe, the same one whoever asks.

        options, sources and contents: what the recipe holds. about: the other fields of `Wanted`.
        """
        inputs = {name: source.digest for name, source in sources.items()} | contents
        recipe = Recipe(step, self.version_of(step), options, inputs)
        entry = self.store.entry(step, recipe.digest)
        made = Wanted(recipe, run, entry, sources=sources, **about)
        return self.found.setdefault(recipe.digest, made)


class Wants:
    """The artifacts that one run wants. of_seeds: the runs that differ in their seed alone."""

    def __init__(self, run: Run, shared: Shared):
        self.config = run.config
        self.name, self.changes = run.name, run.changes
        self.shared, self.contents = shared, shared.contents
        self.of_seeds = [self]
        # Each is asked for again and again, by everything that is made from it.
        self.model, self.shares = cache(self.model), cache(self.shares)
        self.ground_truth, self.evaluation, self.contamination = map(
            cache, (self.ground_truth, self.evaluation, self.contamination)
        )

    @cached_property
    def base(self) -> Wanted:
        source = self.config.base
        if not Path(source.model).is_dir():
            return self._wanted("base", options=options_of_step("base", self.config))
        contents = self.contents.of_model(source.model)
        files = {"files": [str(Path(source.model, name)) for name in contents]}
        return self._wanted("base", contents=contents, files=files, flags={"model": source.model})

    @cached_property
    def fetched_rows(self) -> Wanted | None:
        """The rows from the hub; None if the rows are a local file."""
        data = self.config.data
        if not data.revision:
            return None
        options = options_of_step("fetch_data", self.config)
        source = dataset_source(data.train, data.revision)
        if source.file:
            del options["split"]
        name = f"data/fetched/{source.file_name}"
        return self._wanted("fetch_data", name, options, file=source.file_name)

    @property
    def rows_file(self) -> str:
        """The file of the rows."""
        fetched = self.fetched_rows
        return str(fetched.place) if fetched else self.config.data.train

    @cached_property
    def tokens(self) -> Wanted:
        data = self.config.data
        options = options_of_step("tokens", self.config)
        options["template"] = self.contents.template(data.template)
        contents = {f"problems {label}": self._cleaned_of(label) for label in self.forbidden_sets}
        files = {
            "problems": [name for name in data.decontaminate_against if name not in NAMED_SETS]
        } | _template_file(data.template)
        sources, needs = {"base": self.base}, {}
        if Path(self.config.base.model).is_dir():  # then its tokenizer's files are known
            needs["base"] = sources.pop("base")
            contents |= self._tokenizer_contents()
        if self.fetched_rows:
            sources["data"] = self.fetched_rows
        else:
            contents["data"] = self.contents.of_file(data.train)
            files["data"] = [data.train]
        flags = {"template": data.template, "data": self.rows_file}
        flags["problems"] = data.decontaminate_against or [""]
        about = {"needs": needs, "files": files, "flags": flags}
        return self._wanted("tokens", None, options, sources, contents, **about)

    def _cleaned_of(self, label: str) -> str:
        """The hash of a set of problems that rows are cleaned of."""
        name = self.forbidden_sets[label]
        return NAMED_SETS[name].sha256 if name in NAMED_SETS else self.contents.of_problems(name)

    def _tokenizer_contents(self) -> dict[str, str]:
        place = Path(self.config.base.model)
        files = {path for pattern in TOKENIZER_PATTERNS for path in place.glob(pattern)}
        found = {
            file.relative_to(place).as_posix(): self.contents.of_file(str(file))
            for file in files
            if file.is_file()
        }
        return {f"base {name}": value for name, value in (found | class_choice(place)).items()}

    @cached_property
    def forbidden_sets(self) -> dict[str, str]:
        """The problem sets that no row may give away, by label: names or files."""
        return _by_label(self.config.data.decontaminate_against)

    @cached_property
    def problem_sets(self) -> dict[str, str]:
        """The problem sets of the evaluation, by label: names or files."""
        return _by_label(self.config.evaluation.datasets)

    @cached_property
    def moe(self) -> Wanted:
        return self._configured("moe", base=self.base)

    @cached_property
    def moe_sft(self) -> Wanted:
        return self._configured("moe_sft", moe=self.moe, tokens=self.tokens)

    @cached_property
    def sft(self) -> Wanted:
        return self._configured("sft", base=self.base, tokens=self.tokens)

    @cached_property
    def ffn(self) -> Wanted:
        return self._configured("ffn", moe=self.moe_sft)

    @cached_property
    def sft_flops(self) -> Wanted:
        """The tuned base at as many FLOPs as the mixture's tuning."""
        sources = {"base": self.base, "tokens": self.tokens, "flops_of": self.moe}
        config = self.config.model_copy(update={"sft": self.config.sft_flops})
        options, flags = options_of_step("sft", config), {"match_flops": self.moe.place}
        unread = ["sft.max_steps", "sft.num_train_epochs"]
        about = {"read": FLOPS_KEYS, "unread": unread, "flags": flags}
        return self._wanted("sft", "sft_flops", options, sources, **about)

    def weighted_init(self, lam: str) -> Wanted:
        """The coefficients from which step 6 learns."""
        if self.config.mixing.init == "uniform":
            return self._equal_shares("weighted_init", lam)
        options = options_of_step("weighted_init", self.config) | {"lam": lam}
        sources, flags = {"tokens": self.tokens} | self._experts(), {"data": self.tokens.place}
        name = f"weighted_init/lam~{lam}"
        return self._wanted("weighted_init", name, options, sources, flags=flags)

    def equal_shares(self, lam: str) -> Wanted:
        """Coefficients with equal shares of the routed experts."""
        is_start = self.config.mixing.init == "uniform"
        return self.weighted_init(lam) if is_start else self._equal_shares("uniform_init", lam)

    def _equal_shares(self, folder: str, lam: str) -> Wanted:
        options = options_of_step("weighted_init", self.config) | {"lam": lam, "init": "uniform"}
        unread = {"mixing.init", "mixing.init_rows", "threads"}
        del options["init_rows"], options["threads"]
        name = f"{folder}/lam~{lam}"
        return self._wanted("weighted_init", name, options, self._experts(), unread=unread)

    def weighted_trained(self, lam: str) -> Wanted:
        sources = {"weighted": self.weighted_init(lam), "tokens": self.tokens}
        options = options_of_step("weighted_trained", self.config)
        mixing, about = self.config.mixing, {}
        if text := mixing.text:
            about["contents"] = {mixing.text_form: self.contents.of_file(text)}
            about |= {"files": {"text": [text]}, "flags": {"text": text}}
        name, sources = f"weighted_trained/lam~{lam}", sources | self._experts()
        return self._wanted("weighted_trained", name, options, sources, **about)

    def shares(self, lam: str) -> Wanted:
        """The mixing coefficients of a lambda: learned if there is something to learn."""
        return self.weighted_trained(lam) if learns(lam) else self.equal_shares(lam)

    def merged(self, name: str, lam: str, learned: bool, expert: int | None = None) -> Wanted:
        """A merge with learned or with equal shares, or with one routed expert alone."""
        options = options_of_step("dense", self.config)
        options |= {} if expert is None else {"expert": expert}
        weighted = self.shares(lam) if learned else self.equal_shares(lam)
        sources, flags = {"weighted": weighted} | self._experts(), {}
        if self.config.merge.needs_base:
            sources["base"], flags["base"] = self.base, self.base.place
        return self._wanted("dense", name, options, sources, flags=flags)

    def healed(self, lam: str) -> Wanted:
        """The merged model, tuned after the merge."""
        sources, flags = {"dense": self.model(f"dense/lam~{lam}"), "tokens": self.tokens}, {}
        if self.config.heal.objective == "kl":
            sources["moe"], flags["teacher"] = self.moe_sft, self.moe_sft.place
        options = options_of_step("heal", self.config)
        return self._wanted("heal", f"heal/lam~{lam}", options, sources, flags=flags)

    @cached_property
    def soup(self) -> Wanted:
        """The mean of the sft models of all seeds. Their order in the configuration is the same."""
        runs = sorted(self.of_seeds, key=lambda run: run.config.seed)
        sources = {f"model {number}": run.sft for number, run in enumerate(runs, 1)}
        flags = {"models": [str(model.place) for model in sources.values()]}
        return self._wanted("soup", sources=sources, pooled={"seed"}, flags=flags)

    @cached_property
    def diversity(self) -> Wanted:
        sources = {"base": self.base, "ffn": self.ffn, "moe": self.moe_sft}
        return self._wanted("diversity", "diversity.json", sources=sources, file=RESULT)

    def _experts(self) -> dict[str, Wanted]:
        return {"moe": self.moe_sft, "ffn": self.ffn}

    def model(self, name: str) -> Wanted:
        """The model with this name in the evaluations, such as base or dense/lam~0.75."""
        kind, _, lam = name.partition("/lam~")
        if kind == "heal":
            return self.healed(lam)
        kind, _, expert = kind.partition("/expert~")
        if kind == "experts_only":
            return self.merged(name, lam, learned=False, expert=int(expert))
        if kind in MERGED:
            return self.merged(name, lam, learned=kind == "dense")
        return getattr(self, kind)

    def main_models(self) -> list[Wanted]:
        """The models of the paper's steps and its baseline, whether or not they are evaluated."""
        merged = [self.model(f"dense/lam~{lam}") for lam in self.config.merge.lambdas]
        return [self.sft, self.moe_sft, *merged]

    def model_names(self) -> list[str]:
        """The names of the models to evaluate, in the order of the tables."""
        names = []
        for model in self.config.evaluation.models:
            kinds = [model]
            if model == "experts_only":
                routed = range(1, self.config.moe.num_experts)
                kinds = [f"{model}/expert~{expert}" for expert in routed]
            lambdas = [f"/lam~{lam}" for lam in self.config.merge.lambdas]
            names += [
                kind + lam for kind in kinds for lam in (lambdas if model in MERGED else [""])
            ]
        return names

    def problems(self, label: str) -> Wanted:
        """The file of a named problem set."""
        contents, name = {"content": self.contents.of_problems(label)}, f"{label}.jsonl"
        about = {"file": name, "flags": {"dataset": label}}
        if override := NAMED_SETS[label].override:
            about["files"] = {"override": [str(override)]}
        return self._wanted("fetch_problems", f"problems/{name}", contents=contents, **about)

    def ground_truth(self, label: str) -> Wanted:
        options = options_of_step("ground_truth", self.config)
        about = self._of_dataset(label)
        return self._wanted("ground_truth", f"ground_truth/{label}", options, **about)

    def _of_dataset(self, label: str) -> dict[str, dict]:
        """What the recipe and the command of a job on a set of problems hold."""
        name = self.problem_sets[label]
        about = {"contents": {"dataset": self.contents.of_problems(name)}}
        if label not in NAMED_SETS:
            return about | {"files": {"problems": [name]}, "flags": {"dataset": name}}
        fetched = self.problems(label)
        return about | {"needs": {"problems": fetched}, "flags": {"dataset": fetched.place}}

    def contamination(self, label: str) -> Wanted:
        """The number of rows that the trainings learn from and that contain a problem of a set."""
        about, sources = self._of_dataset(label), {"tokens": self.tokens}
        if self.fetched_rows:
            sources["data"] = self.fetched_rows
        else:
            about.setdefault("files", {})["data"] = [self.config.data.train]
        about["flags"]["data"] = self.rows_file
        name = f"contamination/{label}.json"
        return self._wanted("contamination", name, sources=sources, file=RESULT, **about)

    def evaluation(self, model: str, label: str) -> Wanted:
        options = options_of_step("eval", self.config)
        options |= {"prompt": self.prompt_identity(model), "backend": self.backend(model)}
        unread = {"data.template" if model in UNTUNED else "evaluation.base_prompt"}
        if not options["temperature"]:
            unread.add("seed")
        if options["backend"] == "vllm":
            unread.add("threads")
        for key in unread & options.keys():
            del options[key]
        sources = {"model": self.model(model), "ground_truth": self.ground_truth(label)}
        about, prompt = self._of_dataset(label), self.prompt(model)
        about["flags"]["prompt"] = prompt
        about["files"] = about.get("files", {}) | _template_file(prompt)
        name = f"eval/{model}/{label}.json"
        return self._wanted("eval", name, options, sources, unread=unread, file=RESULT, **about)

    def prompt(self, model: str) -> str:
        """The prompt for a model's evaluation: for a tuned model, the prompt of its tuning."""
        config = self.config
        return config.evaluation.base_prompt if model in UNTUNED else config.data.template

    def prompt_identity(self, model: str) -> str:
        prompt = self.prompt(model)
        return prompt if prompt == COMPLETION.identity else self.contents.template(prompt)

    def backend(self, model: str) -> str:
        """The generation backend. Only transformers can load a mixture of experts."""
        return "transformers" if model in MIXTURES else self.config.evaluation.backend

    def validation_loss(self, model: str) -> Wanted:
        sources = {"model": self.model(model), "tokens": self.tokens}
        options, name = options_of_step("validation_loss", self.config), f"validation/{model}.json"
        return self._wanted("validation_loss", name, options, sources, file=RESULT)

    @cached_property
    def task_files(self) -> dict[str, str]:
        """The files of lm_eval's tasks, by name."""
        files = task_files(self.config.evaluation.lm_eval)
        return {name: str(file) for name, file in files.items()}

    def lm_eval(self, model: str) -> Wanted:
        tasks = self.config.evaluation.lm_eval
        options = options_of_step("lm_eval", self.config)
        options["tasks"] = [Path(task).name for task in tasks]
        files = self.task_files
        contents = {name: self.contents.of_file(file) for name, file in files.items()}
        sources, name = {"model": self.model(model)}, f"lm_eval/{model}/tasks.json"
        about = {"contents": contents, "files": {"task_files": [*files.values()]}, "file": RESULT}
        about["flags"] = {"tasks": tasks}
        return self._wanted("lm_eval", name, options, sources, **about)

    @property
    def chosen_by(self) -> str:
        """What the best merge is chosen by: validation or benchmark."""
        select = self.config.merge.select
        automatic = "validation" if self.config.data.validation_rows else "benchmark"
        return automatic if select == "auto" else select

    def measured_merges(self) -> dict[Wanted, Wanted]:
        """The dense models to evaluate, each with the result that the best is chosen by."""
        first = next(iter(self.problem_sets))
        return {
            self.model(name): (
                self.validation_loss(name)
                if self.chosen_by == "validation"
                else self.evaluation(name, first)
            )
            for name in self.model_names()
            if name.startswith("dense/")
        }

    def measured(self, model: str, label: str) -> dict[str, Wanted]:
        """What the config asks to measure of a model on a problem set, by step."""
        found = {"eval": self.evaluation(model, label)}
        if self.config.data.validation_rows:
            found["validation_loss"] = self.validation_loss(model)
        if self.config.evaluation.lm_eval:
            found["lm_eval"] = self.lm_eval(model)
        if _is_uncleaned(found["eval"]):
            found["contamination"] = self.contamination(label)
        # Experts without a shared one cannot be taken out and compared.
        if model.partition("/")[0] in OF_MIXTURE and self.config.moe.shared_expert:
            found["diversity"] = self.diversity
        return found

    def _configured(self, step: str, **sources: Wanted) -> Wanted:
        return self._wanted(step, None, options_of_step(step, self.config), sources)

    def _wanted(
        self,
        step: str,
        name: str | None = None,
        options: Mapping | None = None,
        sources: dict[str, Wanted] | None = None,
        contents: dict[str, str] | None = None,
        unread: Collection[str] = (),
        read: Collection[str] = (),
        pooled: Collection[str] = (),
        file: str = ARTIFACT,
        **about: dict,
    ) -> Wanted:
        """The artifact with a name. All runs whose recipes are equal share it.

        contents: the hashes of files, for the recipe. unread: keys that the step reads in other
        cases only. read: those that it reads in this case only. pooled: keys whose values are all
        among the sources. about: needs, files, flags.
        """
        name, sources = name or step, sources or {}
        keys = (keys_behind(step) | {*read}) - {*unread, *LISTS}
        behind = [*sources.values(), *about.get("needs", {}).values()]
        keys = keys.union(*(source.keys for source in behind)) - {*pooled}
        key_of = keys_of_step(step)
        named = {
            key_of[flag]: value
            for flag, value in (options or {}).items()
            if value != default_of(key_of[flag])
        }
        about |= {"file": file, "keys": keys}
        found = self.shared.artifact(self, step, named, sources, contents or {}, **about)
        if (full := self.prefix(keys) + name) not in found.names:
            found.names.append(full)
        return found

    def prefix(self, keys: Collection[str]) -> str:
        """The folders, in the results folder, of what depends on these keys.

        There is a folder for each of the keys in which this run differs from the configuration's
        own values, as moe.num_experts_per_tok~2/seed~7/.
        """
        return "".join(f"{key}~{text}/" for key, text in self.changes.items() if key in keys)


def _is_uncleaned(evaluation: Wanted) -> bool:
    """Whether the evaluated model learned from rows that were not cleaned of the problems."""
    problems = evaluation.recipe.inputs["dataset"]
    tokens = (part for part in evaluation.chain() if part.rule == "tokens")
    return any(problems not in part.recipe.inputs.values() for part in tokens)


def _by_label(names: Collection[str]) -> dict[str, str]:
    return {problem_label(name): name for name in names}


def _template_file(name: str) -> dict[str, list[str]]:
    """The file of a template, as an input of a rule, if it is a file."""
    return {} if name in PROMPT_NAMES else {"template": [name]}
