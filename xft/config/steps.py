"""The steps of the workflow. What each reads, is made from and costs is declared once, here.

Its recipe, its flags, its rule's inputs, its requests, its part of the plan, and its rows in the
documents follow from this.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from xft.config.section import Section, keys
from xft.config.sections import (
    BaseConfig,
    EvalConfig,
    HealConfig,
    MergeMethod,
    MixingShape,
    MoeConfig,
    MoeSftTraining,
    RowsSource,
    RunConfig,
    ScoringConfig,
    SftTraining,
    TokensConfig,
    XftConfig,
)
from xft.config.training import MixingTraining, TrainingConfig

ARTIFACT, RESULT = "artifact", "result.json"  # in an entry
COSTS, FIGURES = "costs", "figures"  # folders in the results folder
METRICS, LOSSES, GENERATIONS = "metrics.jsonl", "losses.json", "result.generations.jsonl"
# Flags that change no result, or that name a file, whose content decides.
UNRECORDED = ("gpus", "report_to", "save_minutes")
COMPUTED = ("threads", "gpus")
Condition = Callable[[XftConfig], bool]


@dataclass(frozen=True)
class Request:
    """What a job asks for in its first attempt. mem_mb: 10^6 bytes of memory on one node."""

    mem_mb: int
    minutes: int


@dataclass(frozen=True)
class Step:
    """A step.

    reads: the keys of the configuration that are its flags, by section (None: the top level).
    derived: flags that follow from keys with another name or form, and these keys. naming: keys
    that decide which files or results it reads. inputs: the steps whose artifacts each of its jobs
    reads. optional: those that only some jobs read, each with its flag, and the condition. idle:
    flags that have no effect under a condition. over_seeds: the step whose artifacts of all seeds
    it reads. per_lambda: whether there is an artifact for each lambda. section: of the
    configuration, if it is a training. file: of the artifact, in its entry. beside: further files
    of the entry that have a name in the results folder, by the form of this name: {name} is the
    artifact's, {stem} the same without a suffix, {prefix} the folders of a run's own values. cost:
    of a job; None if it follows from the size of the model. generates: whether a job loads a model
    to evaluate it; minutes: of this, if they do not follow from its size. continues: whether a
    second attempt goes on where the first one ended.
    """

    reads: Mapping[str | None, tuple[str, ...]] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    naming: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    optional: Mapping[str, tuple[str, Condition]] = field(default_factory=dict)
    idle: Mapping[str, Condition] = field(default_factory=dict)
    over_seeds: str | None = None
    per_lambda: bool = False
    section: str | None = None
    file: str = ARTIFACT
    beside: Mapping[str, str] = field(default_factory=dict)
    cost: Request | None = None
    generates: bool = False
    minutes: int | None = None
    continues: bool = False

    @property
    def recorded(self) -> dict[str, str]:
        """The keys that are flags and decide about the result, such as "moe.rank", by flag."""
        named = ((section, name) for section, names in self.reads.items() for name in names)
        return {
            name: f"{section}.{name}" if section else name
            for section, name in named
            if name not in UNRECORDED
        }

    @property
    def keys(self) -> frozenset[str]:
        """All keys that decide, directly or through a flag or a file, about the result."""
        derived = (key for keys in self.derived.values() for key in keys)
        return frozenset([*self.recorded.values(), *derived, *self.naming])

    @property
    def sections(self) -> Iterator[tuple[type[Section], tuple[str, ...]]]:
        """The classes of the configuration whose keys are flags of the step, with these keys."""
        for section, names in self.reads.items():
            yield XftConfig.model_fields[section].annotation if section else RunConfig, names

    def options(self, config: XftConfig) -> dict[str, object]:
        """The values that the result depends on, by flag."""
        return {
            flag: attrgetter(key)(config)
            for flag, key in self.recorded.items()
            if flag not in self.idle_flags(config)
        }

    def idle_flags(self, config: XftConfig) -> set[str]:
        """The flags that have no effect in a configuration."""
        return {flag for flag, is_idle in self.idle.items() if is_idle(config)}


def _training(section: str, options: type[TrainingConfig], *inputs: str, **about) -> Step:
    """A training with the keys of a class of the configuration."""
    reads = {None: ("seed", *COMPUTED, "report_to"), section: keys(options)}
    beside = {"metrics/{name}.jsonl": METRICS}
    about |= {"beside": beside, "section": section, "continues": True}
    return Step(reads, inputs=(*inputs, "tokens"), **about)


STEPS = {
    "base": Step({"base": keys(BaseConfig)}, cost=Request(4000, 120)),
    "moe": Step({None: ("seed",), "moe": keys(MoeConfig)}, inputs=("base",)),
    "fetch_data": Step({"data": keys(RowsSource)}, cost=Request(1000, 60)),
    "fetch_problems": Step(cost=Request(1000, 60)),
    "tokens": Step(
        {"data": keys(TokensConfig)},
        naming=("data.train", "data.revision", "data.split", "data.decontaminate_against"),
        inputs=("base",),
        beside={"{prefix}data/report.json": "report.json"},
        cost=Request(8000, 120),
    ),
    "moe_sft": _training("moe_sft", MoeSftTraining, "moe", naming=("moe_sft.model",)),
    "sft": _training("sft", SftTraining, "base", naming=("sft.model",), derived={"flops_of": ()}),
    "soup": Step(over_seeds="sft"),
    "ffn": Step(inputs=("moe_sft",)),
    "contamination": Step(
        naming=("evaluation.datasets",), inputs=("tokens",), file=RESULT, cost=Request(8000, 120)
    ),
    "diversity": Step(inputs=("base", "moe_sft", "ffn"), file=RESULT),
    "weighted_init": Step(
        {"mixing": keys(MixingShape)},
        derived={"lam": ("merge.lambdas",)},
        inputs=("moe_sft", "ffn"),
        per_lambda=True,
        cost=Request(3000, 10),
    ),
    "weighted_trained": _training(
        "mixing", MixingTraining, *("weighted_init", "moe_sft", "ffn"), per_lambda=True
    ),
    "dense": Step(
        {"merge": keys(MergeMethod)},
        derived={"expert": ()},
        inputs=("weighted", "moe_sft", "ffn"),
        optional={"base": ("base", lambda config: config.merge.needs_base)},
        per_lambda=True,
    ),
    "heal": _training(
        "heal",
        HealConfig,
        "dense",
        optional={"moe_sft": ("teacher", lambda config: config.heal.objective == "kl")},
        per_lambda=True,
    ),
    "ground_truth": Step(
        {"evaluation": keys(ScoringConfig)},
        naming=("evaluation.datasets",),
        cost=Request(8000, 120),
    ),
    "eval": Step(
        {None: ("seed", *COMPUTED), "evaluation": keys(EvalConfig)},
        derived={"prompt": ("evaluation.base_prompt", "data.template")},
        naming=("evaluation.datasets",),
        inputs=("model", "ground_truth"),
        idle={
            "seed": lambda config: not config.evaluation.temperature,
            "threads": lambda config: config.evaluation.backend == "vllm",
        },
        file=RESULT,
        beside={"{stem}.generations.jsonl": GENERATIONS},
        generates=True,
        continues=True,
    ),
    "validation_loss": Step(
        {None: COMPUTED}, inputs=("model", "tokens"), file=RESULT, generates=True, minutes=60
    ),
    "summary": Step(
        derived={"runs": (), "chosen_by": ()},
        naming=("evaluation.models",),
        file="summary.csv",
        beside={name: name for name in ("summary.md", "comparisons.csv")},
        cost=Request(1000, 5),
    ),
    "report": Step(
        inputs=("summary",),
        file="report.html",
        beside={name: name for name in (FIGURES, f"{FIGURES}.manifest.json")},
        cost=Request(1000, 5),
    ),
}
# The sections of the trainings, by step.
TRAINING_SECTIONS = {name: step.section for name, step in STEPS.items() if step.section}


def default_of(key: str) -> object:
    """The default of a key such as "moe.num_experts"; an object that equals nothing without one."""
    section, _, name = key.rpartition(".")
    owner = XftConfig.model_fields[section].annotation if section else XftConfig
    field = owner.model_fields.get(name)
    return object() if field is None or field.is_required() else field.get_default()
