"""Calls a function on inputs, in the sandbox, and tells what each call returned.

    python -P driver.py REQUEST

REQUEST is a file of two lines of JSON: {"code", "entry_point", "memory", "packages", "confined"},
and a list of sets of inputs. Each set is a list of argument lists (`plain_data.encode`) and gets
its own process. Lines go to standard error: "ready", then as JSON the returned value of each call
up to the first exception, and {"set": exit status} after each set. This process does not know the
expected values, nor which calls were right, because the program can manipulate the process.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120 (pathlib loads slowly)
from confinement import end_with_parent, forbid_system_calls, limit_resources
from plain_data import decode, dumps, encode, is_large, value_hash

sys.path.pop(0)

MAX_VALUE_BYTES = 2**16  # of a larger value only its hash is sent


def main() -> None:
    end_with_parent()
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123
        program = json.loads(file.readline())
        sets = json.loads(file.readline())
    sys.path += program["packages"]
    limit_resources(program["memory"])
    channel = os.dup(2)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    tell(channel, "ready")
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
    """{"value": encoded} as JSON, or {"digest": ...} for a large value."""
    if not is_large(value, MAX_VALUE_BYTES // 2):
        message = dumps({"value": encode(value)})
        if len(message) <= MAX_VALUE_BYTES:
            return message
    return dumps({"digest": value_hash(value).sha256})


def tell(channel: int, message: str) -> None:
    """Write a line, also where the kernel takes only a part of it at a time."""
    line = memoryview((message + "\n").encode())
    while line:
        line = line[os.write(channel, line) :]


if __name__ == "__main__":
    main()
