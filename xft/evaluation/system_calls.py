"""A seccomp filter for programs of any language, which compilers and a JVM can run under.

It refuses what reaches the kernel's rarer parts, other processes, keys, namespaces and the network,
and memory that no process shows.
"""

import os

from xft.evaluation.confinement import (
    ARCHITECTURES,
    ARGUMENTS_OFFSET,
    JUMP_BITS,
    JUMP_EQUAL,
    LOAD_WORD,
    PERMIT,
    REFUSE,
    calls_on,
    instruction,
    load_number,
    unless,
)

# Names, with their numbers on x86_64 and on aarch64. "-": the architecture lacks the call.
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
# Calls with their numbers, the position of one argument, what it is compared with, and whether the
# call is refused if the comparison holds. If not, all others are.
BY_ARGUMENT = {
    "clone": ((56, 220), 0, JUMP_BITS, NAMESPACES, True),
    "fcntl": ((72, 25), 1, JUMP_EQUAL, 1031, True),  # widen a pipe
    "socket": ((41, 198), 0, JUMP_EQUAL, 1, False),  # other than AF_UNIX
    "socketpair": ((53, 199), 0, JUMP_EQUAL, 1, False),
}


def program_filter() -> bytes:
    """The filter as bubblewrap takes it. Refused calls fail with EPERM, newer ones with ENOSYS."""
    architecture, column, _ = ARCHITECTURES[os.uname().machine]
    parts = load_number(architecture)
    for number in calls_on(REFUSED, column):
        parts += unless(JUMP_EQUAL, number), REFUSE
    for numbers, position, test, constant, is_refused in BY_ARGUMENT.values():
        parts += [
            instruction(JUMP_EQUAL, numbers[column], if_false=4),
            instruction(LOAD_WORD, ARGUMENTS_OFFSET + 8 * position),
            *(unless(test, constant, skip_if=not is_refused), REFUSE, PERMIT),
        ]
    return b"".join([*parts, PERMIT])
