// expect: failed
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
int main() {
    const char* paths[] = {"/new", "/usr/new", "/etc/new", "/dev/new", "/proc/sys/kernel/core_pattern",
                           "/proc/sys/kernel/hostname", "/proc/1/oom_score_adj", "/usr/bin/bash"};
    for (const char* path : paths)
        if (open(path, O_WRONLY | O_CREAT, 0666) >= 0) return 0;
    const char* devices[] = {"/dev/null", "/dev/stdin", "/proc/1/fd/0", "/proc/1/fd/1"};
    for (const char* device : devices) {
        struct stat found;
        if (stat(device, &found) == 0 && S_ISCHR(found.st_mode) && chmod(device, 0666) == 0) return 0;
    }
    return 1;
}
