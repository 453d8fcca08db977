"""The models, and the sections of the configuration: type, range, default and meaning of every key.

A class holds the keys that one step reads. A section consists of one or more such classes.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from xft.common.errors import UserError
from xft.common.user_code import FORM, Names, UserCode, codes_in
from xft.config.section import (
    Commit,
    Name,
    NameOrFile,
    Needs,
    OneOrMore,
    PathText,
    Section,
    StoreText,
    UniqueList,
    Unrecorded,
    UrlText,
    keys,
    marked,
    without_effect,
)
from xft.config.training import MixingTraining, TrainingConfig, TuningConfig, fault_of_devices

# In the order of the tables: from the base to the merged models. What the description of
# `evaluation.models` says of each.
MODELS = {
    "base": "the given model, not fine-tuned",
    "moe": "the base as a mixture of experts, not fine-tuned",
    "sft": "plain fine-tuning: the base tuned without experts, by section sft",
    "sft_flops": "sft with as many FLOPs as the mixture's tuning",
    "soup": "the mean of the sft models of all seeds",
    "moe_sft": "the mixture of experts, fine-tuned",
    "uniform": "dense with equal shares, without step 6",
    "dense": "the merged model of each lambda",
}
UNTUNED = ("base", "moe")  # models that have seen no instructions
MIXTURES = ("moe", "moe_sft")
MERGED = ("uniform", "dense")  # one of each for each lambda
OF_MIXTURE = ("moe_sft", *MERGED)  # those that hold, or are made from, a tuned mixture
REFERENCES = ("base", "sft", "sft_flops", "soup", "moe_sft")  # each later model is compared with
MODEL_KINDS = ("base", "moe", "sft", "soup", "moe_sft", "dense")  # of artifacts, and steps


def kind_of(model: str) -> str:
    """The declared name of a model: `dense` of `dense/lam~0.75`."""
    return model.partition("/")[0]


NOT_EMPTY = Field(min_length=1)
VLLM_TEMPERATURES = (0.01, 2.0)  # vLLM raises a lower temperature to the lowest


def lambda_token(value: object) -> str:
    """The canonical decimal form of a lambda: 0.750 and "0.75" are 0.75, 1.0 is 1.

    Raises ValueError unless it is a decimal number from 0 to 1.
    """
    try:
        number = Decimal(str(value))
        if 0 <= number <= 1:
            return f"{abs(number.normalize()):f}"
    except InvalidOperation:
        pass
    raise ValueError("must be a decimal number from 0 to 1")


def learns(lam: str) -> bool:
    """Whether step 6 can learn with a lambda. At 1 the routed experts have no weight."""
    return float(lam) < 1


def dataset_name(name_or_file: str) -> str:
    """The label of a problem set in results: its name, or its file's name without the ending."""
    return re.sub(r"\.jsonl(\.gz)?$|\.parquet$", "", Path(name_or_file).name)


def _or_code(name: str, example: str) -> tuple:
    """The check and the schema of a key that has this value, or names code."""

    def check(value: str) -> str:
        if value == name:
            return value
        if not re.fullmatch(FORM, value):
            raise ValueError(f"should be {name}, or a function in a Python file, such as {example}")
        return str(UserCode.of(value))

    pattern = f"^({name}|{FORM})$"
    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": pattern})


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # numpy takes no larger one
LAMBDA_SCHEMA = {"type": ["number", "string"], "minimum": 0, "maximum": 1}
Lambda = Annotated[str, BeforeValidator(lambda_token), WithJsonSchema(LAMBDA_SCHEMA)]


class RunConfig(Section):
    """Keys of the whole run."""

    seed: Seed = 42
    """Seed of router weights, routing noise and the order of rows."""

    threads: int = Field(1, ge=1)
    """CPU threads of one training or generation job. On a CPU the result depends on this number,
    because rounding does."""

    gpus: Annotated[int, Unrecorded] = Field(0, ge=0)
    """GPUs for each generation job and for each process of a training. With 1 or more they stop if
    there is no GPU. With 0 they use a GPU if there is one. A change makes no step run again."""

    store: Annotated[PathText, Unrecorded] = "store"
    """Folder of all artifacts, each under the digest of what it is made from, relative to the
    working directory. Several configurations can use it, one run at a time."""

    stores: Annotated[list[StoreText], Unrecorded] = []
    """Other stores, which are only read: folders, and URLs of buckets such as s3://bucket/folder.
    An artifact that one of them holds comes into `store`, once all of its files are compared with
    their hashes."""

    publish: Annotated[UrlText | None, Unrecorded] = None
    """URL of a bucket that gets each artifact when it is whole, but no tables, no report and no
    links to your own files. A failed upload stops nothing: the end of the run says what is missing
    there."""

    results_dir: Annotated[PathText, Unrecorded] = "results"
    """Folder of links to the artifacts, metrics, evaluations and logs of this configuration, and of
    its tables and its report. It is relative to the working directory."""

    report_to: Annotated[UniqueList[Literal["tensorboard", "wandb"]], Unrecorded] = []
    """Trackers that get the metrics of the trainings in addition to the JSONL files: TensorBoard,
    Weights & Biases. Each must be installed. A change makes no step run again."""


class BaseConfig(Section):
    """The dense model to start from."""

    model: PathText
    """A local Hugging Face model folder, or the id of a model on the hub. Its tokenizer must not
    have more tokens than its embedding has rows."""

    revision: Commit = None
    """Commit hash (40 hexadecimal digits). Required for a model on the hub. A folder has none."""


class MixtureConfig(Section):
    """The settings that the config.json of a mixture holds."""

    num_experts: int = Field(8, ge=2, le=10_000)
    """Experts in each layer, including the shared one."""

    num_experts_per_tok: int = Field(6, ge=1)
    """Experts that compute each token, including the shared one. At most num_experts."""

    shared_expert: bool = True
    """Expert 0 computes every token. false: vanilla upcycling (an ablation in the paper)."""

    normalize_routing: Annotated[bool, Needs("shared_expert")] = True
    """Normalise the routing weights. The mixture then equals the dense model before training.
    false: an ablation in the paper. Vanilla upcycling has its own normalisation."""

    router: Literal["mlp", "linear"] = "mlp"
    """mlp: W2 tanh(W1 x), as in the paper. linear: W x."""

    router_noise: bool = True
    """Learned normal noise on the router's logits in training."""

    balance_loss_coef: float = Field(0.01, ge=0)
    """Weight of the balance loss of one layer."""

    upcycled_layers: Annotated[
        UniqueList[Annotated[int, Field(ge=0)]] | None,
        NOT_EMPTY,
        AfterValidator(lambda layers: layers and sorted(layers)),
    ] = None
    """Numbers of the decoder layers, from 0, whose MLP becomes a mixture. null: all."""

    experts: Literal["full", "lora"] = "full"
    """The form of an expert. full: matrices of its own, as in the paper. lora: the base's matrices,
    which no expert changes, plus a low-rank product of its own for each of them."""

    rank: Annotated[int, Needs("experts", "lora")] = Field(32, ge=1)
    """The rank of the products. At most the smaller size of each matrix."""

    lora_alpha: Annotated[float, Needs("experts", "lora")] = Field(64.0, gt=0)
    """The products are scaled by lora_alpha / rank."""

    train_rest: Annotated[Literal["full", "lora", "frozen"], Needs("experts", "lora")] = "frozen"
    """What the tuning does with the linear layers outside the MLPs. full: it changes them, and the
    embeddings and norms too. lora: it adds low-rank products of the same rank and scale to them,
    which are part of the weights at the end. frozen: nothing. Full experts are always tuned with
    all other weights."""

    @property
    def num_routed_experts(self) -> int:
        return self.num_experts - self.shared_expert

    @model_validator(mode="after")
    def _numbers_fit(self):
        total, chosen = self.num_experts, self.num_experts_per_tok
        if chosen > total:
            raise ValueError(
                f"num_experts_per_tok = {chosen}: must be at most num_experts = {total}"
            )
        if self.shared_expert and chosen < 2:
            raise ValueError(
                f"num_experts_per_tok = {chosen}: must be at least 2, because the shared expert "
                "counts as one"
            )
        return self


def mixture_settings(config: Mapping[str, Any]) -> dict:
    """The settings of a mixture, from its config.json or section moe, that have an effect."""
    settings = {key: config[key] for key in keys(MixtureConfig) if key in config}
    idle = without_effect(MixtureConfig, settings)
    return {key: settings[key] for key in settings if key not in idle}


INIT = Names(("weights", "generator"))


class MoeConfig(MixtureConfig):
    """Step 1, upcycling: the mixture of experts."""

    init: Annotated[
        PathText, *_or_code("copy", "my_init.py:noise"), INIT, Needs("experts", "full")
    ] = "copy"
    """The routed experts before the tuning. copy: the base's MLP, as in the paper. A function in a
    file, such as my_init.py:noise: what it makes of that (docs/extending.md). The shared expert is
    always a copy. With a function the mixture does not equal the dense model before training."""

    @property
    def init_function(self) -> UserCode | None:
        """A function of the user's; None for copies."""
        return None if self.init == "copy" else UserCode.of(self.init)


class RowsSource(Section):
    """The source of the rows."""

    train: OneOrMore[PathText]
    """JSONL (one object in each line), JSON (an array of objects), CSV, all also as .gz, or Parquet
    file; or a list of such files, whose rows follow each other. With revision: a data set on the
    hub (organisation/name), or one of its files (organisation/name/file)."""

    revision: Commit = None
    """Commit hash (40 hexadecimal digits) of a data set on the hub. A local file has none."""

    split: Annotated[Name, Needs("revision")] = "train"
    """Split of a hub data set, if train names no file."""

    @property
    def files(self) -> list[str]:
        """The files, or the data set on the hub."""
        return self.train if isinstance(self.train, list) else [self.train]


class TokensConfig(Section):
    """The conversion of rows to tokens."""

    instruction_column: Name = "instruction"
    """Column with the instruction. A row that lacks it or the response may hold a conversation, in
    the column messages or conversations."""

    response_column: Name = "response"
    """Column with the response. Only this text is trained on. Of a conversation, all turns of the
    assistant are."""

    max_length: int = Field(1024, ge=8)
    """Maximum tokens of an example. A longer row is cut. A row whose prompt fills this window is
    left out and counted. At most the base's window, if its config.json states one."""

    limit: OneOrMore[Annotated[int, Field(ge=1)]] | None = None
    """Use only this number of rows, from the start of each file. A list has one number for each
    file. Bad rows do not count."""

    template: NameOrFile = "magicoder"
    """Prompt around an instruction, in training and in the evaluation of tuned models. magicoder:
    the paper's. chat: the tokenizer's chat template, which the base must have, and which
    conversations need. A file: its text, with {instruction} once."""

    bad_rows: Literal["stop", "skip"] = "stop"
    """What to do with a row that is not an object, lacks one of the two texts, holds a key twice,
    or holds a conversation with a fault. stop: stop with an error. skip: leave it out and report
    it."""

    deduplicate: Literal["none", "exact", "near"] = "exact"
    """Rows to leave out because an earlier row has the same text. exact: whitespace is ignored.
    near: also rows whose sets of 5-grams of words and marks have a Jaccard similarity of at least
    0.8, without system prompts."""

    validation_rows: int = Field(0, ge=0)
    """Rows held out of the training to measure the loss on. Usual are 100 or more: the loss on one
    row has no interval. A hash of the text selects them, so they are the same for every seed."""

    choice_rows: int = Field(0, ge=0)
    """Further rows held out of the training, on which `choose` compares settings. The loss that
    chose is too low, so it is not the loss that is reported. Usual are as many as validation_rows.
    The same hash selects them: no row is in both."""

    @model_validator(mode="after")
    def _columns_differ(self):
        if self.instruction_column == self.response_column:
            raise ValueError(
                f"instruction_column and response_column are both {self.response_column}: a "
                "training would learn to repeat the instruction. Name two columns"
            )
        return self

    @property
    def held_out_rows(self) -> int:
        """The rows that the training does not get."""
        return self.validation_rows + self.choice_rows

    def stated(self) -> dict[str, Any]:
        """The values for a manifest. Without choice rows it says what it said before the key."""
        values = self.model_dump()
        if not self.choice_rows:
            del values["choice_rows"]
        return values

    def limits(self, files: int) -> list[int | None]:
        """The limit of each of so many files. Raises UserError if `limit` has other numbers."""
        numbers = self.limit if isinstance(self.limit, list) else [self.limit] * files
        if len(numbers) != files:
            raise UserError(f"data.limit = {numbers}: give one number for each file, or for all")
        return numbers


class DataConfig(TokensConfig, RowsSource):
    """Instruction rows of steps 2 and 6."""

    decontaminate_against: UniqueList[NameOrFile] = ["humaneval", "mbpp"]
    """Sets of problems that no row may give away: humaneval, mbpp, whose hashes come with this
    project, sets of MultiPL-E, or files of problems. A row is left out if it holds the docstring or
    the solution of a problem, or shares 13 consecutive words with one. Sets of evaluation.datasets
    count only if they are named here too. []: no set."""


class TunedElsewhere(Section):
    """A model in place of a training."""

    instead: ClassVar[str] = "model"

    model: PathText | None = None
    """Folder of a model that another trainer made of the base, in place of this training
    (docs/trainers.md). The other keys of the section then have no effect. null: train."""


class MoeSftTraining(TuningConfig):
    """The tuning of the mixture."""

    trains: ClassVar[str] = "mixture"


class MoeSftConfig(TunedElsewhere, MoeSftTraining):
    """Step 2, instruction tuning of the mixture."""


class SftTraining(TuningConfig):
    """The tuning of the dense base."""

    lora_rank: int | None = Field(None, ge=1)
    """Tune low-rank products of this rank beside the linear layers (LoRA, arXiv 2106.09685), apart
    from the output embeddings. They are part of the weights at the end. At most the smaller size of
    each matrix. null: tune all weights. If it is left out beside LoRA experts, it is moe.rank,
    unless moe.train_rest is full."""

    lora_alpha: Annotated[float, Needs("lora_rank")] = Field(64.0, gt=0)
    """The products are scaled by lora_alpha / lora_rank. If it is left out beside LoRA experts,
    it is moe.lora_alpha."""

    @property
    def choices(self) -> list[str]:
        return super().choices + ([] if self.lora_rank is None else ["lora_rank"])


class SftConfig(TunedElsewhere, SftTraining):
    """Instruction tuning of the dense base, a baseline; shared keys default to those of moe_sft."""


class MixingShape(Section):
    """The number of mixing coefficients."""

    granularity: Literal["layer", "projection", "model"] = "layer"
    """One set of coefficients for each layer (as in the paper), for each projection of a layer, or
    for the whole model."""


class MixingConfig(MixingTraining, MixingShape):
    """Steps 5 and 6: the mixing coefficients and their training, with defaults of its own."""


MERGE = Names(("tensors", "coefficients", "base"), offered=("load",))


class MergeMethod(Section):
    """The computation of the dense model's weights."""

    method: Annotated[PathText, *_or_code("xft", "my_merge.py:ties"), MERGE] = "xft"
    """xft: the weighted mean of a projection's experts, as in the paper. A function in a file, such
    as my_merge.py:ties: what it makes of them (docs/extending.md)."""

    @property
    def function(self) -> UserCode | None:
        """A function of the user's; None for the paper's method."""
        return None if self.method == "xft" else UserCode.of(self.method)


class MergeConfig(MergeMethod):
    """Steps 4 and 7: the merge of the experts."""

    lambdas: Annotated[UniqueList[Lambda], NOT_EMPTY] = ["0.75"]
    """Weights of the shared expert in the merge, each from 0 to 1. Each gives its own dense model.
    All steps before the merge run once for all of them. At 1 the routed experts have no weight, and
    step 6 has nothing to learn."""

    keep: Literal["all", "none"] = "all"
    """Dense models that stay after their evaluation. A model that was not kept is merged again if a
    later run needs it."""

    select: Literal["auto", "validation", "benchmark"] = "auto"
    """What the best merge is chosen by, among the lambdas and all values of mixing and merge in
    variants and sweep. validation: the lowest validation loss. benchmark: the highest pass@1
    (plus tests) on the first data set; the score there is then optimistically biased. auto:
    validation if there are validation rows."""


class EvaluatedConfig(Section):
    """The models to evaluate, and the problems."""

    models: Annotated[UniqueList[Literal[tuple(MODELS)]], NOT_EMPTY] = Field(
        ["base", "sft", "moe_sft", "dense"],
        description="Models to evaluate. "
        + " ".join(f"{name}: {meaning}." for name, meaning in MODELS.items()),
    )

    datasets: Annotated[UniqueList[NameOrFile], NOT_EMPTY] = ["humaneval"]
    """humaneval, mbpp, multipl-e/humaneval-LANGUAGE, multipl-e/mbpp-LANGUAGE, or a file of problems
    (.jsonl, .jsonl.gz or .parquet): in HumanEval+ form, or with programs of tests
    (docs/evaluation.md). The rule fetch_problems gets HumanEval+ v0.1.10 and MBPP+ v0.2.0 from the
    files in HUMANEVAL_OVERRIDE_PATH and MBPP_OVERRIDE_PATH, from EvalPlus's cache, or from its
    release, and MultiPL-E's sets from the hub."""

    base_prompt: NameOrFile = "completion"
    """The prompt for the base model and the untuned mixture, which have seen no instructions.
    completion: the problem's own text. Or a template, as in data.template. Tuned models always get
    data.template."""


class GenerationConfig(Section):
    """The generation of solutions by a model."""

    backend: Literal["transformers", "vllm"] = "transformers"
    """The library that generates. vllm is faster on a GPU, for base and dense. It needs its own
    environment. It cannot load mixtures, so moe and moe_sft always use transformers."""

    max_new_tokens: int = Field(512, ge=1)
    """Maximum tokens that a model writes for a problem. Fewer than the base's window, if its
    config.json states one."""

    too_long: Literal["stop", "skip"] = "stop"
    """What a prompt does that leaves no room for max_new_tokens in the base's window. stop: nothing
    runs. skip: its problem is left out for all models, and counted. The prompts of base_prompt and
    of data.template must both fit."""

    batch_size: int = Field(16, ge=1)
    """Problems generated at once."""

    samples: Annotated[int, Needs("temperature")] = Field(1, ge=1)
    """Solutions that a model writes for each problem. From 10 on the result has pass@10 too, and
    from 100 on pass@100."""

    temperature: float = Field(0.0, ge=0)
    """0: always the likeliest token (greedy). Otherwise tokens are drawn at random, by the seed:
    0.2 is usual for pass@1, 0.8 for pass@100."""

    top_p: Annotated[float, Needs("temperature")] = Field(0.95, gt=0, le=1)
    """Tokens are drawn only from the likeliest ones that together have this probability."""

    token_healing: bool = True
    """Whether the model chooses the last token of each prompt again, among the tokens that begin
    with its text. This helps where a prompt ends within a token of the training texts."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """The number type in which a model generates. auto: fp32 on a CPU, and on a GPU the type that
    the weights have in the model folder. Losses are always as with auto."""

    @model_validator(mode="after")
    def _vllm_takes_the_temperature(self):
        lowest, highest = VLLM_TEMPERATURES
        is_accepted = self.temperature == 0 or lowest <= self.temperature <= highest
        if self.backend == "vllm" and not is_accepted:
            raise ValueError(
                f"temperature = {self.temperature:g}: with backend vllm it must be 0, or from "
                f"{lowest:g} to {highest:g}"
            )
        return self


class ScoringConfig(Section):
    """The problems to judge, and the sandbox."""

    limit: int | None = Field(None, ge=1)
    """Use only this number of problems, from the start of each data set."""

    exclude: UniqueList[Annotated[str, NOT_EMPTY]] = []
    """Problems to leave out, by their task_id. limit counts the others."""

    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """The sandbox for the model's code. none: the code runs with your rights, without isolation.
    Only for code that you trust."""


class EvalConfig(ScoringConfig, GenerationConfig):
    """The keys of step eval."""


class EvaluationConfig(EvalConfig, EvaluatedConfig):
    """Evaluation by EvalPlus's rules, or by programs of tests."""


class ManyRuns(Section):
    """Keys for several runs of one configuration. They reuse every step with identical settings."""

    seeds: UniqueList[Seed] = []
    """Seeds to run everything with that depends on a seed. []: only seed."""

    variants: dict[str, dict[str, Any]] = {}
    """Runs with other values, by name: {vanilla: {moe: {shared_expert: false}}}. Only the named
    ones run. One without changes, such as {xft: {}}, is the configuration itself."""

    control: str | None = None
    """The variant that all others are compared with. null: the one without changes, or else the
    first one."""

    sweep: dict[str, Annotated[list[Any], NOT_EMPTY]] = {}
    """Values of any keys, for a run with each combination:
    {moe_sft.learning_rate: [2e-5, 5e-5], moe.num_experts_per_tok: [2, 6]}."""

    choose: Literal["validation"] | None = None
    """Which settings of a method are evaluated, among all values of sweep and merge.lambdas.
    validation: the one with the lowest mean loss on data.choice_rows over the seeds. null: all."""


# Which keys section sft inherits, if it leaves them out, and from where. No other section inherits.
# Of section moe_sft: the keys that both have. Callbacks may be for mixtures alone.
SFT_AS_MOE_SFT = tuple(key for key in keys(TuningConfig) if key != "callbacks")
# Of section moe, if it has LoRA experts and the rest of the model is not tuned whole.
SFT_AS_MOE = {"lora_rank": "rank", "lora_alpha": "lora_alpha"}


def with_inherited(moe: dict, moe_sft: dict, sft: dict) -> dict:
    """Section sft with the keys that it inherits. All three sections are as they were read.

    A key that would have no effect beside those of section sft is not inherited.
    """
    inherited = {key: moe_sft[key] for key in SFT_AS_MOE_SFT if key in moe_sft}
    if moe.get("experts") == "lora" and moe.get("train_rest") != "full":
        for key, key_of_moe in SFT_AS_MOE.items():
            default = MixtureConfig.model_fields[key_of_moe].default
            inherited[key] = moe.get(key_of_moe, default)
    idle = without_effect(SftConfig, inherited | sft)
    with_effect = {key: value for key, value in inherited.items() if key not in idle}
    return with_effect | sft


class WorkflowConfig(ManyRuns, RunConfig):
    """The whole configuration of the workflow."""

    base: BaseConfig
    moe: MoeConfig = MoeConfig()
    data: DataConfig
    moe_sft: MoeSftConfig = MoeSftConfig()
    sft: SftConfig = SftConfig()
    mixing: MixingConfig = MixingConfig()
    merge: MergeConfig = MergeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _sft_inherits(cls, config: dict) -> dict:
        sections = [config.get(name, {}) for name in ("moe", "moe_sft", "sft")]
        if not all(isinstance(section, dict) for section in sections):
            return config  # a fault, which is told later
        return config | {"sft": with_inherited(*sections)}

    @property
    def sft_flops(self) -> SftConfig:
        """Section sft with as many rows as moe_sft has. FLOPS_KEYS decide."""
        tuning, sft = self.moe_sft, self.sft
        changes = {"num_train_epochs": tuning.num_train_epochs, "max_steps": tuning.max_steps}
        if tuning.max_steps:
            steps = max(round(tuning.max_steps * tuning.global_batch / sft.global_batch), 1)
            changes |= {"max_steps": steps, "warmup_steps": min(sft.warmup_steps, steps)}
        return sft.model_copy(update=changes)

    @model_validator(mode="after")
    def _sections_fit(self):
        if faults := [*self._faults_of_models(), *self._faults_of_trainings()]:
            raise ValueError("\n".join(faults))
        return self

    def _faults_of_models(self) -> Iterator[str]:
        merged = [model for model in self.evaluation.models if model in MERGED]
        if merged and not self.moe.shared_expert:
            names = " and ".join(merged)
            yield (
                f"evaluation.models names {names}, but without moe.shared_expert there is no "
                f"merge. Leave out {names}"
            )
        for name, need in (("sft_flops", "moe_sft"), ("sft_flops", "sft"), ("soup", "sft")):
            if name in self.evaluation.models and getattr(self, need).model:
                yield f"{need}.model is no training, as {name} needs. Leave out {name}"
        if self.moe_sft.model and self.moe.init != "copy" and "moe" not in self.evaluation.models:
            yield (
                f"moe.init = {self.moe.init}: no effect with moe_sft.model, unless "
                "evaluation.models names moe. Leave out init, or name moe there"
            )
        if self.merge.select == "validation" and not self.data.validation_rows:
            yield (
                "merge.select = validation: there are no validation rows. Set data.validation_rows"
            )

    def _faults_of_trainings(self) -> Iterator[str]:
        for name in TRAININGS:
            section = getattr(self, name)
            if fault := section.fault_of_validation(self.data.validation_rows):
                yield f"{name}: {fault}"
            if fault := fault_of_devices(section, self.gpus * section.processes):
                yield f"{name}, gpus = {self.gpus}: {fault}"


# Keys of moe_sft that decide on how many rows sft_flops is tuned.
FLOPS_KEYS = (
    *("moe_sft.num_train_epochs", "moe_sft.max_steps", "moe_sft.per_device_train_batch_size"),
    *("moe_sft.gradient_accumulation_steps", "moe_sft.processes", "moe_sft.nodes"),
)
# Keys of a mixture that change no number of FLOPs, and those that do.
WITHOUT_FLOPS = ("normalize_routing", "balance_loss_coef", "lora_alpha")
SHAPE_KEYS = tuple(key for key in keys(MixtureConfig) if key not in WITHOUT_FLOPS)
# The sections with their classes: the annotations of WorkflowConfig itself, without those of its
# base classes, which are the keys outside of sections.
SECTIONS: dict[str, type[Section]] = get_annotations(WorkflowConfig)
# Those of the trainings.
TRAINING = {name: group for name, group in SECTIONS.items() if issubclass(group, TrainingConfig)}
TRAININGS = tuple(TRAINING)
# Keys with files and folders that are read.
PATHS = (
    *("base.model", "moe_sft.model", "sft.model"),
    *("data.train", "data.template", "data.decontaminate_against"),
    *("evaluation.base_prompt", "evaluation.datasets"),
)


def named_paths(sections: Mapping[str, Section]) -> Iterator[tuple[str, str]]:
    """The files and folders that sections of a configuration name, by key.

    Some are names, such as humaneval.
    """
    for key in PATHS:
        section, _, name = key.partition(".")
        value = getattr(sections[section], name) if section in sections else None
        for path in [value] if isinstance(value, str) else value or ():
            yield key, path


def named_code(sections: Mapping[str, object]) -> Iterator[tuple[str, UserCode, Names]]:
    """The code of the user's that sections of a configuration name, by key, and what it must be."""
    for name in [name for name in SECTIONS if name in sections]:
        for key, names in marked(SECTIONS[name], Names).items():
            for code in codes_in(getattr(sections[name], key)):
                yield f"{name}.{key}", code, names
