// Devices, streams, events, kernels and errors, by CUDA's runtime. Kernels do nothing, and so all
// work is finished at once.
#include "emulated_gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WARP = 32,
    THREADS_OF_BLOCK = 1024,
    THREADS_OF_BLOCK_IN_Z = 64,
    BLOCKS_IN_X = 2147483647,
    BLOCKS_IN_Y = 65535,
    MULTIPROCESSORS = 132,
    THREADS_OF_MULTIPROCESSOR = 2048,
    BLOCKS_OF_MULTIPROCESSOR = 32,
    REGISTERS = 65536,
    SHARED_BYTES = 49152,
    SHARED_BYTES_AT_MOST = 232448,
    SHARED_BYTES_OF_MULTIPROCESSOR = 233472,
    SHARED_BYTES_RESERVED = 1024,
    CACHE_BYTES = 52428800,
    CLOCK_KILOHERTZ = 1980000,
    CUDA_VERSION_TOLD = 13000,
    NESTED_LAUNCHES = 8,
};

static _Thread_local int device = 0;
static _Thread_local char unknown[128] = "";

static const char *setting(const char *name, const char *usual) {
    const char *value = getenv(name);
    return value && *value ? value : usual;
}

// CUDA_VISIBLE_DEVICES chooses among the devices. The names in it are not looked at.
int device_count(void) {
    int all = atoi(setting("EMULATED_GPUS", "1"));
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible) return all;
    int named = *visible != '\0';
    for (const char *place = visible; *place; place++) named += *place == ',';
    return named < all ? named : all;
}

size_t device_bytes(void) {
    return (size_t)(atof(setting("EMULATED_GPU_GIB", "80")) * 1024 * 1024 * 1024);
}

int has_values(size_t bytes) {
    size_t most = (size_t)atoll(setting("EMULATED_GPU_MOST_BYTES", "0"));
    return !most || bytes <= most;
}

int capability_major(void) { return atoi(setting("EMULATED_GPU_CAPABILITY", "9.0")); }

int capability_minor(void) {
    const char *point = strchr(setting("EMULATED_GPU_CAPABILITY", "9.0"), '.');
    return point ? atoi(point + 1) : 0;
}

int current_device(void) { return device; }

void *new_handle(void) {
    static long handle = 0x1000;
    return (void *)__sync_add_and_fetch(&handle, 16);
}

// Errors

void tell_unknown(const char *call) {
    snprintf(unknown, sizeof unknown, "the emulated GPU has no %s", call);
    fprintf(stderr, "emulated GPU: %s is not emulated (tests/emulated_gpu/README.md)\n", call);
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorNotSupported: return "cudaErrorNotSupported";
        default: return "cudaErrorUnknown";
    }
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        default: return *unknown ? unknown : "an error of the emulated GPU";
    }
}

// Devices

cudaError_t cudaGetDeviceCount(int *count) {
    *count = device_count();
    return *count ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDevice(int *number) {
    *number = device;
    return cudaSuccess;
}

// CUDA begins on a device here, and needs some of its memory.
cudaError_t cudaSetDevice(int number) {
    if (number < 0 || number >= device_count()) return cudaErrorInvalidDevice;
    device = number;
    return device_bytes() ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int number) {
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY: *value = THREADS_OF_BLOCK; break;
        case cudaDevAttrMaxBlockDimZ: *value = THREADS_OF_BLOCK_IN_Z; break;
        case cudaDevAttrMaxGridDimX: *value = BLOCKS_IN_X; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = BLOCKS_IN_Y; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = SHARED_BYTES; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_BYTES_AT_MOST; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = SHARED_BYTES_OF_MULTIPROCESSOR;
            break;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = SHARED_BYTES_RESERVED; break;
        case cudaDevAttrWarpSize: *value = WARP; break;
        case cudaDevAttrMultiProcessorCount: *value = MULTIPROCESSORS; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = THREADS_OF_MULTIPROCESSOR; break;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = BLOCKS_OF_MULTIPROCESSOR; break;
        case cudaDevAttrMaxRegistersPerBlock:
        case cudaDevAttrMaxRegistersPerMultiprocessor: *value = REGISTERS; break;
        case cudaDevAttrL2CacheSize: *value = CACHE_BYTES; break;
        case cudaDevAttrClockRate: *value = CLOCK_KILOHERTZ; break;
        case cudaDevAttrComputeCapabilityMajor: *value = capability_major(); break;
        case cudaDevAttrComputeCapabilityMinor: *value = capability_minor(); break;
        default: *value = 1;  // what it can do
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *known, int number) {
    memset(known, 0, sizeof *known);
    strcpy(known->name, "Emulated GPU");
    known->major = capability_major();
    known->minor = capability_minor();
    known->totalGlobalMem = device_bytes();
    known->warpSize = WARP;
    known->maxThreadsPerBlock = THREADS_OF_BLOCK;
    known->maxThreadsDim[0] = known->maxThreadsDim[1] = THREADS_OF_BLOCK;
    known->maxThreadsDim[2] = THREADS_OF_BLOCK_IN_Z;
    known->maxGridSize[0] = BLOCKS_IN_X;
    known->maxGridSize[1] = known->maxGridSize[2] = BLOCKS_IN_Y;
    known->multiProcessorCount = MULTIPROCESSORS;
    known->maxThreadsPerMultiProcessor = THREADS_OF_MULTIPROCESSOR;
    known->maxBlocksPerMultiProcessor = BLOCKS_OF_MULTIPROCESSOR;
    known->regsPerBlock = known->regsPerMultiprocessor = REGISTERS;
    known->sharedMemPerBlock = SHARED_BYTES;
    known->sharedMemPerBlockOptin = SHARED_BYTES_AT_MOST;
    known->sharedMemPerMultiprocessor = SHARED_BYTES_OF_MULTIPROCESSOR;
    known->l2CacheSize = CACHE_BYTES;
    known->textureAlignment = 512;
    known->unifiedAddressing = known->managedMemory = known->concurrentKernels = 1;
    known->asyncEngineCount = 3;
    known->pciBusID = number + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int number, int other) {
    *can = number != other;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int number) {
    snprintf(text, length, "0000:%02x:00.0", number + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDA_VERSION_TOLD;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDA_VERSION_TOLD;
    return cudaSuccess;
}

// The driver's calls that torch looks for by name are driver.c's. Any other is not there.
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **call, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    *call = dlsym(RTLD_DEFAULT, name);
    if (result) *result = *call ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    if (!*call) tell_unknown(name);
    return *call ? cudaSuccess : cudaErrorNotSupported;
}

// Events and streams

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = new_handle();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    return cudaEventCreate(event);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    *stream = new_handle();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreate(stream);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    return cudaStreamCreate(stream);
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *number, cudaGraph_t *graph,
                                     const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
    return cudaStreamIsCapturing(stream, status);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    *mode = cudaStreamCaptureModeGlobal;
    return cudaSuccess;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void *given,
                                  unsigned flags) {
    call(stream, cudaSuccess, given);
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t call, void *given) {
    call(given);
    return cudaSuccess;
}

// Kernels

// The architecture whose kernels a card runs: the newest that torch was compiled for and the card
// has. A card of capability 8.9 runs those of 8.6. CUB refuses any that was not compiled.
static int architecture_of_kernels(void) {
    static const int compiled[] = {ARCHITECTURES};
    int of_device = 10 * capability_major() + capability_minor(), newest = compiled[0];
    for (size_t number = 0; number < sizeof compiled / sizeof *compiled; number++) {
        if (compiled[number] <= of_device) newest = compiled[number];
    }
    return newest;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *known, const void *kernel) {
    memset(known, 0, sizeof *known);
    known->maxThreadsPerBlock = THREADS_OF_BLOCK;
    known->maxDynamicSharedSizeBytes = SHARED_BYTES_AT_MOST;
    known->numRegs = 32;
    known->ptxVersion = known->binaryVersion = architecture_of_kernels();
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel,
                                                                   int threads, size_t shared,
                                                                   unsigned flags) {
    *blocks = 2;
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    static char variable[65536];
    *address = variable;
    return cudaSuccess;
}

void **__cudaRegisterFatBinary(void *binary) {
    static void *handles[4];
    return handles;
}

// What a launch kernel<<<...>>> is compiled to: it pushes its shape, and the kernel's stub pops it.

static _Thread_local struct {
    dim3 grid, block;
    size_t shared;
    void *stream;
} launches[NESTED_LAUNCHES];
static _Thread_local int depth = 0;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    if (depth == NESTED_LAUNCHES) return 1;
    launches[depth].grid = grid;
    launches[depth].block = block;
    launches[depth].shared = shared;
    launches[depth].stream = stream;
    depth++;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (!depth) return cudaErrorUnknown;
    depth--;
    *grid = launches[depth].grid;
    *block = launches[depth].block;
    *shared = launches[depth].shared;
    *(void **)stream = launches[depth].stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(void **kernel, const void *stub) {
    *kernel = (void *)stub;
    return cudaSuccess;
}
