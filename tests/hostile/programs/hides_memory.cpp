// expect: failed
// Memory that no process shows: in large sockets, in messages of closed sockets, in pipes.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
int main() {
    int ends[2], size = 8 << 20, names[] = {SO_SNDBUF, SO_RCVBUF, SO_SNDBUFFORCE, SO_RCVBUFFORCE};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 0;
    for (int name : names)
        if (setsockopt(ends[0], SOL_SOCKET, name, &size, sizeof size) == 0) return 0;
    int kinds[] = {SOCK_DGRAM, SOCK_RAW};
    for (int kind : kinds)
        if (socket(AF_UNIX, kind, 0) >= 0 || socketpair(AF_UNIX, kind, 0, ends) == 0) return 0;
    static char data[4096];
    struct iovec page = {data, 1};
    if (pipe(ends) != 0 || vmsplice(ends[1], &page, 1, 0) >= 0) return 0;
    return 1;
}
