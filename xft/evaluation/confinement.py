"""Limits a process before it runs model-written code: its system calls and its resources.

Seccomp filters (Linux, https://docs.kernel.org/userspace-api/seccomp_filter.html): `program_filter`
refuses all that runs in the sandbox what no program needs. `forbid_system_calls` leaves a function
in Python, and a comparison, only what Python and numpy need: to compute, read files and wait. So
the function starts no process or thread, writes no file, holds no memory outside its address space,
and reaches no other process, key or cached page of a file. Standard library only: the driver
imports this file in the sandbox, and `system_calls.json` lies beside it.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from functools import cache

OPEN_FILES = 64
# Of prctl.
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
# Answers of a filter.
ALLOW = 0x7FFF0000
FAIL_WITH = 0x00050000
# Codes of a filter's instructions.
LOAD_WORD = 0x20
AND = 0x54
JUMP_EQUAL = 0x15
JUMP_GREATER = 0x25
JUMP_BITS = 0x45
RETURN = 0x06
# Of struct seccomp_data.
NUMBER_OFFSET = 0
ARCHITECTURE_OFFSET = 4
ARGUMENTS_OFFSET = 16
X32_BIT = 0x40000000  # a second set of numbers, only on x86_64
# Calls that are answered as unknown (ENOSYS): clone3, and all that are newer than this number. The
# C library then uses an older call.
CLONE3 = 435
NEWEST = 440
# For each: its audit number, and its place among the numbers of a call.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
CALLS_FILE = os.path.join(os.path.dirname(__file__), "system_calls.json")  # noqa: PTH118, PTH120
# Calls with their numbers on x86_64 and on aarch64; null: the architecture lacks the call. REFUSED,
# for `program_filter`, is what no program of any language needs: the kernel's rarer parts, other
# processes, keys, namespaces, the network, and memory that no process shows.
with open(CALLS_FILE) as file:  # noqa: PTH123 (pathlib loads slowly)
    CALLS = json.load(file)
ALLOWED = CALLS["allowed"]
REFUSED = CALLS["refused"]
NAMESPACES = 0x7E020000  # the flags of clone
SHARED_ANONYMOUS = 0x21  # flags of mmap. Such memory can stay where no process shows it
ALL = 0xFFFFFFFF
SOCKET_KIND = 0xF  # the bits of a socket's type that are no flags
BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF and SO_RCVBUF, and the same beyond the system's limit
MMAP = ((9, 222), (3, SHARED_ANONYMOUS, (SHARED_ANONYMOUS,), True))
# Only AF_UNIX, as SOCK_STREAM or SOCK_SEQPACKET, where one socket holds what one other sent. A
# datagram socket also holds messages of many that are closed.
CONNECTED = (0, ALL, (1,), False), (1, SOCKET_KIND, (1, 5), False)
SOCKETPAIR = ((53, 199), *CONNECTED)
# Calls that are refused in part: their numbers, and then conditions. A condition has four parts:
# the position of an argument, the bits of it that are compared, with which values, and whether the
# call is refused for these values (True) or for all others (False).
BY_ARGUMENT = {
    "clone": ((56, 220), (0, NAMESPACES, (0,), False)),
    "fcntl": ((72, 25), (1, ALL, (1031,), True)),  # widen a pipe
    "mmap": MMAP,
    "setsockopt": ((54, 208), (2, ALL, BUFFERS, True)),
    "socket": ((41, 198), *CONNECTED),
    "socketpair": SOCKETPAIR,
}
# The same for `forbid_system_calls`, where all calls are refused that are neither here nor allowed.
IN_PART = {
    "ioctl": ((16, 29), (1, ALL, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451), False)),  # kinds
    "fcntl": ((72, 25), (1, ALL, (0, 1, 2, 3, 4, 1030), False)),  # copies, flags of descriptors
    "madvise": ((28, 233), (2, ALL, (4, 8, 14, 15), False)),  # release memory, use large pages
    "mmap": MMAP,
    "prlimit64": ((302, 261), (0, ALL, (0,), False)),  # the process itself
    "socketpair": SOCKETPAIR,
}


def end_with_parent() -> None:
    """Have this process killed when its parent ends for any reason. Only on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_resources(memory: int, files: int = OPEN_FILES) -> None:
    """Limit this process and its children: to bytes of address space (not on macOS), and to open
    files. They write no core dump.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def forbid_system_calls() -> None:
    """Install the filter for the rest of the process. Refused calls fail with EPERM.

    Raises OSError if the kernel accepts no filter. Linux on one of `ARCHITECTURES`.
    """
    instructions = _filter(ALLOWED, PERMIT, IN_PART, REFUSE)
    program = ctypes.create_string_buffer(instructions)
    header = struct.pack("@HP", len(instructions) // len(REFUSE), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def load_number(architecture: int) -> list[bytes]:
    """The start of a filter, which ends calls of other architectures and unknown ones."""
    return [
        instruction(LOAD_WORD, ARCHITECTURE_OFFSET),
        *(unless(JUMP_EQUAL, architecture, skip_if=True), REFUSE),
        instruction(LOAD_WORD, NUMBER_OFFSET),
        *(unless(JUMP_BITS, X32_BIT), REFUSE),
        *(unless(JUMP_GREATER, NEWEST), UNKNOWN),
        *(unless(JUMP_EQUAL, CLONE3), UNKNOWN),
    ]


@cache
def program_filter() -> bytes:
    """The filter as bubblewrap takes it. Refused calls fail with EPERM, newer ones with ENOSYS."""
    return _filter(REFUSED, REFUSE, BY_ARGUMENT, PERMIT)


def _filter(table: dict, answer: bytes, by_argument: dict[str, tuple], otherwise: bytes) -> bytes:
    """The instructions of a filter, each a struct sock_filter.

    table: ALLOWED or REFUSED.
    answer: the instruction that answers its calls.
    by_argument: calls that are refused in part, as in `BY_ARGUMENT`.
    otherwise: the instruction that answers all other calls.
    """
    architecture, column = ARCHITECTURES[os.uname().machine]
    parts = load_number(architecture)
    for numbers in table.values():
        if numbers[column] is not None:
            parts += [unless(JUMP_EQUAL, numbers[column]), answer]
    for numbers, *conditions in by_argument.values():
        checks = []
        for condition in conditions:
            checks += _check(*condition)
        to_next_call = len(checks) + 1
        parts.append(instruction(JUMP_EQUAL, numbers[column], if_false=to_next_call))
        parts += [*checks, PERMIT]
    return b"".join([*parts, otherwise])


def _check(position: int, bits: int, values: tuple[int, ...], is_refused: bool) -> list[bytes]:
    """The instructions that refuse a call by one argument, and otherwise go on behind them."""
    parts = [instruction(LOAD_WORD, ARGUMENTS_OFFSET + 8 * position), instruction(AND, bits)]
    if is_refused:
        for value in values:
            parts += [unless(JUMP_EQUAL, value), REFUSE]
        return parts
    behind_refusal = len(values)
    for place, value in enumerate(values):
        parts.append(instruction(JUMP_EQUAL, value, if_true=behind_refusal - place))
    return [*parts, REFUSE]


def unless(test: int, constant: int, skip_if: bool = False) -> bytes:
    """Skip the next instruction unless the test holds, or (`skip_if`) if it does."""
    return instruction(test, constant, if_true=int(skip_if), if_false=int(not skip_if))


def instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """A struct sock_filter. if_true, if_false: how many instructions a jump skips."""
    return struct.pack("=HBBI", code, if_true, if_false, constant)


PERMIT = instruction(RETURN, ALLOW)
REFUSE = instruction(RETURN, FAIL_WITH | errno.EPERM)
UNKNOWN = instruction(RETURN, FAIL_WITH | errno.ENOSYS)
