// expect: too costly to judge
// Reads one byte of each 2 MiB of 4 TiB: 8 GiB of tables for one page of zeros.
#include <sys/mman.h>
int main() {
    long size = 4l << 40;
    char* memory = (char*)mmap(0, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return 1;
    for (long place = 0; place < size; place += 2 << 20) (void)*(volatile char*)(memory + place);
    return 0;
}
