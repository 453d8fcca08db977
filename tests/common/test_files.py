"""Files that a user or a hub names: what hangs or has no end is refused, and bounds hold."""

import gzip

import pytest

from xft.common.errors import UserError, counted
from xft.common.files import open_regular, read_bytes
from xft.common.progress import say


def test_a_regular_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == b"content"
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"


def test_a_file_unpacks_to_a_bounded_size(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(2**20)))
    assert read_bytes(path, 2**20) == bytes(2**20)
    with pytest.raises(UserError, match="holds more than 1 MiB"):
        read_bytes(path, 2**20 - 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="is not a whole gzip file"):
        read_bytes(path)


def test_what_a_file_says_does_not_reach_the_terminal_as_commands(capsys):
    hostile = "\x1b[2J\x9b2J\r\u202e gone\ttab\nline"
    shown = "\\x1b[2J\\x9b2J\\r\\u202e gone\ttab\nline"
    say(hostile)
    assert capsys.readouterr().err == f"{shown}\n"
    assert str(UserError(hostile)) == shown


def test_a_noun_agrees_with_its_number():
    texts = [counted(number, "process", "es") for number in (0, 1, 1200)]
    assert texts == ["0 processes", "1 process", "1,200 processes"]
