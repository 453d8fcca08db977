"""Write the versions of the steps' code: xft/store/versions.json.

A step whose default of a key has changed gets the next version: a recipe does not hold defaults. To
give a step a new version because its results have changed, name it: python -m tools.write_versions
STEP...
"""

import json
import sys

from xft.config.steps import STEPS, default_of
from xft.store.code import VERSIONS, Code


def contents(stated: dict, raised: list[str] = ()) -> dict:
    """The content of the file, from its present one. raised: steps that get the next version."""
    code, steps, modules = Code(), {}, {}
    for step in STEPS:
        modules |= code.hashes(step)
        defaults = _defaults(step)
        before = stated["steps"].get(step, {"version": 1, "defaults": defaults})
        known = before["defaults"]
        changed = any(defaults[key] != known[key] for key in defaults.keys() & known.keys())
        version = before["version"] + (changed or step in raised)
        steps[step] = {"version": version, "defaults": defaults}
    return {"steps": steps, "modules": dict(sorted(modules.items()))}


def _defaults(step: str) -> dict[str, object]:
    """The defaults of the keys that a step reads."""
    found = {key: default_of(key) for key in sorted(STEPS[step].recorded.values())}
    return {key: value for key, value in found.items() if type(value) is not object}


if __name__ == "__main__":
    stated = json.loads(VERSIONS.read_text()) if VERSIONS.exists() else {"steps": {}}
    VERSIONS.write_text(json.dumps(contents(stated, sys.argv[1:]), indent=1) + "\n")
