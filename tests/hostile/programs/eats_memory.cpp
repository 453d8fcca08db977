// expect: too costly to judge
// Several processes, with less than the limit each.
#include <unistd.h>
#include <sys/wait.h>
int main() {
    for (int child = 0; child < 4; child++)
        if (fork() == 0) {
            long size = 800l << 20;
            char* memory = new char[size];
            for (long place = 0; place < size; place += 4096) memory[place] = 1;
            pause();
        }
    pause();
    return 0;
}
