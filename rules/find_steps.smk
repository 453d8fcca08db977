# Where the steps are: the Python packages workflow_scripts and xft.

import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "xft-pipeline"


def installed_steps(version, source):
    """A folder with the installed steps alone.

    It can stand in the Python path of every environment. The folder of all installed packages
    cannot: its other packages would hide those of a conda environment.

    version: of the rules. source: their folder in a repository.
    """
    versions = [
        installed.version for installed in metadata.distributions(name=DISTRIBUTION)
    ]
    present = versions[0] if versions else "none"
    if present != version:
        repository = "<repository>@<tag>"
        if hasattr(source, "repo"):  # from github() or gitlab()
            repository = f"https://{source.host}/{source.repo}@{source.ref}"
        sys.exit(
            f"the rules come from a repository, and need their steps: {DISTRIBUTION} {version} in "
            f"the environment of snakemake, which has {present}. Run there: "
            f'pip install "{DISTRIBUTION}[workflow] @ git+{repository}"'
        )
    folder = Path(".snakemake/xft-steps").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("workflow_scripts", "xft"):
        package = Path(find_spec(name).origin).parent
        link = folder / name
        if not link.exists() or not link.samefile(package):
            link.unlink(missing_ok=True)
            link.symlink_to(package)
    return folder


# workflow.basedir is another folder if these rules run as a module.
SOURCE = workflow.current_basedir
ROOT = Path(SOURCE.get_path_or_uri(secret_free=True)).parent
if ROOT.is_dir():
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
else:
    project = Path(workflow.source_path("../pyproject.toml")).read_text()
    ROOT = installed_steps(tomllib.loads(project)["project"]["version"], SOURCE)
