"""Write the hashes of HumanEval+ and MBPP+ that training rows are compared with.

python -m tools.write_fingerprints HumanEvalPlus.jsonl.gz MbppPlus.jsonl.gz
"""

import json
import sys
from base64 import b64encode

from xft.data.unwanted_rows import SHIPPED, Fingerprint
from xft.evaluation.forms import load_problems
from xft.evaluation.references import fingerprints
from xft.hub.named_sets import RELEASED


def content(files: list[str]) -> str:
    """The whole JSON. files: the pinned releases, in the order of RELEASED."""
    sets = []
    for chosen, file in zip(RELEASED.values(), files, strict=True):
        problems = load_problems(file)
        if problems.sha256 != chosen.sha256:
            raise SystemExit(f"{file} is not {chosen}")
        lines = ",\n".join(_line(fingerprint) for fingerprint in fingerprints(problems))
        sets.append(f'"{chosen.name}": [\n{lines}\n]')
    return "{" + ",\n".join(sets) + "}\n"


def _line(fingerprint: Fingerprint) -> str:
    """The values of a fingerprint, in their order."""
    values = dict(vars(fingerprint))
    values["ngrams"] = b64encode(fingerprint.ngrams.astype("<u8").tobytes()).decode()
    return json.dumps(list(values.values()))


if __name__ == "__main__":
    SHIPPED.write_text(content(sys.argv[1:]))
