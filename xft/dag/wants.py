"""What a run wants: its models, and what is measured of them."""

from functools import cache, cached_property

from xft.config.models import MIXTURES, OF_MIXTURE, UNTUNED, family
from xft.config.runs import Run
from xft.config.steps import LOSSES, STEPS
from xft.dag.declared import changed
from xft.dag.models import Models, by_label, template_file
from xft.dag.wanted import Shared, Wanted
from xft.data.templates import COMPLETION
from xft.hub.named_sets import NAMED_SETS


class Wants(Models):
    """The artifacts that one run wants."""

    def __init__(self, run: Run, shared: Shared):
        super().__init__(run, shared)
        self.evaluation = cache(self.evaluation)

    @cached_property
    def problem_sets(self) -> dict[str, str]:
        """The problem sets of the evaluation, by label: names or files."""
        return by_label(self.config.evaluation.datasets)

    def _make_fetch_problems(self, label: str) -> Wanted:
        """The file of a named problem set."""
        contents, name = {"content": self.contents.of_problems(label)}, f"{label}.jsonl"
        about = {"contents": contents, "file": name, "flags": {"dataset": label}}
        if override := NAMED_SETS[label].override:
            about["files"] = {"override": [str(override)]}
        return self._wanted("fetch_problems", f"problems/{name}", **about)

    def _make_ground_truth(self, label: str) -> Wanted:
        return self._wanted("ground_truth", f"ground_truth/{label}", **self._of_dataset(label))

    def _of_dataset(self, label: str) -> dict[str, dict]:
        """What the recipe and the command of a job on a set of problems hold."""
        name = self.problem_sets[label]
        about = {"contents": {"dataset": self.contents.of_problems(name)}}
        if label not in NAMED_SETS:
            return about | {"files": {"problems": [name]}, "flags": {"dataset": name}}
        fetched = self.of("fetch_problems", label)
        return about | {"needs": {"problems": fetched}, "flags": {"dataset": fetched.place}}

    def _make_contamination(self, label: str) -> Wanted:
        """The number of rows that the trainings learn from and that contain a problem of a set."""
        about = self._of_dataset(label)
        for name, values in self._rows().items():
            about[name] = about.get(name, {}) | values
        about["contents"].pop("data", None)  # the recipe of the tokens holds it
        return self._wanted("contamination", f"contamination/{label}.json", **about)

    def evaluation(self, model: str, label: str) -> Wanted:
        config = changed(self.config, "evaluation", backend=self.backend(model))
        prompt, about = self.prompt(model), self._of_dataset(label)
        options = STEPS["eval"].options(config) | {"prompt": self.prompt_identity(model)}
        about["flags"]["prompt"] = prompt
        about["files"] = about.get("files", {}) | template_file(prompt)
        about["unread"] = ["data.template" if model in UNTUNED else "evaluation.base_prompt"]
        about["sources"] = {
            "model": self.model(model),
            "ground_truth": self.of("ground_truth", label),
        }
        return self._wanted("eval", f"eval/{model}/{label}.json", options, config=config, **about)

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
        made, name = self.model(model), f"validation/{model}.json"
        flags = {"losses": made.entry / LOSSES} if STEPS[made.rule].section else {}
        return self._wanted("validation_loss", name, sources={"model": made}, flags=flags)

    @property
    def chosen_by(self) -> str:
        """What the best merge is chosen by: validation or benchmark."""
        select = self.config.merge.select
        automatic = "validation" if self.config.data.validation_rows else "benchmark"
        return automatic if select == "auto" else select

    def measured(self, model: str, label: str) -> dict[str, Wanted]:
        """What the config asks to measure of a model on a problem set, by step."""
        found = {"eval": self.evaluation(model, label)}
        if self.config.data.validation_rows:
            found["validation_loss"] = self.validation_loss(model)
        if _is_uncleaned(found["eval"]):
            found["contamination"] = self.of("contamination", label)
        # Experts without a shared one cannot be taken out and compared.
        if family(model) in OF_MIXTURE and self.config.moe.shared_expert:
            found["diversity"] = self.of("diversity")
        return found


def _is_uncleaned(evaluation: Wanted) -> bool:
    """Whether the evaluated model learned from rows that were not cleaned of the problems."""
    problems = evaluation.recipe.inputs["dataset"]
    tokens = (part for part in evaluation.chain() if part.rule == "tokens")
    return any(problems not in part.recipe.inputs.values() for part in tokens)
