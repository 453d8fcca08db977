"""Files that a user or a hub names: what hangs or has no end is refused, and bounds hold."""

import gzip
import os
import socket
import tempfile
from pathlib import Path

import pytest

from xft.common.errors import UserError
from xft.common.files import open_regular, read_bytes
from xft.common.progress import say


def test_a_regular_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == b"content"
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "loop", "dangling", "none"])
def test_anything_else_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with (
            tempfile.TemporaryDirectory(dir="/tmp") as short,
            socket.socket(socket.AF_UNIX) as held,
        ):
            held.bind(f"{short}/s")
            with pytest.raises(UserError, match="is a socket, not a file"):
                open_regular(Path(short, "s"))
        return
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    fault = {
        "pipe": "is a named pipe, not a file",
        "device": "is a device, not a file",
        "folder": "is a folder, not a file",
        "loop": "is a link to itself, not a file",
        "dangling": "links to nowhere, which is missing",
        "none": "is missing",
    }[kind]
    with pytest.raises(UserError, match=f"{path} {fault}"):
        open_regular(path)


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
