"""Records of Every Eval Ever (github.com/evaleval/every_eval_ever), which pools evaluations."""

import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from xft.artifacts.files import write_whole
from xft.artifacts.manifest import as_json
from xft.evaluation.judging import PASSED
from xft.evaluation.result import tests_of
from xft.reporting.exports.evaluations import Evaluation, write_lines

SCHEMA = "0.3.0"
MAKER = "xft"
# Its names of settings, and this project's.
SETTINGS = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_new_tokens"}
SETTINGS |= {"prompt_template": "prompt"}
METRIC = {"metric_id": "pass_at_k", "metric_unit": "proportion", "lower_is_better": False}
METRIC |= {"score_type": "continuous", "min_score": 0.0, "max_score": 1.0}
SOURCE = {"source_type": "evaluation_run", "source_organization_name": MAKER}
SOURCE |= {"evaluator_relationship": "first_party"}
DEPLOYED = {"deployment_type": "self_deployed", "model_availability": "unknown"}


def export(evaluations: Sequence[Evaluation], out: Path) -> Iterator[Path]:
    """Write `data/DATASET/xft/MODEL/UUID.json`, and UUID_samples.jsonl beside it."""
    for evaluation in evaluations:
        model, versions = evaluation.model.replace("/", "-"), evaluation.content["versions"]
        engine = evaluation.content["settings"].get("backend", "transformers")
        now, names = f"{time.time():.3f}", {"name": model, "id": f"{MAKER}/{model}"}
        identity = f"{evaluation.dataset}/{names['id']}/{now}"
        file = Path("data", evaluation.dataset, names["id"], f"{uuid.uuid4()}.json")
        samples = file.with_name(f"{file.stem}_samples.jsonl")
        write_lines(out / samples, _samples(evaluation, identity, names["id"]))
        record = {
            "schema_version": SCHEMA,
            "evaluation_id": identity,
            "retrieved_timestamp": now,
            "source_metadata": SOURCE,
            "eval_library": {"name": MAKER, "version": "unknown", "additional_details": versions},
            "model_info": names
            | {"inference_engine": {"name": engine, "version": versions.get(engine, "unknown")}}
            | {"additional_details": DEPLOYED},
            "evaluation_results": list(_results(evaluation, identity)),
            "detailed_evaluation_results": {"format": "jsonl", "file_path": str(samples)},
        }
        write_whole(out / file, as_json(record))
        yield out / file


def _results(evaluation: Evaluation, identity: str) -> Iterator[dict]:
    dataset, settings = evaluation.content["dataset"], evaluation.content["settings"]
    known = {name: settings[key] for name, key in SETTINGS.items() if settings.get(key) is not None}
    for measure, tests, score, ends in evaluation.scores():
        uncertainty = {"num_samples": dataset["problems"]}
        if ends:
            bounds = {"lower": float(ends[0]), "upper": float(ends[1]), "confidence_level": 0.95}
            uncertainty["confidence_interval"] = bounds
        yield {
            "evaluation_result_id": f"{identity}/{measure}/{tests}",
            "evaluation_name": evaluation.named(evaluation.dataset, tests),
            "source_data": {"source_type": "other", "dataset_name": evaluation.dataset}
            | {"additional_details": _as_texts(dataset)},
            "metric_config": METRIC | {"metric_name": measure},
            "score_details": {"score": score, "uncertainty": uncertainty},
            "generation_config": {"generation_args": known}
            | {"additional_details": _as_texts(settings)},
        }


def _samples(evaluation: Evaluation, identity: str, model: str) -> Iterator[dict]:
    """A row for each sample and set of tests."""
    written = {(row["task_id"], row["number"]): row for row in evaluation.samples}
    for row in evaluation.content["problems"]:
        sample = written[row["task_id"], row["sample"]]
        code = {"extracted_value": sample["solution"], "extraction_method": "custom"}
        code |= {"turn_idx": 0, "source": "output.raw", "is_terminal": True}
        for tests in tests_of(evaluation.content):
            passed = row[tests] == PASSED
            yield {
                "schema_version": f"instance_level_eval_{SCHEMA}",
                "evaluation_id": identity,
                "evaluation_result_id": f"{identity}/pass@1/{tests}",
                "evaluation_name": evaluation.named(evaluation.dataset, tests),
                "model_id": model,
                "sample_id": row["task_id"],
                "interaction_type": "single_turn",
                "input": {"raw": evaluation.prompts.get(row["task_id"], ""), "reference": []},
                "output": {"raw": [sample["completion"]]},
                "answer_attribution": [code],
                "evaluation": {"score": float(passed), "is_correct": passed},
                "metadata": {"status": row[tests], "sample": str(row["sample"])},
            }


def _as_texts(values: dict) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}
