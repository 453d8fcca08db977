// expect: too costly to judge
// Shared memory, which is no data of the process.
#include <sys/mman.h>
int main() {
    for (long block = 0; block < 12; block++) {
        long size = 256l << 20;
        char* memory = (char*)mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return 1;
        for (long place = 0; place < size; place += 4096) memory[place] = 1;
    }
    return 0;
}
