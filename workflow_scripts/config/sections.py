"""The configuration: its sections, and every key with type, range, default and meaning.

A class holds what one step reads. A section of the configuration is made of such classes.
"""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from workflow_scripts.config.section import UNIQUE, Commit, Name, PathText, Section, keys
from workflow_scripts.config.training import MixingTraining, TuningConfig, fault_of_devices

MERGED = ("uniform", "dense")  # models of which there is one for each lambda
VLLM_TEMPERATURES = (0.01, 2.0)  # vLLM raises a lower one to the lowest


def lambda_token(value: float | str) -> str:
    """The canonical decimal form of a lambda: 0.750 and "0.75" are 0.75, 1.0 is 1.

    Raises ValueError unless it is a decimal number from 0 to 1.
    """
    fault = ValueError("must be a decimal number from 0 to 1")
    text = value if isinstance(value, str) else format(Decimal(str(float(value))), "f")
    if isinstance(value, bool) or not text.replace(".", "", 1).removeprefix("-").isdecimal():
        raise fault
    number = Decimal(text)
    if not 0 <= number <= 1 or not text.isascii():
        raise fault
    token = f"{number.normalize():f}"
    return "0" if token == "-0" else token


def learns(lam: str) -> bool:
    """Whether step 6 can learn at a lambda: at 1 the routed experts have no weight."""
    return float(lam) < 1


def problem_label(name_or_file: str) -> str:
    """The name of a problem set in results: its name, or its file's name without the ending."""
    return Path(name_or_file).name.removesuffix(".gz").removesuffix(".jsonl")


def _lambda(value: Any) -> str:
    if not isinstance(value, int | float | str):
        raise ValueError("must be a decimal number from 0 to 1")
    return lambda_token(value)


def _sorted(layers: list[int] | None) -> list[int] | None:
    return layers and sorted(layers)


LAMBDA_SCHEMA = {"type": ["number", "string"], "minimum": 0, "maximum": 1}
Lambda = Annotated[str, BeforeValidator(_lambda), WithJsonSchema(LAMBDA_SCHEMA)]


class RunConfig(Section):
    """What all steps share."""

    seed: int = Field(42, ge=0)
    """Seed of router weights, routing noise and the order of rows."""

    threads: int = Field(1, ge=1)
    """CPU threads of one training or generation job. On a CPU the result depends on it: another
    number rounds differently."""

    gpus: int = Field(0, ge=0)
    """GPUs that each generation job, and each process of a training, asks the scheduler for. With 1
    or more these stop if there is no GPU. With 0 they use a GPU if there is one. A change runs
    nothing again."""

    results_dir: PathText = "results"
    """Folder of all artifacts, metrics, evaluations and logs, relative to the working directory."""

    report_to: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], UNIQUE] = []
    """Trackers that get the metrics of the trainings in addition to the JSONL files: TensorBoard,
    Weights & Biases, MLflow. Each must be installed. A change runs nothing again."""


class BaseConfig(Section):
    """The dense model to start from."""

    model: PathText
    """A local Hugging Face model folder, or the id of a model on the hub. Its tokenizer must not
    have more tokens than its embedding."""

    revision: Commit = None
    """Commit hash (40 hexadecimal digits). A hub id needs it. A folder has none."""


class MoeConfig(Section):
    """Step 1, upcycling: the mixture of experts."""

    num_experts: int = Field(8, ge=2)
    """Experts in each layer, the shared one included."""

    num_experts_per_tok: int = Field(6, ge=1)
    """Experts that compute each token, the shared one included. At most num_experts."""

    shared_expert: bool = True
    """Expert 0 sees every token. Without it: vanilla upcycling (an ablation of the paper)."""

    normalize_routing: bool = True
    """Routing weight normalisation. It makes the mixture equal to the dense model at step 0.
    Without it: an ablation of the paper. Vanilla upcycling has its own normalisation and ignores
    this key."""

    router: Literal["mlp", "linear"] = "mlp"
    """mlp: W2 tanh(W1 x), as in the paper. linear: W x."""

    router_noise: bool = True
    """Learned normal noise on the router's logits in training."""

    balance_loss_coef: float = Field(0.01, ge=0)
    """Weight of the balance loss of one layer."""

    upcycled_layers: Annotated[
        list[Annotated[int, Field(ge=0)]] | None,
        Field(min_length=1),
        UNIQUE,
        AfterValidator(_sorted),
    ] = None
    """Numbers of the decoder layers, from 0, whose MLP becomes a mixture. null: all."""

    @model_validator(mode="after")
    def _numbers_fit(self):
        total, chosen = self.num_experts, self.num_experts_per_tok
        if chosen > total:
            raise ValueError(
                f"num_experts_per_tok = {chosen}: must be at most num_experts = {total}"
            )
        if self.shared_expert and chosen < 2:
            raise ValueError(
                f"num_experts_per_tok = {chosen}: must be at least 2 with a shared expert, which "
                "counts as one"
            )
        return self


class RowsSource(Section):
    """Where the rows come from."""

    train: PathText
    """JSONL (an object in each line), JSON (an array of objects) or Parquet file. With revision: a
    data set on the hub, organisation/name, or one of its files, organisation/name/file."""

    revision: Commit = None
    """Commit hash (40 hexadecimal digits) of a data set on the hub. A local file has none."""

    split: Name = "train"
    """Split of a data set on the hub that is named without a file."""


class TokensConfig(Section):
    """How rows become tokens."""

    instruction_column: Name = "instruction"
    """Column with the instruction."""

    response_column: Name = "response"
    """Column with the response. Only this text is trained on."""

    max_length: int = Field(1024, ge=8)
    """Most tokens of an example. A longer row is cut. A row whose prompt fills the window is left
    out and counted. At most the base's window, if its config.json states one."""

    limit: int | None = Field(None, ge=1)
    """Use only the first rows of the file. Bad rows do not count."""

    template: PathText = "magicoder"
    """Prompt around an instruction, in training and in the evaluation of tuned models. magicoder:
    the paper's. chat: the tokenizer's chat template, which the base must have. A file: its text,
    which holds {instruction} once."""

    bad_rows: Literal["stop", "skip"] = "stop"
    """What to do if a row is no object or lacks one of the two texts: stop, or leave it out and
    report it."""

    deduplicate: Literal["none", "exact", "near"] = "exact"
    """Rows to leave out because an earlier one says the same. exact: except for whitespace. near:
    also rows whose sets of 5-grams of words and marks have a Jaccard similarity of at least 0.8."""

    validation_rows: int = Field(0, ge=0)
    """Rows that are held out of the training to measure the loss on. A hash of their text chooses
    them: they are the same for every seed."""


class DataConfig(TokensConfig, RowsSource):
    """Instruction rows of steps 2 and 6."""

    decontaminate: bool = True
    """Leave out rows that hold the docstring or the solution of a problem of evaluation.datasets,
    or share 13 words in a row with one."""


class MoeSftConfig(TuningConfig):
    """Step 2, instruction tuning of the mixture."""

    balance_loss_batch: Literal["micro", "global"] = "micro"
    """The batch of the balance loss. micro: each forward pass of each process, as published.
    global: the whole global batch, which takes one more forward pass if gradients are
    accumulated."""


class SftConfig(TuningConfig):
    """Instruction tuning of the dense base, a baseline; keys that are left out: as in moe_sft."""

    balance_loss_batch: ClassVar[str] = "micro"


class MixingShape(Section):
    """Which mixing coefficients there are."""

    granularity: Literal["layer", "projection", "model"] = "layer"
    """One set of coefficients for each layer (as in the paper), for each projection of a layer, or
    for the whole model."""

    learn_lambda: bool = False
    """Learn lambda too, one for each set of coefficients. It starts from its value in
    merge.lambdas, which must be between 0 and 1."""


class MixingConfig(MixingTraining, MixingShape):
    """Steps 5 and 6: the mixing coefficients and their training."""


class MergeConfig(Section):
    """Steps 4 and 7: the merge of the experts."""

    lambdas: Annotated[list[Lambda], Field(min_length=1), UNIQUE] = ["0.75"]
    """Weights of the shared expert in the merge, each from 0 to 1. Each gives a dense model of its
    own. They share everything before the merge. At 1 the routed experts have no weight, and step 6
    has nothing to learn."""

    keep: Literal["all", "best", "none"] = "all"
    """Dense models that stay after their evaluation. best: the one with the highest pass@1 (plus
    tests) on the first data set, as results/best. A model that was not kept is merged again when it
    is asked for."""


class EvaluatedConfig(Section):
    """What is evaluated on what."""

    models: Annotated[
        list[Literal["base", "moe", "sft", "moe_sft", "uniform", "dense"]],
        Field(min_length=1),
        UNIQUE,
    ] = ["base", "moe_sft", "dense"]
    """Models to evaluate. sft: the base tuned without experts, by section sft. dense: the merged
    model of each lambda. uniform: the same with equal shares of the experts, as before step 6."""

    datasets: Annotated[list[PathText], Field(min_length=1), UNIQUE] = ["humaneval"]
    """humaneval, mbpp, or a file of problems in HumanEval+ form (.jsonl or .jsonl.gz). The two
    names are HumanEval+ v0.1.10 and MBPP+ v0.2.0. The rule fetch_problems brings them: from the
    files that HUMANEVAL_OVERRIDE_PATH and MBPP_OVERRIDE_PATH name, from EvalPlus's cache, or from
    its release."""

    base_prompt: PathText = "completion"
    """The prompt of the base model and of the untuned mixture, which have seen no instructions.
    completion: the problem's own text. Or a template, as in data.template. Tuned models are
    evaluated by data.template."""


class GenerationConfig(Section):
    """How a model writes solutions."""

    backend: Literal["transformers", "vllm"] = "transformers"
    """The library that generates. vllm is faster on a GPU, for base and dense. It needs an
    environment of its own. It cannot load mixtures: transformers always generates moe and
    moe_sft."""

    max_new_tokens: int = Field(512, ge=1)
    """Tokens that a model may write for a problem. Fewer than the base's window, if its config.json
    states one."""

    batch_size: int = Field(16, ge=1)
    """Problems generated at once."""

    samples: int = Field(1, ge=1)
    """Solutions that a model writes for each problem. With ten or more the result has pass@10 too,
    with a hundred or more pass@100."""

    temperature: float = Field(0.0, ge=0)
    """0: the likeliest token each time (greedy). Otherwise tokens are drawn, by the seed: 0.2 is
    usual for pass@1, 0.8 for pass@100."""

    top_p: float = Field(0.95, gt=0, le=1)
    """If tokens are drawn: from the likeliest ones that make up this share."""

    @model_validator(mode="after")
    def _samples_differ(self):
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"samples = {self.samples}: without a temperature all samples of a problem are the "
                "same. Set temperature, such as 0.8"
            )
        lowest, highest = VLLM_TEMPERATURES
        is_taken = self.temperature == 0 or lowest <= self.temperature <= highest
        if self.backend == "vllm" and not is_taken:
            raise ValueError(
                f"temperature = {self.temperature:g}: with backend vllm it must be 0, or from "
                f"{lowest:g} to {highest:g}"
            )
        return self


class ScoringConfig(Section):
    """Which problems are judged, and where."""

    limit: int | None = Field(None, ge=1)
    """Evaluate only the first problems."""

    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """Where model-written code runs. none runs it with your rights and without isolation: only for
    code that you trust."""


class EvalConfig(ScoringConfig, GenerationConfig):
    """What the step eval reads."""


class EvaluationConfig(EvalConfig, EvaluatedConfig):
    """Evaluation with EvalPlus."""

    lm_eval: Annotated[list[PathText], UNIQUE] = []
    """Tasks of lm-evaluation-harness on which the models are measured too: names, or files (.yaml).
    They need the package lm_eval, and the tasks' data on the machine."""


class XftConfig(RunConfig):
    """The whole configuration of a run."""

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
    def _sft_is_as_moe_sft(cls, config: dict) -> dict:
        tuning, own = config.get("moe_sft", {}), config.get("sft", {})
        if not isinstance(tuning, dict) or not isinstance(own, dict):
            return config
        shared = {key: tuning[key] for key in keys(SftConfig) if key in tuning}
        return config | {"sft": shared | own}

    @model_validator(mode="after")
    def _sections_fit(self):
        if fault := self._fault_of_models() or self._fault_of_trainings():
            raise ValueError(fault)
        return self

    def _fault_of_models(self) -> str | None:
        merged = [model for model in self.evaluation.models if model in MERGED]
        if merged and not self.moe.shared_expert:
            names = " and ".join(merged)
            return (
                f"evaluation.models names {names}, but without moe.shared_expert there is no "
                f"merge. Leave out {names}"
            )
        if self.merge.keep == "best" and "dense" not in merged:
            return "merge.keep = best: evaluation.models must name dense, to know which is best"
        for lam in self.merge.lambdas if self.mixing.learn_lambda else ():
            if fault := fault_of_learned(lam):
                return f"merge.lambdas = {lam}: {fault}"
        labels = [problem_label(dataset) for dataset in self.evaluation.datasets]
        for label in labels:
            if labels.count(label) > 1:
                return (
                    f"evaluation.datasets: two data sets are called {label} in the results. Rename "
                    "a file"
                )
        return None

    def _fault_of_trainings(self) -> str | None:
        for name in TRAININGS:
            section = getattr(self, name)
            if fault := section.fault_of_validation(self.data.validation_rows):
                return f"{name}: {fault}"
            if fault := fault_of_devices(section, self.gpus * section.processes):
                return f"{name}, gpus = {self.gpus}: {fault}"
        return None


TRAININGS = ("moe_sft", "sft", "mixing")  # sections, one for each training


def fault_of_learned(lam: str) -> str | None:
    """Why a lambda cannot be learned from this value: at 0 and 1 its logit is infinite."""
    if 0 < float(lam) < 1:
        return None
    return "with learn_lambda it must be between 0 and 1, these excluded"
