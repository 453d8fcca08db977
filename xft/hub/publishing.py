"""Publishes a dense artifact as a model repository on the hub."""

import glob
from pathlib import Path

from xft.artifacts.artifact import Artifact, open_artifact
from xft.artifacts.manifest import SAFETENSORS, short
from xft.checkpoints.reader import INDEX_FILE
from xft.common.errors import UserError
from xft.config.models import MIXTURES, MODEL_STEPS, UNTUNED
from xft.hub.repository import hub_errors
from xft.hub.source import HUB_ID

CARD = "README.md"  # each step that makes one of KINDS writes it
NEEDS_TOKEN = "An upload needs a token that may write: set HF_TOKEN, or run `hf auth login`"
# Made by this workflow, and plain transformers can load them.
KINDS = sorted({*MODEL_STEPS} - {*UNTUNED, *MIXTURES})


def open_publishable(model: Path, repository: str) -> Artifact:
    """The artifact to upload, after a check of its kind and of the hashes of all its files.

    Raises UserError if it cannot be published.
    """
    if not HUB_ID.fullmatch(repository):
        raise UserError(f"--to {repository}: a repository on the hub is named organisation/name")
    artifact = open_artifact(model, *KINDS, full=True)
    if artifact.known_manifest is None:
        raise UserError(f"{model} has no manifest: nothing says what it is. Publish an artifact")
    return artifact


def publish(artifact: Artifact, repository: str, private: bool) -> tuple[str, list[str]]:
    """Upload all files in one commit. Create the repository if it is missing.

    Returns the address of the commit, and the names of other weights in the repository. Raises
    UserError if the upload fails, or if the hub then lists other content.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api, files = HfApi(), artifact.manifest.files
    with hub_errors(f"{artifact.path} could not be uploaded to {repository}", NEEDS_TOKEN):
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise UserError(f"{repository} is there already, and public: nothing was uploaded")
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=artifact.path,
            allow_patterns=[glob.escape(name) for name in files],
            commit_message=f"{artifact.manifest.kind} {short(artifact.id)}",
        )
        tree = list(api.list_repo_tree(repository, recursive=True, revision=commit.oid))
    # Only large files, as weights are, have a SHA-256 there.
    hashes = {
        file.path: file.lfs and file.lfs.sha256 for file in tree if isinstance(file, RepoFile)
    }
    wrong = [
        name for name, entry in files.items() if hashes.get(name, "") not in (None, entry["sha256"])
    ]
    if wrong:
        raise UserError(f"{commit.commit_url} holds other content in {', '.join(wrong)}")
    weights = {name for name in hashes if name.endswith(SAFETENSORS) or name == INDEX_FILE}
    return commit.commit_url, sorted(weights - files.keys())
