"""The graph of one run: a method for each artifact, from the base to the measurements.

A method says what the artifact is made from. `config.steps` says which keys are its options.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.artifacts.manifest import joint_sha256, json_sha256
from xft.common.errors import errors_at
from xft.common.user_code import codes_in
from xft.config import sections
from xft.config.runs import Run
from xft.config.sections import WorkflowConfig
from xft.config.steps import LOSSES, METRICS, STEPS
from xft.dag.nodes import Input, Node, Nodes, made
from xft.data.prompt_templates import COMPLETION, PROMPT_NAMES
from xft.data.tokenizers import class_choice
from xft.hub.named_sets import NAMED_SETS, RELEASED, TRANSLATED
from xft.hub.source import dataset_source


class Model(NamedTuple):
    """A model to evaluate: one of `MODELS`, with its lambda if it is merged."""

    kind: str
    lam: str | None = None

    def __str__(self) -> str:
        """Its name in results and tables, such as base or dense/lam~0.75."""
        return self.kind if self.lam is None else f"{self.kind}/lam~{self.lam}"


@dataclass(frozen=True)
class StepOfRun:
    """A step, as a run uses it.

    name: of the step.
    values: of its flags that have an effect and are not the defaults, by key.
    keys: that decide about its artifact.
    file: of the artifact in its entry.
    """

    name: str
    values: Mapping[str, object]
    keys: frozenset[str]
    file: str


class Graph:
    """The artifacts of a run. of_seeds: the runs that differ from it in their seed alone."""

    def __init__(self, run: Run, nodes: Nodes):
        self.run = run
        self.config = run.config
        self.nodes = nodes
        self.contents = nodes.contents
        self.of_seeds = [self]
        # They are asked for again and again.
        self.node_of = cache(self.node_of)
        self.evaluation = cache(self.evaluation)

    # The models, in the order of the paper.

    @cached_property
    def base(self) -> Node:
        model = self.config.base.model
        if Path(model).is_dir():
            return self._links("base", model)
        return self._node("base")

    @cached_property
    def moe(self) -> Node:
        return self._node("moe", [made("base", self.base)])

    @cached_property
    def moe_sft(self) -> Node:
        model = self.config.moe_sft.model
        if model:
            return self._links("moe_sft", model, tuned_from=self.base)
        return self._node("moe_sft", [made("moe", self.moe), self._tokens()])

    @cached_property
    def ffn(self) -> Node:
        return self._node("ffn", [made("moe_sft", self.moe_sft, flag="moe")])

    def weighted_init(self, lam: str) -> Node:
        value = Input("lam", recorded={"lam": lam}, flags={"lam": lam})
        return self._node("weighted_init", [value, *self._experts()], f"weighted_init/lam~{lam}")

    def weighted_trained(self, lam: str) -> Node:
        shares = made("weighted_init", self.weighted_init(lam), flag="weighted")
        inputs = [shares, *self._experts(), self._tokens()]
        return self._node("weighted_trained", inputs, f"weighted_trained/lam~{lam}")

    def dense(self, lam: str) -> Node:
        """The merge with learned shares, if there is something to learn."""
        shares = self.weighted_trained(lam) if sections.learns(lam) else self.weighted_init(lam)
        return self._merge(f"dense/lam~{lam}", shares)

    def uniform(self, lam: str) -> Node:
        """The merge with equal shares of the routed experts."""
        return self._merge(f"uniform/lam~{lam}", self.weighted_init(lam))

    @cached_property
    def sft(self) -> Node:
        model = self.config.sft.model
        if model:
            return self._links("sft", model, tuned_from=self.base)
        return self._node("sft", [made("base", self.base), self._tokens()])

    @cached_property
    def sft_flops(self) -> Node:
        """The tuned base at as many FLOPs as the mixture's tuning, which its shape decides."""
        config = self.config.model_copy(update={"sft": self.config.sft_flops})
        unread = {"sft.max_steps", "sft.num_train_epochs"}
        step = self._step("sft", config=config, unread=unread)
        inputs = [made("base", self.base), self._tokens(), self._flops_of_mixture()]
        return self._node_of_step(step, inputs, "sft_flops")

    def _flops_of_mixture(self) -> Input:
        """The settings that decide the FLOPs of the mixture's tuning: its shape and its rows."""
        settings = sections.mixture_settings(dict(self.config.moe))
        shape = {key: settings[key] for key in sections.SHAPE_KEYS if key in settings}
        of_tuning = {*sections.FLOPS_KEYS} - STEPS["moe_sft"].idle_keys(self.config)
        of_shape = {f"moe.{key}" for key in shape}
        return Input(
            "flops_of",
            recorded={"flops_of": shape},
            flags={"match_flops": True, **shape},
            keys=frozenset(of_tuning | of_shape),
        )

    @cached_property
    def soup(self) -> Node:
        """The mean of the models of all seeds. Their order in the configuration does not matter."""
        graphs = sorted(self.of_seeds, key=lambda graph: graph.config.seed)
        places = [graph.sft.place for graph in graphs]
        inputs = []
        for number, graph in enumerate(graphs, 1):
            recipe_inputs = {f"model {number}": graph.sft.digest}
            model = made("models", graph.sft, flag="", recipe_inputs=recipe_inputs, models=places)
            inputs.append(replace(model, keys=model.keys - {"seed"}))
        return self._node("soup", inputs)

    def node_of(self, model: Model) -> Node:
        """The method or property above that makes a model: it has the name of the model."""
        member = getattr(self, model.kind)
        if model.lam is None:
            return member
        return member(model.lam)

    def main_models(self) -> list[Node]:
        """The models of the paper's steps and its baseline, whether or not they are evaluated."""
        models = [self.sft, self.moe_sft]
        models += [self.dense(lam) for lam in self.config.merge.lambdas]
        return models

    def models(self) -> list[Model]:
        """The models to evaluate, in the order of the tables."""
        models = []
        for kind in self.config.evaluation.models:
            if kind in sections.MERGED:
                models += [Model(kind, lam) for lam in self.config.merge.lambdas]
            else:
                models.append(Model(kind))
        return models

    # The rows.

    @cached_property
    def tokens(self) -> Node:
        template = self._template_of_tokens()
        base = made("base", self.base, flag="model")
        if Path(self.config.base.model).is_dir():  # then its tokenizer's files are known
            base = replace(base, recipe_inputs=self._tokenizer())
        return self._node("tokens", [self._rows(), *self._forbidden_problems(), template, base])

    def _template_of_tokens(self) -> Input:
        """The template of the rows. Its name is an option of the step.

        The content of a file stands in the recipe in place of its path.
        """
        template = self._template(self.config.data.template, "template")
        content = {}
        if template.paths:
            content = {"data.template": template.recorded["template"]}
        return replace(template, recorded=content)

    def _rows(self) -> Input:
        data = self.config.data
        if data.revision:
            return made("data", self._fetched_rows())
        content = joint_sha256([self.contents.of_rows(file) for file in data.files])
        return Input("data", tuple(data.files), {"data": content}, flags={"data": data.files})

    def _fetched_rows(self) -> Node:
        """The file of a data set on the hub."""
        data = self.config.data
        file = dataset_source(data.train, data.revision).file_name
        return self._node_of_step(self._step("fetch_data", file=file), [], f"data/fetched/{file}")

    def _forbidden_problems(self) -> Iterator[Input]:
        """The sets of problems that rows are cleaned of. The hashes of two come along."""
        names = self.config.data.decontaminate_against
        fetched = [name for name in names if name in TRANSLATED]
        files = [name for name in names if name not in NAMED_SETS]
        recipe_inputs, places = {}, []
        for name in names:
            label = sections.dataset_name(name)
            if name in RELEASED:
                recipe_inputs[f"problems {label}"] = RELEASED[name].sha256
            else:
                recipe_inputs[f"problems {label}"] = self.contents.of_problems(name)
            if name in fetched:
                places.append(str(self.fetch_problems(name).place))
            else:
                places.append(name)
        yield Input("problems", tuple(files), recipe_inputs, flags={"problems": places or [""]})
        for name in fetched:
            yield made("problems", self.fetch_problems(name), flag="", recipe_inputs={})

    def _tokenizer(self) -> dict[str, str]:
        """The text that stands for the base's tokenizer in a recipe."""
        place = Path(self.config.base.model)
        paths = {path for pattern in TOKENIZER_PATTERNS for path in place.glob(pattern)}
        files = [path for path in paths if path.is_file()]
        with errors_at("config: base.model"):
            contents = self.contents.of_files(place, files) | class_choice(place)
        return {f"base {name}": content for name, content in contents.items()}

    # The problems, and what is measured of the models.

    @cached_property
    def data_sets(self) -> dict[str, str]:
        """The problem sets of the evaluation, by label: names or files."""
        return {sections.dataset_name(name): name for name in self.config.evaluation.datasets}

    def fetch_problems(self, name: str) -> Node:
        """The file of a named problem set."""
        named = NAMED_SETS[name]
        paths = (str(named.override),) if named.override else ()
        content = {"content": self.contents.of_problems(name)}
        problems = Input("override", paths, content, flags={"dataset": name})
        step = self._step("fetch_problems", file=named.file)
        return self._node_of_step(step, [problems], f"problems/{named.file}")

    def ground_truth(self, label: str) -> Node:
        return self._node("ground_truth", [self._problems(label)], f"ground_truth/{label}")

    def _problems(self, label: str) -> Input:
        """A set of problems."""
        name = self.data_sets[label]
        content = {"dataset": self.contents.of_problems(name)}
        if name in NAMED_SETS:
            return made("problems", self.fetch_problems(name), "dataset", content)
        return Input("problems", (name,), content, flags={"dataset": name})

    def evaluation(self, model: Model, label: str) -> Node:
        """The result of a model on a set of problems. label: of the set."""
        config = self._config_of_evaluation(model)
        step = self._step("eval", config=config, unread=self._unread_templates(model))
        inputs = [
            made("model", self.node_of(model)),
            made("ground_truth", self.ground_truth(label), flag="ground-truth"),
            self._problems(label),
            *self._prompts(model),
        ]
        return self._node_of_step(step, inputs, f"eval/{model}/{label}.json")

    def _config_of_evaluation(self, model: Model) -> WorkflowConfig:
        """The configuration with the backend that a model can have. vLLM cannot load mixtures."""
        if model.kind not in sections.MIXTURES:
            return self.config
        options = self.config.evaluation.model_copy(update={"backend": "transformers"})
        return self.config.model_copy(update={"evaluation": options})

    def _prompts(self, model: Model) -> list[Input]:
        """The template of a model's prompts. The prompt of a tuned model is that of its tuning.

        If long prompts are skipped, also that of the other models: the problems whose prompts fit
        are then the same for all.
        """
        of_tuned = self.config.data.template
        of_untuned = self.config.evaluation.base_prompt
        if model.kind in sections.UNTUNED:
            template, other = of_untuned, of_tuned
        else:
            template, other = of_tuned, of_untuned
        templates = [self._template(template, "prompt")]
        if self.config.evaluation.too_long == "skip":
            templates.append(self._template(other, "other_prompt"))
        return templates

    def _unread_templates(self, model: Model) -> set[str]:
        """The key of the template that a model's evaluation does not read."""
        if self.config.evaluation.too_long == "skip":
            return set()
        if model.kind in sections.UNTUNED:
            return {"data.template"}
        return {"evaluation.base_prompt"}

    def validation_loss(self, model: Model) -> Node:
        """A model's validation loss. A training of this project has computed it."""
        node = self.node_of(model)
        flags = {}
        if STEPS[node.step].section:
            flags["losses"] = node.entry / LOSSES
        for ancestor in node.ancestors():  # the last tuning counts
            if STEPS[ancestor.step].section not in (None, "mixing"):
                flags["metrics"] = ancestor.entry / METRICS
        inputs = [made("model", node, **flags), self._tokens()]
        return self._node("validation_loss", inputs, f"validation/{model}.json")

    def choice_loss(self, model: Model) -> Node:
        """A model's loss on the rows by which settings are chosen."""
        rows = Input("rows", recorded={"rows": "choice"}, flags={"rows": "choice"})
        inputs = [made("model", self.node_of(model)), self._tokens(), rows]
        return self._node("validation_loss", inputs, f"choice/{model}.json")

    def contamination(self, label: str) -> Node:
        """The number of rows that trainings learn from and that contain a problem of a set."""
        rows = self._rows()
        if rows.node is None:  # the recipe of the tokens holds their content
            rows = replace(rows, recipe_inputs={})
        inputs = [made("tokens", self.tokens), self._problems(label), rows]
        return self._node("contamination", inputs, f"contamination/{label}.json")

    @cached_property
    def diversity(self) -> Node:
        """How much the tuned experts differ."""
        mixture = made("moe_sft", self.moe_sft, flag="", **self._tuning_metrics())
        inputs = [made("base", self.base), mixture, made("ffn", self.ffn)]
        return self._node("diversity", inputs, "diversity.json")

    def measured(self, model: Model, label: str) -> dict[str, Node]:
        """The measurements of a model on a data set that the configuration asks for, by step."""
        results = {"eval": self.evaluation(model, label)}
        if self.config.data.validation_rows:
            results["validation_loss"] = self.validation_loss(model)
        if _is_uncleaned(results["eval"]):
            results["contamination"] = self.contamination(label)
        # Experts without a shared one cannot be taken out and compared.
        if model.kind in sections.OF_MIXTURE and self.config.moe.shared_expert:
            results["diversity"] = self.diversity
        return results

    # How nodes are made.

    def _tokens(self) -> Input:
        return made("tokens", self.tokens, flag="data")

    def _experts(self, **flags: object) -> list[Input]:
        """The mixture and its experts. flags: further ones of the mixture."""
        return [made("moe_sft", self.moe_sft, flag="moe", **flags), made("ffn", self.ffn)]

    def _tuning_metrics(self) -> dict[str, Path]:
        """The flag of what the mixture's tuning reported; none if it was tuned elsewhere."""
        if self.moe_sft.step != "moe_sft":
            return {}
        return {"metrics": self.moe_sft.entry / METRICS}

    def _merge(self, name: str, shares: Node) -> Node:
        weighted = made("weighted", shares)
        if self.config.merge.function:
            experts = self._experts(**self._tuning_metrics())
            inputs = [weighted, *experts, made("base", self.base)]
        else:
            inputs = [weighted, *self._experts()]
        return self._node("dense", inputs, name)

    def _links(self, name: str, model: str, tuned_from: Node | None = None) -> Node:
        """Links to the files of a model: the base, or one that another trainer tuned."""
        contents = self.contents.of_model(model, is_tuned=tuned_from is not None)
        paths = tuple(str(Path(model, file)) for file in contents)
        key = frozenset([f"{name}.model"])
        inputs = [Input("files", paths, contents, flags={"model": model}, keys=key)]
        if tuned_from:
            inputs.append(made("tuned_from", tuned_from, recipe_inputs={"base": tuned_from.digest}))
        step = replace(self._step("base"), values={})
        return self._node_of_step(step, inputs, name)

    def _template(self, name: str, flag: str) -> Input:
        """A template. Its content is an option of the recipe."""
        content = name
        if name != COMPLETION.identity:
            content = self.contents.template(name)
        paths = () if name in PROMPT_NAMES else (name,)
        return Input("template", paths, recorded={flag: content}, flags={flag: name})

    def _code(self, step: StepOfRun) -> Iterator[Input]:
        """The user's code that values name. Its content stands in the recipe with its name."""
        for key in STEPS[step.name].code_keys:
            files: dict[str, None] = {}  # in order, each once
            stated = []
            for code in codes_in(step.values.get(key)):
                hashes = self.contents.of_code(code)
                for name in hashes:
                    files[str(code.file.parent / name)] = None
                stated.append(f"{code.label} {json_sha256(hashes)}")
            if stated:
                yield Input("code", tuple(files), recorded={key: ", ".join(stated)})

    def _step(
        self,
        name: str,
        *,
        config: WorkflowConfig | None = None,
        unread: Collection[str] = (),
        file: str | None = None,
    ) -> StepOfRun:
        """A step, as the run uses it for an artifact.

        config: has the values for this artifact; by default that of the run.
        unread: keys of the step that do not decide about this artifact.
        file: in the entry; by default that of the step.
        """
        declared = STEPS[name]
        values = declared.values(config or self.config)
        keys = declared.keys - declared.idle_keys(self.config) - {*unread}
        return StepOfRun(name, values, keys, file or declared.file)

    def _node(self, step: str, inputs: Iterable[Input] = (), name: str | None = None) -> Node:
        """The artifact of a step with the values of the run's configuration.

        name: in the results folder; by default that of the step.
        """
        return self._node_of_step(self._step(step), inputs, name or step)

    def _node_of_step(self, step: StepOfRun, inputs: Iterable[Input], name: str) -> Node:
        """The artifact of a step that is made from these inputs. It gets a name in the results."""
        inputs = [*inputs, *self._code(step)]
        keys = step.keys.union(*(item.keys for item in inputs))
        node = self.nodes.get(
            step.name,
            _options(step, inputs),
            inputs,
            run=self.run,
            file=step.file,
            flags=self._flags(step, inputs),
            keys=keys,
        )
        node.add_name(self.run.folders(keys) + name)
        return node

    def _flags(self, step: StepOfRun, inputs: Iterable[Input]) -> dict[str, object]:
        """The flags of a step's command, but for those of what it writes."""
        flags = {}
        for item in inputs:
            flags |= item.flags
        for key, value in step.values.items():
            flags[key.rpartition(".")[2]] = value
        if STEPS[step.name].section:
            flags["tracker_dir"] = f"{self.config.results_dir}/metrics"
        return flags


def _options(step: StepOfRun, inputs: Iterable[Input]) -> dict[str, object]:
    """The options of an artifact's recipe: values of its step, and what its inputs say."""
    recorded = STEPS[step.name].recorded
    options = {key: value for key, value in step.values.items() if key in recorded}
    for item in inputs:
        options |= item.recorded
    return options


def _is_uncleaned(evaluation: Node) -> bool:
    """Whether the evaluated model learned from rows that were not cleaned of the problems."""
    problems = evaluation.recipe.inputs["dataset"]
    tokens = [node for node in evaluation.ancestors() if node.step == "tokens"]
    return any(problems not in node.recipe.inputs.values() for node in tokens)
