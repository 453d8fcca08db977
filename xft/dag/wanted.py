"""Lists the artifacts that a configuration wants, with their options and inputs."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from xft.artifacts.code import code_hashes, content_hash
from xft.artifacts.manifest import Recipe
from xft.artifacts.recipe import problem_input
from xft.config.models import MERGED, MIXTURES, OF_MIXTURE, UNTUNED
from xft.config.runs import LISTS, Run
from xft.config.sections import learns, problem_label
from xft.config.step_keys import keys_behind, keys_of_step, options_of_step
from xft.data.templates import COMPLETION, read_template
from xft.hub.named_sets import NAMED_SETS, unpacked_sha256
from xft.hub.source import dataset_source, model_contents

FILE_STEPS = ("fetch_data", "fetch_problems", "eval", "validation_loss", "lm_eval", "diversity")
FILE_STEPS += ("summary", "report")


@dataclass(frozen=True, eq=False)
class Wanted:
    """An artifact that a configuration wants.

    place: its path. rule: the rule that makes it. run: the first run that wants it. keys: those of
    the configuration that it depends on. options: by key of the configuration. files: the hashes of
    the files that it is made from, by input. sources: the artifacts that it is made from, by input.
    """

    place: Path
    step: str
    rule: str
    run: "Wants" = field(repr=False)
    keys: frozenset[str] = frozenset()
    options: dict[str, object] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    sources: dict[str, "Wanted"] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether the artifact is a file, not a folder."""
        return self.step in FILE_STEPS

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the artifact's manifest should hold."""
        origins = {name: source.recipe.digest for name, source in self.sources.items()}
        return Recipe(self.step, self.options, self.files | origins, code_hashes(self.step))

    def chain(self) -> Iterator["Wanted"]:
        """The artifact and all its direct and indirect sources, each once, sources first."""
        seen: dict[Wanted, None] = {}

        def visit(wanted: Wanted) -> None:
            if wanted not in seen:
                for source in wanted.sources.values():
                    visit(source)
                seen[wanted] = None

        visit(self)
        yield from seen


class FileContents:
    """The hashes of files and folders that configurations name. Each is computed once."""

    def __init__(self):
        self.of_file = cache(lambda path: content_hash(Path(path)))
        self.of_model = cache(lambda folder: model_contents(Path(folder)))
        self.of_problems = cache(_problems_sha256)
        self.template = cache(read_template)


class NoContents(FileContents):
    """Stands for contents that nobody reads: of files that may not be on this machine."""

    def __init__(self):
        self.of_file = self.of_problems = self.template = lambda name: ""
        self.of_model = lambda folder: {}


def _problems_sha256(name: str) -> str:
    """The SHA-256 of a set of problems: humaneval, mbpp, or a file."""
    return NAMED_SETS[name].wanted_sha256 if name in NAMED_SETS else unpacked_sha256(Path(name))


class Wants:
    """The artifacts that one run wants.

    forbidden: the problem sets that no row may give away, if the configuration does not name them.
    requested: the artifacts that runs requested so far, by path in the results folder. Runs that
    agree on all keys that an artifact depends on share the artifact. of_seeds: the runs that differ
    in their seed alone.
    """

    def __init__(
        self,
        run: Run,
        results: str | Path,
        forbidden: Collection[str] = (),
        requested: dict[str, Wanted] | None = None,
        contents: FileContents | None = None,
    ):
        self.config = run.config
        self.name, self.changes = run.name, run.changes
        self.results = Path(results)
        self.forbidden = forbidden
        self.requested = {} if requested is None else requested
        self.contents = contents or FileContents()
        self.of_seeds = [self]

    @cached_property
    def base(self) -> Wanted:
        source = self.config.base
        if Path(source.model).is_dir():
            return self._wanted("base", files=self.contents.of_model(source.model))
        return self._wanted("base", options=options_of_step("base", self.config))

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
        return self._wanted("fetch_data", f"data/fetched/{source.file_name}", options)

    @cached_property
    def rows_content(self) -> str:
        """A digest that identifies the content of the rows."""
        fetched = self.fetched_rows
        return fetched.recipe.digest if fetched else self.contents.of_file(self.config.data.train)

    @cached_property
    def tokens(self) -> Wanted:
        template = self.contents.template(self.config.data.template)
        options = options_of_step("tokens", self.config) | {"template": template}
        files = {
            problem_input(label): self.contents.of_problems(name)
            for label, name in self.forbidden_sets.items()
        }
        sources = {"base": self.base}
        if self.fetched_rows:
            sources["data"] = self.fetched_rows
        else:
            files["data"] = self.rows_content
        return self._wanted("tokens", "tokens", options, files, sources)

    @cached_property
    def forbidden_sets(self) -> dict[str, str]:
        """The problem sets that no row may give away, by label: names or files."""
        named = self.config.data.decontaminate_against
        return _by_label(self.forbidden if named is None else named)

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
        options = options_of_step("sft", self.config)
        return self._wanted("sft", "sft_flops", options, sources=sources)

    def weighted_init(self, lam: str) -> Wanted:
        """The coefficients from which step 6 learns."""
        if self.config.mixing.init == "uniform":
            return self._equal_shares("weighted_init", lam)
        options = options_of_step("weighted_init", self.config) | {"lam": float(lam)}
        sources = {"tokens": self.tokens} | self._experts()
        return self._wanted("weighted_init", f"weighted_init/lam~{lam}", options, sources=sources)

    def equal_shares(self, lam: str) -> Wanted:
        """Coefficients with equal shares of the routed experts."""
        is_start = self.config.mixing.init == "uniform"
        return self.weighted_init(lam) if is_start else self._equal_shares("uniform_init", lam)

    def _equal_shares(self, folder: str, lam: str) -> Wanted:
        options = options_of_step("weighted_init", self.config) | {"lam": float(lam)}
        options |= {"init": "uniform", "init_rows": None, "threads": None}
        return self._wanted(
            "weighted_init",
            f"{folder}/lam~{lam}",
            options,
            sources=self._experts(),
            unread={"mixing.init", "mixing.init_rows", "threads"},
        )

    def weighted_trained(self, lam: str) -> Wanted:
        sources = {"weighted": self.weighted_init(lam), "tokens": self.tokens}
        options = options_of_step("weighted_trained", self.config)
        text = self.config.mixing.text
        files = {"text": self.contents.of_file(text)} if text else {}
        place, sources = f"weighted_trained/lam~{lam}", sources | self._experts()
        return self._wanted("weighted_trained", place, options, files, sources)

    def shares(self, lam: str) -> Wanted:
        """The mixing coefficients of a lambda: learned if there is something to learn."""
        return self.weighted_trained(lam) if learns(lam) else self.equal_shares(lam)

    def merged(self, name: str, lam: str, learned: bool, expert: int | None = None) -> Wanted:
        """A merge with learned or with equal shares, or with one routed expert alone."""
        options = options_of_step("dense", self.config)
        options |= {} if expert is None else {"expert": expert}
        weighted = self.shares(lam) if learned else self.equal_shares(lam)
        sources = {"weighted": weighted} | self._experts()
        sources |= {"base": self.base} if self.config.merge.needs_base else {}
        return self._wanted("dense", name, options, sources=sources)

    def healed(self, lam: str) -> Wanted:
        """The merged model, tuned after the merge."""
        sources = {"dense": self.model(f"dense/lam~{lam}"), "tokens": self.tokens}
        sources |= {"moe": self.moe_sft} if self.config.heal.objective == "kl" else {}
        options = options_of_step("heal", self.config)
        return self._wanted("heal", f"heal/lam~{lam}", options, sources=sources)

    @cached_property
    def soup(self) -> Wanted:
        """The mean of the sft models of all seeds."""
        sources = {f"model {number}": run.sft for number, run in enumerate(self.of_seeds, 1)}
        return self._wanted("soup", sources=sources, pooled={"seed"})

    @cached_property
    def diversity(self) -> Wanted:
        sources = {"base": self.base, "ffn": self.ffn}
        return self._wanted("diversity", "diversity.json", sources=sources)

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

    def problems(self, label: str) -> Wanted | None:
        """The file of a named problem set; None for the user's own file."""
        if label not in NAMED_SETS:
            return None
        files = {"content": self.contents.of_problems(label)}
        return self._wanted("fetch_problems", f"problems/{label}.jsonl", files=files)

    def ground_truth(self, label: str) -> Wanted:
        options = options_of_step("ground_truth", self.config)
        files = {"dataset": self.contents.of_problems(self.problem_sets[label])}
        return self._wanted("ground_truth", f"ground_truth/{label}", options, files)

    def evaluation(self, model: str, label: str) -> Wanted:
        options = options_of_step("eval", self.config)
        options |= {"prompt": self.prompt_identity(model), "backend": self.backend(model)}
        if not options["temperature"]:
            options["seed"] = None
        if options["backend"] == "vllm":
            options["threads"] = None
        unread = {key for key in ("seed", "threads") if options[key] is None}
        unread |= {"data.template" if self.is_untuned(model) else "evaluation.base_prompt"}
        return self._wanted(
            "eval",
            f"eval/{model}/{label}.json",
            options,
            {"dataset": self.contents.of_problems(self.problem_sets[label])},
            {"model": self.model(model), "ground_truth": self.ground_truth(label)},
            unread,
        )

    def is_untuned(self, model: str) -> bool:
        """Whether a model has seen no instructions."""
        return model in UNTUNED

    def prompt(self, model: str) -> str:
        """The prompt for a model's evaluation: for a tuned model, the prompt of its tuning."""
        config = self.config
        untuned = self.is_untuned(model)
        return config.evaluation.base_prompt if untuned else config.data.template

    def prompt_identity(self, model: str) -> str:
        prompt = self.prompt(model)
        return prompt if prompt == COMPLETION.identity else self.contents.template(prompt)

    def backend(self, model: str) -> str:
        """The generation backend. Only transformers can load a mixture of experts."""
        return "transformers" if model in MIXTURES else self.config.evaluation.backend

    def validation_loss(self, model: str) -> Wanted:
        sources = {"model": self.model(model), "tokens": self.tokens}
        options = options_of_step("validation_loss", self.config)
        return self._wanted("validation_loss", f"validation/{model}.json", options, sources=sources)

    def lm_eval(self, model: str) -> Wanted:
        tasks = self.config.evaluation.lm_eval
        options = options_of_step("lm_eval", self.config) | {"tasks": tasks}
        files = {Path(t).name: self.contents.of_file(t) for t in tasks if t.endswith(".yaml")}
        return self._wanted(
            "lm_eval", f"lm_eval/{model}/tasks.json", options, files, {"model": self.model(model)}
        )

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
        # Experts without a shared one cannot be taken out and compared.
        if model.partition("/")[0] in OF_MIXTURE and self.config.moe.shared_expert:
            found["diversity"] = self.diversity
        return found

    def results_to_show(self) -> list[Wanted]:
        """All results that the summary shows of this run, in the order of the tables."""
        return [
            part
            for label in self.problem_sets
            for model in self.model_names()
            for part in self.measured(model, label).values()
        ]

    def at(self, name: str) -> Wanted:
        """The artifact of this run with a name such as moe_sft or eval/base/problems.json.

        Raises KeyError if no artifact has such a name.
        """
        kind, _, rest = name.partition("/")
        match kind:
            case "weighted_init" | "weighted_trained":
                found = getattr(self, kind)(rest.removeprefix("lam~"))
            case "uniform_init":
                found = self.equal_shares(rest.removeprefix("lam~"))
            case "problems":
                found = self.problems(rest.removesuffix(".jsonl"))
            case "data":
                found = self.fetched_rows
            case "ground_truth":
                found = self.ground_truth(rest)
            case "eval":
                model, _, label = rest.removesuffix(".json").rpartition("/")
                found = self.evaluation(model, label)
            case "validation":
                found = self.validation_loss(rest.removesuffix(".json"))
            case "lm_eval":
                found = self.lm_eval(rest.removesuffix("/tasks.json"))
            case "tokens" | "ffn":
                found = getattr(self, kind)
            case "diversity.json":
                found = self.diversity
            case _:
                found = self.model(name)
        if found is None:
            raise KeyError(name)
        return found

    def _configured(self, step: str, **sources: Wanted) -> Wanted:
        return self._wanted(step, options=options_of_step(step, self.config), sources=sources)

    def _wanted(
        self,
        step: str,
        name: str | None = None,
        options: Mapping | None = None,
        files: dict[str, str] | None = None,
        sources: dict[str, Wanted] | None = None,
        unread: Collection[str] = (),
        pooled: Collection[str] = (),
    ) -> Wanted:
        """The artifact with a name. Each is created once for all runs that share it.

        unread: keys that the step reads in other cases only. pooled: keys whose values are all
        among the sources.
        """
        name, sources = name or step, sources or {}
        keys = keys_behind(step) - {*unread, *LISTS}
        keys = keys.union(*(source.keys for source in sources.values())) - {*pooled}
        place = self.prefix(keys) + name
        if place not in self.requested:
            read = keys_of_step(step)
            named = {read[flag]: value for flag, value in (options or {}).items()}
            self.requested[place] = Wanted(
                self.results / place,
                step,
                step,
                self,
                keys,
                named,
                files or {},
                sources,
            )
        return self.requested[place]

    def prefix(self, keys: Collection[str]) -> str:
        """The folders, in the results folder, of what depends on these keys.

        There is a folder for each of the keys in which this run differs from the configuration's
        own values, as moe.num_experts_per_tok~2/seed~7/. Snakemake's Paramspace writes such paths
        too, but all columns into each.
        """
        return "".join(f"{key}~{text}/" for key, text in self.changes.items() if key in keys)


def _by_label(names: Collection[str]) -> dict[str, str]:
    return {problem_label(name): name for name in names}
