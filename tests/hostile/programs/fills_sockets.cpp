// expect: too costly to judge
// Unread data in 25,000 sockets: 2 GiB and more.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>
int main() {
    static char data[4096];
    for (int child = 0; child < 50; child++) {
        if (fork()) continue;
        for (int ends[2]; socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0;)
            for (int end : ends) while (write(end, data, sizeof data) > 0);
        pause();
    }
    pause();
    return 0;
}
