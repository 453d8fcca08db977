"""The graph of one run: a method for each artifact, from the base to the measurements.

A method says what the artifact is made from. `config.steps` says which keys are its options.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.artifacts.manifest import joint_sha256, json_sha256
from xft.common.user_code import codes_in
from xft.config import sections
from xft.config.runs import Run
from xft.config.steps import LOSSES, METRICS, RESULT, STEPS
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


class Graph:
    """The artifacts of a run. of_seeds: the runs that differ from it in their seed alone."""

    def __init__(self, run: Run, nodes: Nodes):
        self.run, self.config, self.nodes, self.contents = run, run.config, nodes, nodes.contents
        self.of_seeds = [self]
        self.node_of, self.evaluation = cache(self.node_of), cache(self.evaluation)

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
        return self._node("moe_sft", [made("moe", self.moe), made("tokens", self.tokens, "data")])

    @cached_property
    def ffn(self) -> Node:
        return self._node("ffn", [made("moe_sft", self.moe_sft, "moe")])

    def weighted_init(self, lam: str) -> Node:
        value = Input("lam", recorded={"lam": lam}, flags={"lam": lam})
        return self._node("weighted_init", [value, *self._experts()], f"weighted_init/lam~{lam}")

    def weighted_trained(self, lam: str) -> Node:
        shares = made("weighted_init", self.weighted_init(lam), "weighted")
        inputs = [shares, *self._experts(), made("tokens", self.tokens, "data")]
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
        flags = {"match_flops": True} | shape
        keys = frozenset([*sections.FLOPS_KEYS, *(f"moe.{key}" for key in shape)])
        mixture = Input("flops_of", recorded={"flops_of": shape}, flags=flags, keys=keys)
        unread = {"sft.max_steps", "sft.num_train_epochs"}
        inputs = [*self._base_and_tokens(), mixture]
        values = STEPS["sft"].values(config)
        return self._node("sft", inputs, "sft_flops", values=values, unread=unread)

    @cached_property
    def soup(self) -> Node:
        """The mean of the models of all seeds. Their order in the configuration does not matter."""
        graphs = sorted(self.of_seeds, key=lambda graph: graph.config.seed)
        flags = {"models": [graph.sft.place for graph in graphs]}
        inputs = [
            made("models", graph.sft, "", {f"model {n}": graph.sft.digest}, **flags)
            for n, graph in enumerate(graphs, 1)
        ]
        return self._node("soup", [replace(item, keys=item.keys - {"seed"}) for item in inputs])

    def node_of(self, model: Model) -> Node:
        """What makes a model: the method or property above that has its name."""
        made_by = getattr(self, model.kind)
        return made_by if model.lam is None else made_by(model.lam)

    def main_models(self) -> list[Node]:
        """The models of the paper's steps and its baseline, whether or not they are evaluated."""
        return [self.sft, self.moe_sft, *map(self.dense, self.config.merge.lambdas)]

    def models(self) -> list[Model]:
        """The models to evaluate, in the order of the tables."""
        lambdas = self.config.merge.lambdas
        return [
            Model(kind, lam)
            for kind in self.config.evaluation.models
            for lam in (lambdas if kind in sections.MERGED else [None])
        ]

    # The rows.

    @cached_property
    def tokens(self) -> Node:
        template = self._template(self.config.data.template, "template")
        # A name is an option; the content of a file stands in the recipe in place of its path.
        content = {"data.template": template.recorded["template"]} if template.paths else {}
        template = replace(template, recorded=content)
        is_here = Path(self.config.base.model).is_dir()  # then its tokenizer's files are known
        base = made("base", self.base, "model", self._tokenizer() if is_here else None)
        return self._node("tokens", [self._rows(), *self._forbidden_problems(), template, base])

    def _rows(self) -> Input:
        data = self.config.data
        if data.revision:
            file = dataset_source(data.train, data.revision).file_name
            return made("data", self._node("fetch_data", (), f"data/fetched/{file}", file=file))
        content = joint_sha256([self.contents.of_rows(file) for file in data.files])
        return Input("data", tuple(data.files), {"data": content}, flags={"data": data.files})

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
            yield made("problems", node, "", {})

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
        paths, content = [str(override)] if override else [], self.contents.of_problems(name)
        problems = Input("override", (*paths,), {"content": content}, flags={"dataset": name})
        return self._node("fetch_problems", [problems], f"problems/{file}", file=file)

    def ground_truth(self, label: str) -> Node:
        return self._node("ground_truth", [self._problems(label)], f"ground_truth/{label}")

    def _problems(self, label: str) -> Input:
        """A set of problems."""
        name = self.problem_sets[label]
        content = {"dataset": self.contents.of_problems(name)}
        if name in NAMED_SETS:
            return made("problems", self.fetch_problems(name), "dataset", content)
        return Input("problems", (name,), content, flags={"dataset": name})

    def evaluation(self, model: Model, label: str) -> Node:
        config, is_untuned = self.config, model.kind in sections.UNTUNED
        prompts = [config.data.template, config.evaluation.base_prompt]
        # The prompt of a tuned model is that of its tuning.
        prompt, other = reversed(prompts) if is_untuned else prompts
        templates = [self._template(prompt, "prompt")]
        unread = {"data.template" if is_untuned else "evaluation.base_prompt"}
        if config.evaluation.too_long == "skip":  # the same problems for all models
            templates, unread = [*templates, self._template(other, "other_prompt")], set()
        if model.kind in sections.MIXTURES:  # only transformers loads them
            options = config.evaluation.model_copy(update={"backend": "transformers"})
            config = config.model_copy(update={"evaluation": options})
        truth = made("ground_truth", self.ground_truth(label), "ground-truth")
        inputs = [made("model", self.node_of(model)), truth, self._problems(label), *templates]
        name, values = f"eval/{model}/{label}.json", STEPS["eval"].values(config)
        return self._node("eval", inputs, name, values=values, unread=unread)

    def validation_loss(self, model: Model) -> Node:
        """A model's validation loss. A training of this project has computed it."""
        node = self.node_of(model)
        flags = {"losses": node.entry / LOSSES} if STEPS[node.step].section else {}
        for tuned in node.ancestors():  # the last one counts
            if STEPS[tuned.step].section not in (None, "mixing"):
                flags["metrics"] = tuned.entry / METRICS
        inputs = [made("model", node, **flags), made("tokens", self.tokens, "data")]
        return self._node("validation_loss", inputs, f"validation/{model}.json")

    def choice_loss(self, model: Model) -> Node:
        """A model's loss on the rows by which settings are chosen."""
        rows = Input("rows", recorded={"rows": "choice"}, flags={"rows": "choice"})
        inputs = [made("model", self.node_of(model)), made("tokens", self.tokens, "data"), rows]
        return self._node("validation_loss", inputs, f"choice/{model}.json")

    def contamination(self, label: str) -> Node:
        """The number of rows that trainings learn from and that contain a problem of a set."""
        rows = self._rows()
        if rows.node is None:  # the recipe of the tokens holds their content
            rows = replace(rows, identity={})
        inputs = [made("tokens", self.tokens), self._problems(label), rows]
        return self._node("contamination", inputs, f"contamination/{label}.json")

    @cached_property
    def diversity(self) -> Node:
        """How much the tuned experts differ."""
        mixture = made("moe_sft", self.moe_sft, "", **self._tuning_metrics())
        return self._node("diversity", [made("base", self.base), mixture, made("ffn", self.ffn)])

    def measured(self, model: Model, label: str) -> dict[str, Node]:
        """What the configuration asks to measure of a model on a problem set, by step."""
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

    def _base_and_tokens(self) -> list[Input]:
        return [made("base", self.base), made("tokens", self.tokens, "data")]

    def _experts(self, **flags: object) -> list[Input]:
        return [made("moe_sft", self.moe_sft, "moe", **flags), made("ffn", self.ffn)]

    def _tuning_metrics(self) -> dict[str, Path]:
        """The flag of what the mixture's tuning reported; none if it was tuned elsewhere."""
        return {"metrics": self.moe_sft.entry / METRICS} if self.moe_sft.step == "moe_sft" else {}

    def _merge(self, name: str, shares: Node) -> Node:
        inputs = [made("weighted", shares), *self._experts()]
        if self.config.merge.function:
            of_user = self._experts(**self._tuning_metrics())
            inputs = [made("weighted", shares), *of_user, made("base", self.base)]
        return self._node("dense", inputs, name)

    def _links(self, name: str, model: str, tuned_from: Node | None = None) -> Node:
        """Links to the files of a model: the base, or one that another trainer tuned."""
        contents = self.contents.of_model(model, is_tuned=tuned_from is not None)
        paths = tuple(str(Path(model, file)) for file in contents)
        key = frozenset([f"{name}.model"])
        inputs = [Input("files", paths, contents, flags={"model": model}, keys=key)]
        if tuned_from:
            inputs.append(made("tuned_from", tuned_from, identity={"base": tuned_from.digest}))
        return self._node("base", inputs, name, values={})

    def _template(self, name: str, flag: str) -> Input:
        """A template. Its content is an option of the recipe."""
        content = name if name == COMPLETION.identity else self.contents.template(name)
        paths = () if name in PROMPT_NAMES else (name,)
        return Input("template", paths, recorded={flag: content}, flags={flag: name})

    def _code(self, step: str, values: Mapping[str, object]) -> Iterator[Input]:
        """The user's code that values name. Its content stands in the recipe with its name."""
        for key in STEPS[step].code_keys:
            codes = [(code, self.contents.of_code(code)) for code in codes_in(values.get(key))]
            files = [str(code.file.parent / name) for code, hashes in codes for name in hashes]
            stated = [f"{code.shown} {json_sha256(hashes)}" for code, hashes in codes]
            if stated:
                yield Input("code", (*dict.fromkeys(files),), recorded={key: ", ".join(stated)})

    def _node(
        self,
        step: str,
        inputs: Iterable[Input] = (),
        name: str | None = None,
        *,
        values: Mapping[str, object] | None = None,
        unread: Collection[str] = (),
        file: str | None = None,
    ) -> Node:
        """The node of an artifact that is made from these inputs.

        name: in the results folder; by default that of the step.
        values: of the step's keys; by default those of the run's configuration.
        unread: keys of the step that do not decide about this artifact.
        file: in the entry; by default that of the step.
        """
        declared = STEPS[step]
        values = declared.values(self.config) if values is None else values
        inputs = [*inputs, *self._code(step, values)]
        options = {key: values[key] for key in values if key in declared.recorded}
        flags, keys = {}, declared.keys - declared.idle_keys(self.config) - {*unread}
        for item in inputs:
            options, flags, keys = options | item.recorded, flags | item.flags, keys | item.keys
        flags |= {key.rpartition(".")[2]: value for key, value in values.items()}
        if declared.section:
            flags["tracker_dir"] = f"{self.config.results_dir}/metrics"
        known = {"run": self.run, "file": file or declared.file, "flags": flags, "keys": keys}
        node = self.nodes.get(step, options, inputs, **known)
        full = self.run.folders(keys) + (
            name or step + (".json" if declared.file == RESULT else "")
        )
        if full not in node.names:
            node.names.append(full)
        return node


def _is_uncleaned(evaluation: Node) -> bool:
    """Whether the evaluated model learned from rows that were not cleaned of the problems."""
    problems = evaluation.recipe.inputs["dataset"]
    tokens = (node for node in evaluation.ancestors() if node.step == "tokens")
    return any(problems not in node.recipe.inputs.values() for node in tokens)
