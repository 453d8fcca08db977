"""Lists the artifacts that a configuration wants, with their options and inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from workflow_scripts.artifacts.code import code_hashes, content_hash
from workflow_scripts.artifacts.manifest import Recipe
from workflow_scripts.artifacts.recipe import problem_input
from workflow_scripts.config.reads import keys_of_step, options_of_step
from workflow_scripts.config.sections import MERGED, XftConfig, learns, problem_label
from workflow_scripts.data.templates import COMPLETION, read_template
from workflow_scripts.hub.named_sets import NAMED_SETS, unpacked_sha256
from workflow_scripts.hub.source import dataset_source, model_contents

FILE_STEPS = ("fetch_data", "fetch_problems", "eval", "validation_loss", "lm_eval", "summary")


@dataclass(frozen=True, eq=False)
class Wanted:
    """An artifact that a configuration wants.

    place: its path. options: by key of the configuration. files: the hashes of the files that it is
    made from, by input. sources: the artifacts that it is made from, by input.
    """

    place: Path
    step: str
    options: dict[str, object] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    sources: dict[str, "Wanted"] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether the artifact is a file, not a folder."""
        return self.step in FILE_STEPS

    @property
    def rule(self) -> str:
        """The name of the rule that makes the artifact."""
        kinds = [part.partition("/lam~")[0] for part in (self.place.parent.name, self.place.name)]
        return next((kind for kind in kinds if kind in ("uniform", "best")), self.step)

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


class Wants:
    """The artifacts that a completed config wants.

    requested: those that were requested so far, by path in the results folder.
    """

    def __init__(self, config: XftConfig, results: str | Path):
        self.config = config
        self.results = Path(results)
        self.requested: dict[str, Wanted] = {}

    @cached_property
    def base(self) -> Wanted:
        source = self.config.base
        if Path(source.model).is_dir():
            return self._wanted("base", files=model_contents(Path(source.model)))
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
        return fetched.recipe.digest if fetched else content_hash(Path(self.config.data.train))

    @cached_property
    def tokens(self) -> Wanted:
        template = read_template(self.config.data.template)
        options = options_of_step("tokens", self.config) | {"template": template}
        files = {problem_input(name): sha for name, sha in self.forbidden_sets().items()}
        sources = {"base": self.base}
        if self.fetched_rows:
            sources["data"] = self.fetched_rows
        else:
            files["data"] = self.rows_content
        return self._wanted("tokens", "tokens", options, files, sources)

    def forbidden_sets(self) -> dict[str, str]:
        """The problem sets that no row may contain: their SHA-256 by label."""
        return self.problem_sets if self.config.data.decontaminate else {}

    @cached_property
    def problem_sets(self) -> dict[str, str]:
        """The SHA-256 of each set of evaluation problems, by label."""
        return {
            problem_label(dataset): (
                NAMED_SETS[dataset].wanted_sha256
                if dataset in NAMED_SETS
                else unpacked_sha256(Path(dataset))
            )
            for dataset in self.config.evaluation.datasets
        }

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

    def weighted_init(self, lam: str) -> Wanted:
        options = options_of_step("weighted_init", self.config) | {"lam": float(lam)}
        return self._wanted(
            "weighted_init", f"weighted_init/lam~{lam}", options, sources=self._experts()
        )

    def weighted_trained(self, lam: str) -> Wanted:
        sources = {"weighted": self.weighted_init(lam), "tokens": self.tokens}
        options = options_of_step("weighted_trained", self.config)
        place = f"weighted_trained/lam~{lam}"
        return self._wanted("weighted_trained", place, options, sources=sources | self._experts())

    def shares(self, lam: str) -> Wanted:
        """The mixing coefficients of a lambda: learned if there is something to learn."""
        return self.weighted_trained(lam) if learns(lam) else self.weighted_init(lam)

    def merged(self, place: str, lam: str, learned: bool) -> Wanted:
        """A merge with learned or with equal shares."""
        weighted = self.shares(lam) if learned else self.weighted_init(lam)
        return self._wanted("dense", place, sources={"weighted": weighted} | self._experts())

    def _experts(self) -> dict[str, Wanted]:
        return {"moe": self.moe_sft, "ffn": self.ffn}

    def model(self, name: str) -> Wanted:
        """The model with this name in the evaluations, such as base or dense/lam~0.75."""
        kind, _, lam = name.partition("/lam~")
        if kind in MERGED:
            return self.merged(name, lam, learned=kind == "dense")
        return getattr(self, kind)

    def model_names(self) -> list[str]:
        """The names of the models to evaluate, in the order of the tables."""
        names = []
        for model in self.config.evaluation.models:
            merged = [f"{model}/lam~{lam}" for lam in self.config.merge.lambdas]
            names += merged if model in MERGED else [model]
        return names

    def problems(self, name: str) -> Wanted | None:
        """The file of a named problem set; None for the user's own file."""
        if name not in NAMED_SETS:
            return None
        files = {"content": self.problem_sets[name]}
        return self._wanted("fetch_problems", f"problems/{name}.jsonl", files=files)

    def ground_truth(self, name: str) -> Wanted:
        options = options_of_step("ground_truth", self.config)
        return self._wanted(
            "ground_truth", f"ground_truth/{name}", options, {"dataset": self.problem_sets[name]}
        )

    def evaluation(self, model: str, name: str) -> Wanted:
        options = options_of_step("eval", self.config)
        options |= {"prompt": self.prompt_identity(model), "backend": self.backend(model)}
        if not options["temperature"]:
            options["seed"] = None
        if options["backend"] == "vllm":
            options["threads"] = None
        return self._wanted(
            "eval",
            f"eval/{model}/{name}.json",
            options,
            {"dataset": self.problem_sets[name]},
            {"model": self.model(model), "ground_truth": self.ground_truth(name)},
        )

    def prompt(self, model: str) -> str:
        """The prompt for a model's evaluation: for a tuned model, the prompt of its tuning."""
        untuned = model in ("base", "moe")
        config = self.config
        return config.evaluation.base_prompt if untuned else config.data.template

    def prompt_identity(self, model: str) -> str:
        prompt = self.prompt(model)
        return prompt if prompt == COMPLETION.identity else read_template(prompt)

    def backend(self, model: str) -> str:
        """The generation backend. Only transformers can load a mixture of experts."""
        mixture = model in ("moe", "moe_sft")
        return "transformers" if mixture else self.config.evaluation.backend

    def validation_loss(self, model: str) -> Wanted:
        sources = {"model": self.model(model), "tokens": self.tokens}
        options = options_of_step("validation_loss", self.config)
        return self._wanted("validation_loss", f"validation/{model}.json", options, sources=sources)

    def lm_eval(self, model: str) -> Wanted:
        tasks = self.config.evaluation.lm_eval
        options = options_of_step("lm_eval", self.config) | {"tasks": tasks}
        files = {Path(t).name: content_hash(Path(t)) for t in tasks if t.endswith(".yaml")}
        return self._wanted(
            "lm_eval", f"lm_eval/{model}/tasks.json", options, files, {"model": self.model(model)}
        )

    def evaluations(self) -> list[Wanted]:
        """All evaluations that the config asks for, in the order of the tables."""
        models = self.model_names()
        return [self.evaluation(model, name) for name in self.problem_sets for model in models]

    def dense_evaluations(self) -> list[Wanted]:
        """The evaluation of each dense model on the first data set."""
        first = next(iter(self.problem_sets))
        lambdas = self.config.merge.lambdas
        return [self.evaluation(f"dense/lam~{lam}", first) for lam in lambdas]

    def validation_losses(self) -> list[Wanted]:
        """The loss of each of these models on the held-out rows, if there are any."""
        held_out = self.config.data.validation_rows > 0
        return [self.validation_loss(model) for model in self.model_names() if held_out]

    def lm_eval_results(self) -> list[Wanted]:
        """The result of each model on the tasks of lm_eval, if the config names any."""
        asked = bool(self.config.evaluation.lm_eval)
        return [self.lm_eval(model) for model in self.model_names() if asked]

    @cached_property
    def summary(self) -> Wanted:
        parts = [*self.evaluations(), *self.validation_losses(), *self.lm_eval_results()]
        sources = {str(part.place.relative_to(self.results)): part for part in parts}
        return self._wanted("summary", "summary.csv", sources=sources)

    def _configured(self, step: str, **sources: Wanted) -> Wanted:
        return self._wanted(step, options=options_of_step(step, self.config), sources=sources)

    def _wanted(
        self,
        step: str,
        place: str | None = None,
        options: Mapping | None = None,
        files: dict[str, str] | None = None,
        sources: dict[str, Wanted] | None = None,
    ) -> Wanted:
        """The artifact at a path in the results folder. Each is created once."""
        place = place or step
        if place not in self.requested:
            keys = keys_of_step(step)
            named = {keys[flag]: value for flag, value in (options or {}).items()}
            path = self.results / place
            self.requested[place] = Wanted(path, step, named, files or {}, sources or {})
        return self.requested[place]
