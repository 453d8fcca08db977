"""The contents of the files that configurations name, by their hashes."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from xft.artifacts.manifest import json_sha256
from xft.common.user_code import program_files
from xft.data.prompt_templates import read_template
from xft.data.row_files import CSV
from xft.hub.named_sets import NAMED_SETS, unpacked_sha256
from xft.hub.source import check_model
from xft.store.file_hashes import FileHashCache, content_hash


class FileContents:
    """The hashes of files that configurations name. file_hashes: their cache, between runs."""

    def __init__(self, file_hashes: FileHashCache | None = None):
        self.file_hashes = file_hashes or FileHashCache()
        self.template = read_template
        self.of_model = cache(self.of_model)

    def of_file(self, path: str) -> str:
        return self.file_hashes.of(Path(path), content_hash)

    def of_rows(self, path: str) -> str:
        """As `of_file`. The same content has other rows as CSV than as JSON Lines."""
        content = self.of_file(path)
        return json_sha256(["csv", content]) if CSV.search(path) else content

    def of_model(self, folder: str, is_tuned: bool = False) -> dict[str, str]:
        """The hash of each file of a base, or of a model that was tuned elsewhere, by name."""
        place = Path(folder)
        return self.of_files(place, check_model(place, is_base=not is_tuned))

    def of_program(self, file: str) -> dict[str, str]:
        """The hash of each file of a program of the user's, by name."""
        return self.of_files(Path(file).parent, program_files(Path(file)).values())

    def of_files(self, folder: Path, files: Iterable[Path]) -> dict[str, str]:
        """The hash of each of some files below a folder, by name."""
        return {file.relative_to(folder).as_posix(): self.of_file(str(file)) for file in files}

    def of_problems(self, name: str) -> str:
        """What stands for the content of a set of problems, named or a file."""
        if name in NAMED_SETS:
            return NAMED_SETS[name].identity
        return self.file_hashes.of(Path(name), unpacked_sha256)


class NoContents(FileContents):
    """Stands for contents that nobody reads: of files that may not be on this machine."""

    def __init__(self):
        super().__init__()
        self.of_file = self.template = lambda name: name
        self.of_model = lambda folder, is_tuned=False: {"": folder}
        self.of_program = lambda file: {Path(file).name: file}

    def of_problems(self, name: str) -> str:
        return super().of_problems(name) if name in NAMED_SETS else name
