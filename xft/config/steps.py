"""The steps of the workflow: which keys each reads, and which files it writes.

`dag.graph` says what each artifact is made from, `dag.step_jobs` what the job of a step asks for.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

from pydantic.fields import FieldInfo

from xft.common.results_folder import CHOSEN
from xft.common.user_code import Names
from xft.config import sections
from xft.config.section import Section, Unrecorded, keys, marked
from xft.config.sections import RunConfig, WorkflowConfig
from xft.config.training import IDLE_BESIDE, MixingTraining, TrainingConfig

# Files and folders in an entry.
ARTIFACT = "artifact"
RESULT = "result.json"
METRICS = "metrics.jsonl"
LOSSES = "losses.json"
GENERATIONS = "result.generations.jsonl"
MODELS_OF_CHOICE = "models"
# Folders in the results folder.
COSTS = "costs"
FIGURES = "figures"
# Keys of the top level that say how a model computes.
COMPUTED = ("threads", "gpus")


@dataclass(frozen=True)
class StepDeclaration:
    """A step.

    reads: the keys of the configuration that are its flags, by section (None: the top level); all
        keys of a class where one stands.
    naming: keys that decide what it reads, or that have a flag in another form.
    idle: keys that have no effect under a condition.
    section: of the configuration, if it is a training.
    file: of the artifact, in its entry.
    beside: further files of the entry that have a name in the results folder, by the form of this
        name: {name} is the artifact's, {stem} the same without a suffix, {prefix} the folders of a
        run's own values.
    """

    reads: Mapping[str | None, tuple[str, ...] | type[Section]] = field(default_factory=dict)
    naming: tuple[str, ...] = ()
    idle: Mapping[str, Callable[[WorkflowConfig], bool]] = field(default_factory=dict)
    section: str | None = None
    file: str = ARTIFACT
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The keys that are flags, such as "moe.rank"."""
        fields = {}
        for name, section, names in self.sections:
            for key in names:
                full_key = f"{name}.{key}" if name else key
                fields[full_key] = section.model_fields[key]
        return fields

    @property
    def recorded(self) -> dict[str, FieldInfo]:
        """Those that decide about the result."""
        recorded = {}
        for key, declared in self.fields.items():
            if Unrecorded not in declared.metadata:
                recorded[key] = declared
        return recorded

    @property
    def code_keys(self) -> list[str]:
        """Those that name code of the user's."""
        return [f"{name}.{key}" for name, group, _ in self.sections for key in marked(group, Names)]

    @property
    def keys(self) -> frozenset[str]:
        """All keys that decide, directly or through a file, about the result."""
        return frozenset([*self.recorded, *self.naming])

    @property
    def sections(self) -> Iterator[tuple[str | None, type[Section], tuple[str, ...]]]:
        """The sections of the configuration whose keys are flags of the step: name, class, keys."""
        for name, read in self.reads.items():
            section = sections.SECTIONS[name] if name else RunConfig
            names = read if isinstance(read, tuple) else keys(read)
            yield name, section, names

    def idle_keys(self, config: WorkflowConfig) -> set[str]:
        """The keys that have no effect in a configuration."""
        return {key for key, is_idle in self.idle.items() if is_idle(config)}

    def values(self, config: WorkflowConfig) -> dict[str, object]:
        """The values of its flags that have an effect and are not the defaults, by key."""
        idle = self.idle_keys(config)
        values = {}
        for key, declared in self.fields.items():
            value = attrgetter(key)(config)
            is_stated = declared.is_required() or value != declared.get_default()
            if is_stated and key not in idle:
                values[key] = value
        return values


def _training(section: str, options: type[TrainingConfig], *naming: str) -> StepDeclaration:
    """A training with the keys of a class of the configuration."""
    reads = {None: ("seed", *COMPUTED, "report_to"), section: options}
    idle = {f"{section}.{key}": partial(_is_idle, section, key) for key in IDLE_BESIDE}
    beside = {"metrics/{name}.jsonl": METRICS}
    return StepDeclaration(reads, naming, idle, section=section, beside=beside)


def _is_idle(section: str, key: str, config: WorkflowConfig) -> bool:
    return key in getattr(config, section).idle


STEPS = {
    "base": StepDeclaration({"base": sections.BaseConfig}),
    "moe": StepDeclaration({None: ("seed",), "moe": sections.MoeConfig}),
    "fetch_data": StepDeclaration({"data": sections.RowsSource}),
    "fetch_problems": StepDeclaration(),
    "tokens": StepDeclaration(
        {"data": sections.TokensConfig},
        naming=("data.train", "data.revision", "data.split", "data.decontaminate_against"),
        beside={"{prefix}data/report.json": "report.json"},
    ),
    "moe_sft": _training("moe_sft", sections.MoeSftTraining, "moe_sft.model"),
    "sft": _training("sft", sections.SftTraining, "sft.model"),
    "soup": StepDeclaration(),
    "ffn": StepDeclaration(),
    "contamination": StepDeclaration(naming=("evaluation.datasets",), file=RESULT),
    "diversity": StepDeclaration(file=RESULT),
    "weighted_init": StepDeclaration({"mixing": sections.MixingShape}, naming=("merge.lambdas",)),
    "weighted_trained": _training("mixing", MixingTraining),
    "dense": StepDeclaration({"merge": sections.MergeMethod}),
    "ground_truth": StepDeclaration(
        {"evaluation": sections.ScoringConfig}, naming=("evaluation.datasets",)
    ),
    "eval": StepDeclaration(
        {None: ("seed", *COMPUTED), "evaluation": sections.EvalConfig},
        naming=("evaluation.base_prompt", "data.template", "evaluation.datasets"),
        idle={
            "seed": lambda config: not config.evaluation.temperature,
            "threads": lambda config: config.evaluation.backend == "vllm",
        },
        file=RESULT,
        beside={"{stem}.generations.jsonl": GENERATIONS},
    ),
    "validation_loss": StepDeclaration({None: COMPUTED}, file=RESULT),
    "choose": StepDeclaration(file=CHOSEN, beside={"{stem}/models": MODELS_OF_CHOICE}),
    "measure_chosen": StepDeclaration(
        file=RESULT, beside={"{stem}.generations.jsonl": GENERATIONS}
    ),
    "summary": StepDeclaration(
        naming=("evaluation.models",),
        file="summary.csv",
        beside={name: name for name in ("summary.md", "summary.json", "comparisons.csv")},
    ),
    "report": StepDeclaration(
        file="report.html",
        beside={name: name for name in (FIGURES, f"{FIGURES}.manifest.json")},
    ),
}
# The sections of the trainings, by step.
TRAINING_SECTIONS = {name: step.section for name, step in STEPS.items() if step.section}
