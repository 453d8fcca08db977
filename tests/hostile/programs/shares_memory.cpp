// expect: failed
// Pages of shared memory stay where no process shows them.
#include <fcntl.h>
#include <sys/mman.h>
int main() {
    int zero = open("/dev/zero", O_RDWR);
    int flags[] = {MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED};
    for (int flag : flags) {
        long size = 256l << 20;
        char* memory = (char*)mmap(0, size, PROT_READ | PROT_WRITE, flag, flag & MAP_ANONYMOUS ? -1 : zero, 0);
        if (memory != MAP_FAILED && madvise(memory, size, MADV_DONTNEED) == 0) return 0;
    }
    return 1;
}
