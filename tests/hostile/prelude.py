"""Goes in front of each attack: modules, a right solution, and a way to make any system call."""

import ctypes
import mmap
import os
import socket
import sys
import time

_NUMBERS = {  # on x86_64 and on aarch64
    "mincore": (27, 232),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "mount": (165, 40),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
}


def call(name, *arguments):
    """Make a system call by its name. Raises OSError if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = _NUMBERS[name][os.uname().machine == "aarch64"]
    result = libc.syscall(number, *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def add(a, b):
    return a + b
