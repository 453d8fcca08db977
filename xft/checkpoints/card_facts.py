"""What the front matter of a model's card, README.md, says."""

import re
from pathlib import Path


def fact_of_card(folder: Path | str, key: str) -> str | None:
    """The value of a key, such as license, in a model folder; None if no card states it."""
    file = Path(folder) / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    stated = re.search(rf"^{key}: *([\w./-]+)$", front[1], re.MULTILINE) if front else None
    return stated and stated[1]
