"""Limits a process before it runs model-written code: its system calls and its resources.

Seccomp filters (Linux, https://docs.kernel.org/userspace-api/seccomp_filter.html): `program_filter`
refuses all that runs in the sandbox what no program needs. `forbid_system_calls` leaves a function
in Python, and a comparison, only what Python and numpy need: to compute, read files and wait. So
the function starts no process or thread, writes no file, holds no memory outside its address space,
and reaches no other process, key or cached page of a file. Standard library only: the driver
imports this file in the sandbox.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from functools import cache

OPEN_FILES = 64
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
LOAD_WORD, AND, JUMP_EQUAL, JUMP_GREATER, JUMP_BITS, RETURN = 0x20, 0x54, 0x15, 0x25, 0x45, 0x06
NUMBER_OFFSET, ARCHITECTURE_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16  # of struct seccomp_data
X32_BIT = 0x40000000  # a second set of numbers, only on x86_64
# "Unknown" calls (ENOSYS): the C library then uses an older call.
CLONE3, NEWEST = 435, 440
# For each: its audit number, and its column in the tables below.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Names, with their numbers on x86_64 and on aarch64. "-": the architecture lacks the call.
ALLOWED = """
read 0 63, readv 19 65, pread64 17 67, preadv 295 69, write 1 64, writev 20 66, lseek 8 62,
open 2 -, openat 257 56, close 3 57, close_range 436 436, stat 4 -, fstat 5 80, lstat 6 -,
newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, access 21 -, faccessat 269 48,
faccessat2 439 439, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, readlink 89 -,
readlinkat 267 78, umask 95 166,

dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, eventfd2 290 19, sendto 44 206,
recvfrom 45 207, shutdown 48 210, select 23 -, pselect6 270 72, poll 7 -, ppoll 271 73,
epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22,

brk 12 214, munmap 11 215, mremap 25 216, mprotect 10 226, futex 202 98,
set_robust_list 273 99, rseq 334 293, sched_yield 24 124, sched_getaffinity 204 123,
getcpu 309 168,

rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, pause 34 -, tgkill 234 131,
alarm 37 -, getitimer 36 102, setitimer 38 103, nanosleep 35 101, clock_nanosleep 230 115,
restart_syscall 219 128, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
time 201 -, times 100 153,

getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getresuid 118 148,
getgid 104 176, getegid 108 177, getresgid 120 150, getgroups 115 158, getpgid 121 155,
getpgrp 111 -, getsid 124 156, getrlimit 97 163, getrusage 98 165, getpriority 140 141,
uname 63 160, sysinfo 99 179, getrandom 318 278, wait4 61 260, waitid 247 95, exit 60 93,
exit_group 231 94
"""
# What no program of any language needs, for `program_filter`: the kernel's rarer parts, other
# processes, keys, namespaces, the network, and memory that no process shows.
REFUSED = """
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440,
kcmp 312 272, pidfd_getfd 438 438, mincore 27 232, move_pages 279 239, migrate_pages 256 238,
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268,
open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431, fsmount 432 432,
fspick 433 433, mknod 133 -, mknodat 259 33, name_to_handle_at 303 264,
open_by_handle_at 304 265, fanotify_init 300 262, quotactl 179 60, swapon 167 224, swapoff 168 225,
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425,
io_uring_enter 426 426, io_uring_register 427 427, keyctl 250 219, add_key 248 217,
request_key 249 218, init_module 175 105, finit_module 313 273, delete_module 176 106,
kexec_load 246 104, kexec_file_load 320 294, reboot 169 142, acct 163 89, syslog 103 116,
sethostname 170 161, setdomainname 171 162, iopl 172 -, ioperm 173 -, modify_ldt 154 -,
settimeofday 164 170, clock_settime 227 112, clock_adjtime 305 266, adjtimex 159 171,
shmget 29 194, semget 64 190, msgget 68 186, mq_open 240 180, memfd_create 319 279
"""
NAMESPACES = 0x7E020000  # the flags of clone
SHARED_ANONYMOUS = 0x21  # flags of mmap. Such memory can stay where no process shows it
ALL = 0xFFFFFFFF
MMAP = ((9, 222), 3, SHARED_ANONYMOUS, (SHARED_ANONYMOUS,), True)
# Calls with their numbers, the position of one argument, the bits of it that are compared, with
# what, and whether the call is refused if they are equal to one of these. If not, all others are.
BY_ARGUMENT = {
    "clone": ((56, 220), 0, NAMESPACES, (0,), False),
    "fcntl": ((72, 25), 1, ALL, (1031,), True),  # widen a pipe
    "mmap": MMAP,
    "socket": ((41, 198), 0, ALL, (1,), False),  # other than AF_UNIX
    "socketpair": ((53, 199), 0, ALL, (1,), False),
}
# The same for what is otherwise refused.
IN_PART = {
    "ioctl": ((16, 29), 1, ALL, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451), False),  # kinds
    "fcntl": ((72, 25), 1, ALL, (0, 1, 2, 3, 4, 1030), False),  # copies, flags of descriptors
    "madvise": ((28, 233), 2, ALL, (4, 8, 14, 15), False),  # release memory, use large pages
    "mmap": MMAP,
    "prlimit64": ((302, 261), 0, ALL, (0,), False),  # the process itself
    "socketpair": BY_ARGUMENT["socketpair"],
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


def numbers_of(table: str) -> dict[str, list[int | None]]:
    """The numbers of each call of a table on x86_64 and on aarch64."""
    rows = (entry.split() for entry in table.split(","))
    return {name: [None if n == "-" else int(n) for n in numbers] for name, *numbers in rows}


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


def _filter(table: str, answer: bytes, by_argument: dict[str, tuple], otherwise: bytes) -> bytes:
    """The instructions of a filter, each a struct sock_filter.

    answer: to the calls of the table.
    by_argument: calls that are refused in part, as in `BY_ARGUMENT`.
    """
    architecture, column = ARCHITECTURES[os.uname().machine]
    parts = load_number(architecture)
    for row in numbers_of(table).values():
        if row[column] is not None:
            parts += unless(JUMP_EQUAL, row[column]), answer
    for numbers, position, bits, values, is_refused in by_argument.values():
        if_equal, if_not = (REFUSE, PERMIT) if is_refused else (PERMIT, REFUSE)
        parts += [
            instruction(JUMP_EQUAL, numbers[column], if_false=3 + 2 * len(values)),
            instruction(LOAD_WORD, ARGUMENTS_OFFSET + 8 * position),
            instruction(AND, bits),
            *(part for value in values for part in (unless(JUMP_EQUAL, value), if_equal)),
            if_not,
        ]
    return b"".join([*parts, otherwise])


def unless(test: int, constant: int, skip_if: bool = False) -> bytes:
    """Skip the next instruction unless the test holds, or (`skip_if`) if it does."""
    return instruction(test, constant, if_true=int(skip_if), if_false=int(not skip_if))


def instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, constant)


PERMIT = instruction(RETURN, ALLOW)
REFUSE = instruction(RETURN, FAIL_WITH | errno.EPERM)
UNKNOWN = instruction(RETURN, FAIL_WITH | errno.ENOSYS)
