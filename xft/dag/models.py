"""The models that a run wants, and what they are made from."""

from functools import cache, cached_property, partialmethod
from pathlib import Path

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.artifacts.manifest import joint_sha256
from xft.config.models import MERGED
from xft.config.runs import Run
from xft.config.sections import FLOPS_KEYS, SHAPE_KEYS, learns, mixture_settings, problem_label
from xft.config.steps import METRICS, STEPS
from xft.dag.declared import Declared
from xft.dag.wanted import Shared, Wanted
from xft.data.templates import PROMPT_NAMES
from xft.data.tokenizers import class_choice
from xft.hub.named_sets import NAMED_SETS
from xft.hub.source import dataset_source


class Models(Declared):
    """The models of a run, from the base to the merged ones."""

    def __init__(self, run: Run, shared: Shared):
        super().__init__(run, shared)
        self.model = cache(self.model)

    def _make_base(self, _) -> Wanted:
        source = self.config.base
        if not Path(source.model).is_dir():
            return self._wanted("base")
        return self._linked("base", source.model, flags={"model": source.model})

    def _linked(self, name: str, model: str, **about) -> Wanted:
        """Links to the files of a model: the base, or one that another trainer tuned."""
        contents = self.contents.of_model(model, is_tuned=name != "base")
        about |= {"files": {"files": [str(Path(model, file)) for file in contents]}}
        return self._wanted("base", name, options={}, contents=contents, **about)

    def _tuned(self, section: str, _) -> Wanted:
        """The model of a training, or the one that stands in its place."""
        model = getattr(self.config, section).model
        if model is None:
            return self._wanted(section)
        base = self.of("base")
        about = {"flags": {"model": model, "tuned_from": base.place}, "sources": {"base": base}}
        return self._linked(section, model, read=[f"{section}.model"], **about)

    _make_moe_sft = partialmethod(_tuned, "moe_sft")
    _make_sft = partialmethod(_tuned, "sft")

    def _make_diversity(self, _) -> Wanted:
        tuned = self.of("moe_sft")
        flags = {"metrics": tuned.entry / METRICS} if tuned.rule == "moe_sft" else {}
        return self._wanted("diversity", flags=flags)

    @cached_property
    def fetched_rows(self) -> Wanted | None:
        """The rows from the hub; None if the rows are a local file."""
        data = self.config.data
        if not data.revision:
            return None
        options = STEPS["fetch_data"].options(self.config)
        source = dataset_source(data.train, data.revision)
        if source.file:
            del options["split"]
        name = f"data/fetched/{source.file_name}"
        return self._wanted("fetch_data", name, options, file=source.file_name)

    def _rows(self) -> dict[str, dict]:
        """What a step that reads the rows has as inputs and flags."""
        if fetched := self.fetched_rows:
            return {"sources": {"data": fetched}, "flags": {"data": str(fetched.place)}}
        data = self.config.data
        content = joint_sha256([self.contents.of_rows(file) for file in data.files])
        about = {"contents": {"data": content}, "files": {"data": data.files}}
        return about | {"flags": {"data": data.train}}

    def _make_tokens(self, _) -> Wanted:
        data, about = self.config.data, self._rows()
        options = STEPS["tokens"].options(self.config)
        options["template"] = self.contents.template(data.template)
        forbidden = by_label(data.decontaminate_against).items()
        contents = {f"problems {label}": self._cleaned_of(name) for label, name in forbidden}
        files = {
            "problems": [name for name in data.decontaminate_against if name not in NAMED_SETS]
        } | template_file(data.template)
        if Path(self.config.base.model).is_dir():  # then its tokenizer's files are known
            about["needs"] = {"base": self.of("base")}
            contents |= self._tokenizer_contents()
        about["contents"] = about.get("contents", {}) | contents
        about["files"] = about.get("files", {}) | files
        about["flags"] |= {
            "template": data.template,
            "problems": data.decontaminate_against or [""],
        }
        return self._wanted("tokens", options=options, **about)

    def _cleaned_of(self, name: str) -> str:
        """The hash of a set of problems that rows are cleaned of, by its name or file."""
        return NAMED_SETS[name].sha256 if name in NAMED_SETS else self.contents.of_problems(name)

    def _tokenizer_contents(self) -> dict[str, str]:
        place = Path(self.config.base.model)
        paths = {path for pattern in TOKENIZER_PATTERNS for path in place.glob(pattern)}
        found = self.contents.of_files(place, filter(Path.is_file, paths))
        return {f"base {name}": value for name, value in (found | class_choice(place)).items()}

    def _make_sft_flops(self, _) -> Wanted:
        """The tuned base at as many FLOPs as the mixture's tuning, which its shape decides."""
        config = self.config.model_copy(update={"sft": self.config.sft_flops})
        settings = mixture_settings(dict(self.config.moe))
        shape = {key: settings[key] for key in SHAPE_KEYS if key in settings}
        options = STEPS["sft"].options(config) | {"flops_of": shape}
        about = {"config": config, "flags": {"match_flops": True} | shape}
        about["read"] = [*FLOPS_KEYS, *(f"moe.{key}" for key in shape)]
        about["unread"] = ["sft.max_steps", "sft.num_train_epochs"]
        return self._wanted("sft", "sft_flops", options, **about)

    def _make_dense(self, lam: str) -> Wanted:
        return self._merged(f"dense/lam~{lam}", lam)

    def _merged(self, name: str, lam: str, equal: bool = False, **options: int) -> Wanted:
        """A merge with learned shares if there is something to learn, or with equal ones."""
        is_learned = learns(lam) and not equal
        weighted = self.of("weighted_trained" if is_learned else "weighted_init", lam)
        options = STEPS["dense"].options(self.config) | options
        return self._wanted("dense", name, options, lam=lam, sources={"weighted": weighted})

    def model(self, name: str) -> Wanted:
        """The model with this name in the evaluations, such as base or dense/lam~0.75."""
        kind, _, lam = name.partition("/lam~")
        kind, _, expert = kind.partition("/expert~")
        if kind == "uniform":
            return self._merged(name, lam, equal=True)
        if kind == "experts_only":
            return self._merged(name, lam, equal=True, expert=int(expert))
        return self.of(kind, lam or None)

    def main_models(self) -> list[Wanted]:
        """The models of the paper's steps and its baseline, whether or not they are evaluated."""
        merged = [self.of("dense", lam) for lam in self.config.merge.lambdas]
        return [self.of("sft"), self.of("moe_sft"), *merged]

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


def by_label(names: list[str]) -> dict[str, str]:
    """Sets of problems by their labels: names or files."""
    return {problem_label(name): name for name in names}


def template_file(name: str) -> dict[str, list[str]]:
    """The file of a template, as an input of a rule, if it is a file."""
    return {} if name in PROMPT_NAMES else {"template": [name]}
