"""Runs a program on inputs, in a sandbox, and tells what each call returned.

    python -I runner.py < REQUEST

REQUEST is two lines of JSON: {"code", "entry_point", "memory", "packages", "confined"}, and a list
of sets of inputs, each a list of argument lists (`plain_data.encode`). Each set gets a process of
its own. Lines of JSON go to standard output: {"ready":true}, then for each call what it returned,
up to the first that raises, and {"set": exit status} after each set. What is expected of the calls
is not known here, nor whether they were right: the program may do to this process what it likes.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from confinement import end_with_parent, forbid_system_calls, limit_memory, withdraw
from plain_data import decode, digest, dumps, encode, is_large

sys.path.pop(0)

MAX_VALUE_BYTES = 2**16  # of a larger value only the digest is told


def main() -> None:
    end_with_parent()
    program = json.loads(sys.stdin.readline())
    sets = json.loads(sys.stdin.readline())
    sys.path += program["packages"]
    channel = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    if program["confined"]:
        withdraw()
    limit_memory(program["memory"])
    tell(channel, dumps({"ready": True}))
    for inputs in sets:
        child = os.fork()
        if child == 0:
            end_with_parent()
            if program["confined"]:
                forbid_system_calls()
            run(program, inputs, channel)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        tell(channel, dumps({"set": os.waitstatus_to_exitcode(status)}))


def run(program: dict, inputs: list, channel: int) -> None:
    """Call the program's entry point on each input, up to the first exception."""
    names = {}
    try:
        exec(program["code"], names)
        function = names[program["entry_point"]]
        for arguments in inputs:
            tell(channel, described(function(*decode(arguments))))
    except BaseException as error:
        message = {"raised": type(error).__name__, "errno": getattr(error, "errno", None)}
        tell(channel, dumps(message))


def described(value) -> str:
    """{"value": encoded}, or {"digest": ...} of a value that is large, as JSON."""
    if not is_large(value, MAX_VALUE_BYTES // 2):
        message = dumps({"value": encode(value)})
        if len(message) <= MAX_VALUE_BYTES:
            return message
    return dumps({"digest": digest(value).sha256})


def tell(channel: int, message: str) -> None:
    line = memoryview((message + "\n").encode())
    while line:
        line = line[os.write(channel, line) :]


if __name__ == "__main__":
    main()
