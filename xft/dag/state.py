"""Compares existing artifacts with the wanted ones by their manifests."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase

from xft.artifacts.artifact import TOKENIZER_PATTERNS, clear_up_after_killed
from xft.artifacts.files import write_whole
from xft.artifacts.manifest import Manifest, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.dag.wanted import Wanted

LONGEST_VALUE = 60
MOST_FILES = 5  # named in a difference


class State(Enum):
    """fits: as wanted. outdated: made in another way, or unknown how. absent: to be made."""

    FITS = "fits"
    OUTDATED = "outdated"
    ABSENT = "absent"


@dataclass(frozen=True)
class Verdict:
    """The state of a wanted artifact, and how it differs from what is wanted.

    differences: one phrase each. only_code: whether only the code of the step differs.
    """

    state: State
    differences: tuple[str, ...] = ()
    manifest: Manifest | None = None
    only_code: bool = False


ABSENT = Verdict(State.ABSENT)


class Inspector:
    """Compares each wanted artifact once with the existing one.

    forced: whether an artifact must be made again in any case. clears_up: whether to finish or
    remove what killed processes left. Without it, nothing on the disk changes.
    """

    def __init__(
        self, forced: Callable[[Wanted], bool] = lambda wanted: False, clears_up: bool = True
    ):
        self.forced = forced
        self.clears_up = clears_up
        self._verdicts: dict[Wanted, Verdict] = {}

    def inspect(self, wanted: Wanted) -> Verdict:
        """The verdict on an artifact. Its sources are inspected first."""
        for part in wanted.chain():
            if part not in self._verdicts:
                self._verdicts[part] = self._compare(part)
        return self._verdicts[wanted]

    def accept_code(self, wanted: Wanted) -> None:
        """Record the current code in an artifact's manifest, if nothing else differs."""
        verdict = self.inspect(wanted)
        if verdict.only_code:
            manifest = replace(verdict.manifest, recipe=wanted.recipe)
            write_whole(manifest_path(wanted.place), manifest.to_json())
            self._verdicts[wanted] = Verdict(State.FITS, manifest=manifest)

    def _compare(self, wanted: Wanted) -> Verdict:
        if self.clears_up:
            clear_up_after_killed(wanted.place)
        file = manifest_path(wanted.place)
        if not file.exists():
            is_there = wanted.is_file and wanted.place.exists()
            return Verdict(State.OUTDATED, ("it has no manifest",)) if is_there else ABSENT
        try:
            manifest = read_manifest(file)
        except UserError as error:
            return Verdict(State.OUTDATED, (str(error),))
        if self.forced(wanted):
            return Verdict(State.OUTDATED, ("it was requested",), manifest)
        recipe = manifest.recipe
        if recipe is None or recipe.step != wanted.step:
            return Verdict(State.OUTDATED, ("its manifest does not say how it was made",), manifest)
        others = [
            *_changed_options(recipe.options, wanted.options),
            *_changed_files(recipe.inputs, wanted),
            *self._changed_sources(manifest, wanted),
        ]
        code = _changed_code(recipe.code, wanted.recipe.code)
        if not others and not code:
            return Verdict(State.FITS, manifest=manifest)
        return Verdict(State.OUTDATED, (*others, *code), manifest, only_code=not others)

    def _changed_sources(self, manifest: Manifest, wanted: Wanted) -> list[str]:
        then, changes = manifest.recipe.inputs, []
        for name, source in wanted.sources.items():
            verdict = self._verdicts[source]
            if name not in then:
                changes.append(f"{source.place} is new")
            elif verdict.state is State.OUTDATED:
                changes.append(f"{source.place} is made again")
            elif verdict.state is State.FITS:
                if not _is_made_from(manifest, name, verdict.manifest):
                    changes.append(f"it was made from another {source.place} than the current one")
            elif then[name] != source.recipe.digest:
                changes.append(f"it was made from another {source.place}, which is gone")
        if gone := then.keys() - wanted.recipe.inputs.keys():
            changes.append(f"it was made with {', '.join(sorted(gone))}, which is not wanted now")
        return changes


def _is_made_from(manifest: Manifest, name: str, source: Manifest) -> bool:
    """Whether a manifest's input of this name is the artifact of another manifest."""
    if manifest.kind == "tokens" and name == "base":
        return manifest.parameters["tokenizer"] == _tokenizer_files(source)
    if manifest.kind == "tokens" and name == "data":
        return manifest.inputs["data"] in [entry["sha256"] for entry in source.files.values()]
    if manifest.kind == "summary":
        return manifest.inputs.get(name) == source.files[name.rpartition("/")[2]]["sha256"]
    return manifest.inputs.get(name) == source.id


def _tokenizer_files(manifest: Manifest) -> dict[str, str]:
    """The hashes of a model's tokenizer files, by name."""
    return {
        name: entry["sha256"]
        for name, entry in manifest.files.items()
        if any(fnmatchcase(name, pattern) for pattern in TOKENIZER_PATTERNS)
    }


def _changed_options(then: dict, now: dict) -> list[str]:
    return [
        f"{key}: {_shown(then.get(key))} is now {_shown(now.get(key))}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]


def _changed_files(then: dict[str, str], wanted: Wanted) -> list[str]:
    changed = [name for name, digest in wanted.files.items() if then.get(name) != digest]
    return [f"the content of {name} has changed" for name in changed]


def _changed_code(then: dict[str, str], now: dict[str, str]) -> list[str]:
    changed = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    more = f" and {len(changed) - MOST_FILES} more files" if len(changed) > MOST_FILES else ""
    named = ", ".join(changed[:MOST_FILES])
    return [f"the code of {named}{more} has changed"] if changed else []


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
