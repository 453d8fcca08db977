// Memory of the devices: addresses of the host's that are reserved, and take no memory until they
// are written. Each device has a limit, as a card has.
#define _GNU_SOURCE
#include "emulated_gpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MOST_DEVICES = 64, PAGE = 4096, HOST = -1 };

static const int RESERVED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

typedef struct {
    char *start;
    size_t bytes;
    int device;  // or HOST, for pinned memory
} Block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block *blocks;
static int number_of_blocks, room_for_blocks;
static size_t used[MOST_DEVICES];

// The number of the block that has an address; -1 if none has it. The lock is held.
static int find(const void *address) {
    for (int number = 0; number < number_of_blocks; number++) {
        Block *block = &blocks[number];
        const char *place = address;
        if (place >= block->start && place < block->start + block->bytes) return number;
    }
    return -1;
}

// Note a block. The lock is held.
static void note(void *start, size_t bytes, int device) {
    if (number_of_blocks == room_for_blocks) {
        room_for_blocks = 2 * room_for_blocks + 64;
        blocks = realloc(blocks, room_for_blocks * sizeof *blocks);
    }
    blocks[number_of_blocks++] = (Block){start, bytes, device};
}

// Reserve a block on the current device, and note it. NULL if it has no room. The lock is held.
static void *reserve(size_t bytes) {
    int device = current_device();
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    if (used[device] + bytes > device_bytes()) return NULL;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, RESERVED, -1, 0);
    if (start == MAP_FAILED) return NULL;
    note(start, bytes, device);
    used[device] += bytes;
    return start;
}

cudaError_t cudaMalloc(void **address, size_t bytes) {
    *address = NULL;
    if (!bytes) return cudaSuccess;
    pthread_mutex_lock(&lock);
    *address = reserve(bytes);
    pthread_mutex_unlock(&lock);
    return *address ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *address) {
    if (!address) return cudaSuccess;
    pthread_mutex_lock(&lock);
    int number = find(address);
    if (number >= 0) {
        used[blocks[number].device] -= blocks[number].bytes;
        munmap(blocks[number].start, blocks[number].bytes);
        blocks[number] = blocks[--number_of_blocks];
    }
    pthread_mutex_unlock(&lock);
    return number >= 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    *total = device_bytes();
    *free = *total - used[current_device()];
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *known, const void *address) {
    memset(known, 0, sizeof *known);
    known->type = cudaMemoryTypeUnregistered;
    pthread_mutex_lock(&lock);
    int number = find(address);
    if (number >= 0) {
        int is_host = blocks[number].device == HOST;
        known->type = is_host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
        known->device = is_host ? 0 : blocks[number].device;
        known->devicePointer = (void *)address;
        known->hostPointer = is_host ? (void *)address : NULL;
    }
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

// Addresses apart from memory, by CUDA's driver: what torch's expandable segments are made of. A card
// maps its memory to addresses that a process has reserved.

typedef struct {
    size_t bytes;
    int device;
} Memory;

enum { GRANULARITY = 2 * 1024 * 1024 };

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *wanted,
                                       CUmemAllocationGranularity_flags option) {
    *bytes = GRANULARITY;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment,
                             CUdeviceptr wanted, unsigned long long flags) {
    void *start = mmap(NULL, bytes, PROT_NONE, RESERVED, -1, 0);
    if (start == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    note(start, bytes, current_device());
    pthread_mutex_unlock(&lock);
    *address = (CUdeviceptr)start;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
    pthread_mutex_lock(&lock);
    int number = find((void *)address);
    if (number >= 0) blocks[number] = blocks[--number_of_blocks];
    pthread_mutex_unlock(&lock);
    return munmap((void *)address, bytes) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                     const CUmemAllocationProp *wanted, unsigned long long flags) {
    int device = wanted->location.id;
    pthread_mutex_lock(&lock);
    int has_room = used[device] + bytes <= device_bytes();
    if (has_room) used[device] += bytes;
    pthread_mutex_unlock(&lock);
    if (!has_room) return CUDA_ERROR_OUT_OF_MEMORY;
    Memory *memory = malloc(sizeof *memory);
    *memory = (Memory){bytes, device};
    *handle = (CUmemGenericAllocationHandle)memory;
    return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    Memory *memory = (Memory *)handle;
    pthread_mutex_lock(&lock);
    used[memory->device] -= memory->bytes;
    pthread_mutex_unlock(&lock);
    free(memory);
    return CUDA_SUCCESS;
}

// Replace what addresses have by zeros that may be read and written, or by nothing.
static CUresult replace(CUdeviceptr address, size_t bytes, int access) {
    void *start = mmap((void *)address, bytes, access, RESERVED | MAP_FIXED, -1, 0);
    return start == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
    return replace(address, bytes, PROT_READ | PROT_WRITE);
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
    return replace(address, bytes, PROT_NONE);
}

// Pinned memory of the host

cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
    if (posix_memalign(address, PAGE, bytes)) return cudaErrorMemoryAllocation;
    pthread_mutex_lock(&lock);
    note(*address, bytes, HOST);
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *address) {
    pthread_mutex_lock(&lock);
    int number = find(address);
    if (number >= 0) blocks[number] = blocks[--number_of_blocks];
    pthread_mutex_unlock(&lock);
    free(address);
    return cudaSuccess;
}

// Copies. Tensors without values are not copied, so that they take no memory of the host.

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    if (has_values(bytes)) memmove(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                size_t bytes, cudaStream_t stream) {
    return cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    if (!has_values(width * height)) return cudaSuccess;
    for (size_t row = 0; row < height; row++) {
        memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    }
    return cudaSuccess;
}

cudaError_t cudaMemset(void *address, int value, size_t bytes) {
    if (has_values(bytes)) memset(address, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *address, int value, size_t bytes, cudaStream_t stream) {
    return cudaMemset(address, value, bytes);
}
