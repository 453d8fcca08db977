"""Lock envs/*.yaml: write the exact packages of Snakemake's environments into these files.

    snakemake --sdm conda --conda-create-envs-only
    python -m tools.lock_envs

Packages of conda-forge get a version and a build. Packages of pip get a version and the SHA-256 of
the file for this platform, so pip installs no other file. tools/write_envs.py undoes the lock.
"""

import json
import subprocess
import sys
from pathlib import Path

from tools.write_envs import ROOT, env_file


def run(*command: str, stdin: str = "") -> str:
    """The output of a program. If it fails, this program ends with its message."""
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{done.stderr}")
    return done.stdout


def environments() -> dict[Path, Path]:
    """The env files that the rules use, and the folders of their environments."""
    table = run("snakemake", "--sdm", "conda", "--list-conda-envs").splitlines()
    rows = [line.split("\t") for line in table if line.startswith("envs/")]
    return {ROOT / file: ROOT / folder for file, *_, folder in rows}


def locked(folder: Path) -> str:
    """The text of an env file that makes this environment again. pip looks up the hashes."""
    packages = json.loads(run("conda", "list", "--json", "--prefix", str(folder)))
    conda = [p for p in packages if p["channel"] != "pypi"]
    pip = [f"{p['name']}=={p['version']}" for p in packages if p["channel"] == "pypi"]
    look_up = "-m pip install -q --dry-run --ignore-installed --no-deps --report - -r /dev/stdin"
    python = str(folder / "bin" / "python")
    report = json.loads(run(python, *look_up.split(), stdin="\n".join(pip)))
    return env_file(
        "tools/lock_envs.py",
        ["{name}={version}={build_string}".format(**package) for package in conda],
        map(_with_hash, report["install"]),
    )


def _with_hash(item: dict) -> str:
    """A requirement that allows only this file of pip's report."""
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={version} --hash=sha256:{sha256}"


def main() -> None:
    made = environments()
    missing = [str(folder) for folder in made.values() if not folder.is_dir()]
    if missing:
        sys.exit("make the environments first: snakemake --sdm conda --conda-create-envs-only")
    for file, folder in made.items():
        file.write_text(locked(folder))
        print(f"locked {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
