// expect: failed
#include <errno.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int main() {
    struct perf_event_attr event = {};
    char parameters[120] = {};
    event.type = PERF_TYPE_SOFTWARE, event.size = sizeof event, event.exclude_kernel = 1;
    if (socket(AF_INET, SOCK_STREAM, 0) >= 0 || socket(AF_VSOCK, SOCK_STREAM, 0) >= 0) return 0;
    if (unshare(CLONE_NEWUSER) == 0 || memfd_create("x", 0) >= 0) return 0;
    if (syscall(SYS_keyctl, 1, 0) >= 0 || syscall(SYS_add_key, "user", "x", "x", 1, -3) >= 0) return 0;
    if (syscall(SYS_io_uring_setup, 2, parameters) >= 0 || syscall(SYS_userfaultfd, 1) >= 0) return 0;
    if (syscall(SYS_perf_event_open, &event, 0, -1, -1, 0) >= 0) return 0;
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) == 0 || mount("x", "/tmp", "tmpfs", 0, 0) == 0) return 0;
    return 1;
}
