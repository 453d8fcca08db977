"""A seccomp filter: this process and its threads can start no process, nor reach into another.

The number of processes cannot be limited otherwise where the host's user is root, whom the kernel
exempts from RLIMIT_NPROC. Linux, https://docs.kernel.org/userspace-api/seccomp_filter.html.
Standard library only: the runner imports this file in the sandbox.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_EQUAL, JUMP_BITS, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER_OFFSET, ARCHITECTURE_OFFSET, FIRST_ARGUMENT_OFFSET = 0, 4, 16  # of struct seccomp_data
CLONE_THREAD = 0x00010000
X32_BIT = 0x40000000  # x86_64 alone: a second set of numbers
CLONE3 = 435
# Its audit number, and the numbers of clone, then of fork, vfork, ptrace and process_vm_writev.
ARCHITECTURES = {
    "x86_64": (0xC000003E, 56, (57, 58, 101, 311)),
    "aarch64": (0xC00000B7, 220, (117, 271)),
}


def end_with_parent() -> None:
    """Have this process killed when its parent ends, whatever ends that one. Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_processes() -> bool:
    """Install the filter. False where this is not Linux on one of `ARCHITECTURES`.

    Starting a process then fails with EPERM; threads start as ever. Raises OSError where the kernel
    takes no filter.
    """
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return False
    instructions = _filter(*ARCHITECTURES[platform.machine()])
    program = ctypes.create_string_buffer(b"".join(instructions))
    header = struct.pack("@HP", len(instructions), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    return True


def _filter(architecture: int, clone: int, forbidden: tuple[int, ...]) -> list[bytes]:
    """Instructions of struct sock_filter: code, jumps if true and if false, constant."""

    def instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, constant)

    def forbid(test: bytes, number: int = errno.EPERM) -> list[bytes]:
        return [test, instruction(RETURN, FAIL_WITH | number)]

    def unless(code: int, constant: int) -> bytes:
        """Skip the next instruction unless the test holds."""
        return instruction(code, constant, if_false=1)

    return [
        instruction(LOAD_WORD, ARCHITECTURE_OFFSET),
        *forbid(instruction(JUMP_EQUAL, architecture, if_true=1)),
        instruction(LOAD_WORD, NUMBER_OFFSET),
        *forbid(unless(JUMP_BITS, X32_BIT)),
        *forbid(unless(JUMP_EQUAL, CLONE3), errno.ENOSYS),  # the C library then takes clone
        *(part for number in forbidden for part in forbid(unless(JUMP_EQUAL, number))),
        instruction(JUMP_EQUAL, clone, if_true=1),
        instruction(RETURN, ALLOW),
        instruction(LOAD_WORD, FIRST_ARGUMENT_OFFSET),
        *forbid(instruction(JUMP_BITS, CLONE_THREAD, if_true=1)),
        instruction(RETURN, ALLOW),
    ]
