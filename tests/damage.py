"""Changes files of models, even if they are read-only."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file


def rewrite(file: Path, content: bytes) -> None:
    """Replace the bytes of a file."""
    file.unlink()
    file.write_bytes(content)


def flip_a_bit(file: Path, position: int = -1) -> None:
    """Change a byte of a file."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    rewrite(file, content)


def change_json(file: Path, **changes) -> None:
    """Set keys of a JSON object."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_tensors(model: Path, change: Callable[[dict], dict]) -> Path:
    """Replace the tensors of a model by those that `change` makes of them, by name."""
    file = model / "model.safetensors"
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    return model
