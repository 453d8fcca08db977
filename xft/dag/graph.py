"""The graph of one run: a method for each artifact, from the base to the measurements.

A method says what the artifact is made from. `config.steps` says which keys are its options.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.artifacts.manifest import joint_sha256
from xft.config import sections
from xft.config.runs import Run
from xft.config.steps import LOSSES, METRICS, RESULT, STEPS
from xft.dag.nodes import Choices, Input, Node, Nodes, made, order_only
from xft.data.prompt_templates import COMPLETION, PROMPT_NAMES
from xft.data.tokenizers import class_choice
from xft.hub.named_sets import NAMED_SETS, RELEASED, TRANSLATED
from xft.hub.source import dataset_source


class Graph:
    """The artifacts of a run. of_seeds: the runs that differ from it in their seed alone."""

    def __init__(self, run: Run, nodes: Nodes):
        self.run, self.config, self.nodes, self.contents = run, run.config, nodes, nodes.contents
        self.of_seeds = [self]
        self.model, self.evaluation = cache(self.model), cache(self.evaluation)

    # The models, in the order of the paper.

    @cached_property
    def base(self) -> Node:
        model = self.config.base.model
        return self._links("base", model) if Path(model).is_dir() else self._node("base")

    @cached_property
    def moe(self) -> Node:
        return self._node("moe", [made("base", self.base)])

    @cached_property
    def moe_sft(self) -> Node:
        if model := self.config.moe_sft.model:
            return self._links("moe_sft", model, tuned_from=self.base)
        return self._node("moe_sft", [made("moe", self.moe), made("tokens", self.tokens)])

    @cached_property
    def ffn(self) -> Node:
        return self._node("ffn", [made("moe_sft", self.moe_sft)])

    def weighted_init(self, lam: str) -> Node:
        choices = Choices.of("weighted_init", self.config, lam=lam)
        return self._node(choices, self._experts(), f"weighted_init/lam~{lam}")

    def weighted_trained(self, lam: str) -> Node:
        inputs = [
            made("weighted_init", self.weighted_init(lam)),
            *self._experts(),
            made("tokens", self.tokens),
        ]
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
        if model := self.config.sft.model:
            return self._links("sft", model, tuned_from=self.base)
        return self._node("sft", self._base_and_tokens())

    @cached_property
    def sft_flops(self) -> Node:
        """The tuned base at as many FLOPs as the mixture's tuning, which its shape decides."""
        config = self.config.model_copy(update={"sft": self.config.sft_flops})
        settings = sections.mixture_settings(dict(self.config.moe))
        shape = {key: settings[key] for key in sections.SHAPE_KEYS if key in settings}
        choices = Choices.of("sft", config)
        keys = choices.keys - {"sft.max_steps", "sft.num_train_epochs"}
        keys |= {*sections.FLOPS_KEYS, *(f"moe.{key}" for key in shape)}
        choices = replace(choices, recorded={"flops_of": shape}, keys=keys)
        flags = {"match_flops": True} | shape
        return self._node(choices, self._base_and_tokens(), "sft_flops", flags=flags)

    @cached_property
    def soup(self) -> Node:
        """The mean of the models of all seeds. Their order in the configuration does not matter."""
        graphs = sorted(self.of_seeds, key=lambda graph: graph.config.seed)
        inputs = [made("models", graph.sft, f"model {n}") for n, graph in enumerate(graphs, 1)]
        return self._node(Choices("soup", common=frozenset(["seed"])), inputs)

    def model(self, name: str) -> Node:
        """The model with this name in the evaluations, such as base or dense/lam~0.75."""
        kind, _, lam = name.partition("/lam~")
        return getattr(self, kind)(lam) if lam else getattr(self, kind)

    def main_models(self) -> list[Node]:
        """The models of the paper's steps and its baseline, whether or not they are evaluated."""
        return [self.sft, self.moe_sft, *map(self.dense, self.config.merge.lambdas)]

    def model_names(self) -> list[str]:
        """The names of the models to evaluate, in the order of the tables."""
        names = []
        for model in self.config.evaluation.models:
            lambdas = [f"/lam~{lam}" for lam in self.config.merge.lambdas]
            names += [model + lam for lam in (lambdas if model in sections.MERGED else [""])]
        return names

    # The rows.

    @cached_property
    def fetched_rows(self) -> Node:
        """The rows from the hub."""
        data = self.config.data
        choices = Choices.of("fetch_data", self.config)
        source = dataset_source(data.train, data.revision)
        if source.file:
            del choices.options["data.split"]
        return self._node(choices, (), f"data/fetched/{source.file_name}", file=source.file_name)

    @cached_property
    def tokens(self) -> Node:
        template = self.config.data.template
        inputs = [self._rows(), *self._forbidden_problems(), *_template(template, "template")]
        if Path(self.config.base.model).is_dir():  # then its tokenizer's files are known
            inputs.append(order_only("base", self.base, self._tokenizer()))
        else:
            inputs.append(made("base", self.base))
        recorded = {"data.template": self.contents.template(template)}
        return self._node(replace(Choices.of("tokens", self.config), recorded=recorded), inputs)

    def _rows(self) -> Input:
        data = self.config.data
        if data.revision:
            return made("data", self.fetched_rows)
        content = joint_sha256([self.contents.of_rows(file) for file in data.files])
        return Input("data", tuple(data.files), {"data": content})

    def _forbidden_problems(self) -> Iterator[Input]:
        """The sets of problems that rows are cleaned of. The hashes of two come along."""
        names = self.config.data.decontaminate_against
        fetched = {name: self.fetch_problems(name) for name in names if name in TRANSLATED}
        identity = {
            f"problems {sections.problem_label(name)}": (
                RELEASED[name].sha256 if name in RELEASED else self.contents.of_problems(name)
            )
            for name in names
        }
        places = [str(fetched[name].place) if name in fetched else name for name in names]
        files = tuple(name for name in names if name not in NAMED_SETS)
        yield Input("problems", files, identity, flags={"problems": places or [""]})
        for node in fetched.values():
            yield order_only("problems", node, {})

    def _tokenizer(self) -> dict[str, str]:
        """What stands for the base's tokenizer in a recipe."""
        place = Path(self.config.base.model)
        paths = {path for pattern in TOKENIZER_PATTERNS for path in place.glob(pattern)}
        contents = self.contents.of_files(place, filter(Path.is_file, paths))
        return {f"base {name}": value for name, value in (contents | class_choice(place)).items()}

    # The problems, and what is measured of the models.

    @cached_property
    def problem_sets(self) -> dict[str, str]:
        """The problem sets of the evaluation, by label: names or files."""
        return {sections.problem_label(name): name for name in self.config.evaluation.datasets}

    def fetch_problems(self, name: str) -> Node:
        """The file of a named problem set."""
        override, file = NAMED_SETS[name].override, NAMED_SETS[name].file
        content = {"content": self.contents.of_problems(name)}
        inputs = [Input("override", (str(override),) if override else (), content)]
        flags = {"dataset": name}
        return self._node("fetch_problems", inputs, f"problems/{file}", file=file, flags=flags)

    def ground_truth(self, label: str) -> Node:
        return self._node("ground_truth", [self._problems(label)], f"ground_truth/{label}")

    def _problems(self, label: str) -> Input:
        """A set of problems."""
        name = self.problem_sets[label]
        content = {"dataset": self.contents.of_problems(name)}
        if name in NAMED_SETS:
            return order_only("problems", self.fetch_problems(name), content)
        return Input("problems", (name,), content)

    def evaluation(self, model: str, label: str) -> Node:
        config, is_untuned = self.config, model in sections.UNTUNED
        # The prompt of a tuned model is that of its tuning.
        prompts = config.data.template, config.evaluation.base_prompt
        prompt, other = reversed(prompts) if is_untuned else prompts
        templates, recorded = _template(prompt, "prompt"), {"prompt": self._prompt(prompt)}
        unread = {"data.template" if is_untuned else "evaluation.base_prompt"}
        if config.evaluation.too_long == "skip":  # the same problems for all models
            templates, unread = [*templates, *_template(other, "other_prompt")], set()
            recorded["other_prompt"] = self._prompt(other)
        if model in sections.MIXTURES:  # only transformers loads them
            options = config.evaluation.model_copy(update={"backend": "transformers"})
            config = config.model_copy(update={"evaluation": options})
        inputs = [
            made("model", self.model(model)),
            made("ground_truth", self.ground_truth(label)),
            self._problems(label),
            *templates,
        ]
        choices = Choices.of("eval", config)
        choices = replace(choices, recorded=recorded, keys=choices.keys - unread)
        return self._node(choices, inputs, f"eval/{model}/{label}.json")

    def _prompt(self, name: str) -> str:
        """What stands for a prompt in a recipe."""
        return name if name == COMPLETION.identity else self.contents.template(name)

    def validation_loss(self, model: str) -> Node:
        """A model's validation loss. A training of this project has computed it."""
        node = self.model(model)
        inputs = [made("model", node), made("tokens", self.tokens)]
        flags = {"losses": node.entry / LOSSES} if STEPS[node.step].section else {}
        for tuned in node.ancestors():  # the last one counts
            if STEPS[tuned.step].section not in (None, "mixing"):
                flags["metrics"] = tuned.entry / METRICS
        return self._node("validation_loss", inputs, f"validation/{model}.json", flags=flags)

    def contamination(self, label: str) -> Node:
        """The number of rows that trainings learn from and that contain a problem of a set."""
        rows = self._rows()
        if rows.node is None:  # the recipe of the tokens holds their content
            rows = Input("data", rows.paths)
        inputs = [made("tokens", self.tokens), self._problems(label), rows]
        return self._node("contamination", inputs, f"contamination/{label}.json")

    @cached_property
    def diversity(self) -> Node:
        """How much the tuned experts differ."""
        flags = {"metrics": self.moe_sft.entry / METRICS} if self.moe_sft.step == "moe_sft" else {}
        return self._node("diversity", [made("base", self.base), *self._experts()], flags=flags)

    def measured(self, model: str, label: str) -> dict[str, Node]:
        """What the configuration asks to measure of a model on a problem set, by step."""
        results = {"eval": self.evaluation(model, label)}
        if self.config.data.validation_rows:
            results["validation_loss"] = self.validation_loss(model)
        if _is_uncleaned(results["eval"]):
            results["contamination"] = self.contamination(label)
        # Experts without a shared one cannot be taken out and compared.
        if sections.family(model) in sections.OF_MIXTURE and self.config.moe.shared_expert:
            results["diversity"] = self.diversity
        return results

    # How nodes are made.

    def _base_and_tokens(self) -> list[Input]:
        return [made("base", self.base), made("tokens", self.tokens)]

    def _experts(self) -> list[Input]:
        return [made("moe_sft", self.moe_sft), made("ffn", self.ffn)]

    def _merge(self, name: str, shares: Node) -> Node:
        inputs = [made("weighted", shares), *self._experts()]
        flags = {}
        if self.config.merge.function:
            inputs.append(made("base", self.base))
            if self.moe_sft.step == "moe_sft":
                flags["metrics"] = self.moe_sft.entry / METRICS
        return self._node("dense", inputs, name, flags=flags)

    def _links(self, name: str, model: str, tuned_from: Node | None = None) -> Node:
        """Links to the files of a model: the base, or one that another trainer tuned."""
        contents = self.contents.of_model(model, is_tuned=tuned_from is not None)
        paths = tuple(str(Path(model, file)) for file in contents)
        inputs, keys = [Input("files", paths, contents, flags={"model": model})], STEPS["base"].keys
        if tuned_from:
            inputs.append(made("tuned_from", tuned_from, identity="base"))
            keys |= {f"{name}.model"}
        return self._node(Choices("base", keys=keys), inputs, name)

    def _node(
        self,
        choices: Choices | str,
        inputs: Iterable[Input] = (),
        name: str | None = None,
        *,
        file: str | None = None,
        flags: Mapping[str, object] = {},
    ) -> Node:
        """The node of an artifact that is made from these inputs.

        choices: or the name of a step, for those of the run's configuration.
        name: in the results folder; by default that of the step.
        file: in the entry; by default that of the step.
        flags: of its command, that its recipe does not hold.
        """
        if isinstance(choices, str):
            choices = Choices.of(choices, self.config)
        choices, code = choices.with_code(self.contents)
        step, inputs, declared = choices.step, [*inputs, *code], STEPS[choices.step]
        keys = choices.keys.union(*(item.node.keys for item in inputs if item.node))
        keys -= choices.common
        node = self.nodes.get(
            step,
            choices.recipe_options,
            inputs,
            run=self.run,
            file=file or declared.file,
            keys=keys,
            options=choices.flags | dict(flags),
        )
        full = self.prefix(keys) + (name or step + (".json" if declared.file == RESULT else ""))
        if full not in node.names:
            node.names.append(full)
        return node

    def prefix(self, keys: Collection[str]) -> str:
        """The folders, in the results folder, of what depends on these keys.

        There is a folder for each of the keys in which this run differs from the configuration's
        own values, as moe.num_experts_per_tok~2/seed~7/.
        """
        changes = self.run.changes.items()
        return "".join(f"{key}~{text}/" for key, text in changes if key in keys)


def _template(name: str, flag: str) -> list[Input]:
    """A template as an input, with its flag. Its content is an option of the recipe."""
    return [Input("template", () if name in PROMPT_NAMES else (name,), flags={flag: name})]


def _is_uncleaned(evaluation: Node) -> bool:
    """Whether the evaluated model learned from rows that were not cleaned of the problems."""
    problems = evaluation.recipe.inputs["dataset"]
    tokens = (node for node in evaluation.ancestors() if node.step == "tokens")
    return any(problems not in node.recipe.inputs.values() for node in tokens)
