"""Files of results: JSON with a format inside, a manifest beside. Equal runs write equal bytes."""

from dataclasses import dataclass
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.artifacts.manifest import as_json
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError


@dataclass(frozen=True)
class ResultFormat:
    """A kind of such files.

    kind: its name in manifests.
    step: the one that writes them.
    number: of the format's version.
    key: the content of such a file has it, that of other kinds does not.
    """

    kind: str
    step: str
    number: int
    key: str

    def write(self, path: Path, content: dict, **more) -> None:
        """Write a file whole or not at all, and then its manifest.

        more: parameters, inputs and beside, for `write_manifest`.
        """
        write_whole(path, as_json({"format": self.number} | content))
        write_manifest(path, self.kind, **more)

    def read(self, path: Path) -> dict:
        """The content of a file. Raises UserError if it is missing, broken, or of another kind."""
        content = read_json(path)
        if content.get("format") != self.number or self.key not in content:
            raise UserError(
                f"{path} is no result of step {self.step} (format {self.number}). Run the step "
                "again"
            )
        return content
