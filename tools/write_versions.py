"""Accept edited code: write the versions of the steps' code, xft/store/versions.json.

    python -m tools.write_versions STEP...

The named steps, whose results the edits change, get the next version. So does a step whose default
of a key has changed: a recipe does not hold defaults. The results of all others are taken as
unchanged.
"""

import json
import sys

from xft.config.steps import STEPS
from xft.store.code import VERSIONS, Code


def contents(stated: dict, raised: list[str] = ()) -> dict:
    """The content of the file, from its present one. raised: steps that get the next version."""
    code = Code()
    steps = {}
    modules = {}
    for step, declared in STEPS.items():
        modules.update(code.hashes(step))
        defaults = {}
        for key, field in sorted(declared.recorded.items()):
            if not field.is_required():
                defaults[key] = field.get_default()
        before = stated["steps"].get(step, {"version": 1, "defaults": defaults})
        known = before["defaults"]
        changed = any(defaults[key] != known[key] for key in defaults.keys() & known.keys())
        version = before["version"]
        if changed or step in raised:
            version += 1
        steps[step] = {"version": version, "defaults": defaults}
    return {"steps": steps, "modules": dict(sorted(modules.items()))}


def changes(stated: dict, new: dict) -> list[str]:
    """The lines that whoever accepts a new content of the file must read."""
    code = Code()
    lines = []
    edited = set()
    for name in sorted(dict(stated["modules"].items() ^ new["modules"].items())):
        users = [step for step in STEPS if name in code.hashes(step)]
        edited.update(users)
        lines.append(f"{name} has changed. It belongs to: {_listed(users)}")
    versions = {step: known["version"] for step, known in stated["steps"].items()}
    raised = [step for step in STEPS if new["steps"][step]["version"] > versions.get(step, 0)]
    if raised:
        lines.append(f"They have a new version, so they run again: {_listed(raised)}")
    kept = [step for step in STEPS if step in edited and step not in raised]
    if kept:
        lines.append(
            f"Their results are taken as unchanged, and stay: {_listed(kept)}. For those whose "
            "results change: python -m tools.write_versions STEP..."
        )
    return lines or ["No code has changed."]


def _listed(steps: list[str]) -> str:
    if len(steps) == len(STEPS):
        return "all steps"
    return ", ".join(steps) or "no step any more"


def main(raised: list[str]) -> None:
    """Raises SystemExit if there is no such step."""
    unknown = [step for step in raised if step not in STEPS]
    if unknown:
        sys.exit(f"{unknown[0]} is no step. The steps: {', '.join(STEPS)}")
    stated = json.loads(VERSIONS.read_text())
    new = contents(stated, raised)
    VERSIONS.write_text(json.dumps(new, indent=1) + "\n")
    print("\n".join(changes(stated, new)))


if __name__ == "__main__":
    main(sys.argv[1:])
