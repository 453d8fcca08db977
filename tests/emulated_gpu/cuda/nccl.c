// NCCL's calls between the processes of this machine. A device's memory is the host's, so each rank
// copies its values into memory that all ranks share, a piece at a time, and computes what it gets.
// A collective is done when its call returns. Send and receive wait for the end of their group.
#include "emulated_gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    PIECE_BYTES = 262144,
    WAIT_SECONDS = 600,  // torch's own limit
    SLEEP_NANOSECONDS = 50000,
    MOST_MESSAGES = 256,
};

// What a rank calls. All ranks must call the same.
typedef struct {
    char name[16];
    size_t count;
    ncclDataType_t type;
    int operation, root;
} Call;

// `receiver` is 1 + the rank that the piece is sent to; 0 if it has been read.
typedef struct {
    Call call;
    _Atomic int receiver;
    char piece[PIECE_BYTES];
} Part;

// The memory that all ranks share, all zeros when it is made: a part for each rank.
typedef struct {
    _Atomic int arrived, round;
    Part parts[];
} Shared;

struct ncclComm {
    int rank, count;
    Shared *shared;
};

static char fault[256] = "";

static ncclResult_t fail(ncclResult_t result, const char *text) {
    snprintf(fault, sizeof fault, "%s", text);
    fprintf(stderr, "emulated GPU: %s\n", text);
    return result;
}

// Ranks

// Wait until another rank has given a number in the shared memory a value.
static ncclResult_t wait_for(_Atomic int *number, int value) {
    time_t end = time(NULL) + WAIT_SECONDS;
    while (*number != value) {
        nanosleep(&(struct timespec){0, SLEEP_NANOSECONDS}, NULL);
        if (time(NULL) > end) return fail(ncclRemoteError, "NCCL: a rank did not come");
    }
    return ncclSuccess;
}

// Wait until all ranks have come here.
static ncclResult_t meet(ncclComm_t comm) {
    Shared *shared = comm->shared;
    int next = shared->round + 1;
    if (atomic_fetch_add(&shared->arrived, 1) + 1 < comm->count) {
        return wait_for(&shared->round, next);
    }
    shared->arrived = 0;
    shared->round = next;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/emulated-nccl-%d-%lld-%ld", (int)getpid(),
             (long long)now.tv_sec, now.tv_nsec);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *made, int count, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    size_t bytes = sizeof(Shared) + count * sizeof(Part);
    int file = shm_open(id.internal, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, bytes)) return fail(ncclSystemError, strerror(errno));
    void *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED) return fail(ncclSystemError, strerror(errno));
    ncclComm_t comm = malloc(sizeof *comm);
    *comm = (struct ncclComm){rank, count, shared};
    ncclResult_t result = meet(comm);
    if (rank == 0) shm_unlink(id.internal);
    *made = comm;
    return result;
}

ncclResult_t ncclCommInitRank(ncclComm_t *made, int count, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(made, count, id, rank, NULL);
}

// What a rank says when a communicator is split. The ranks of a color are one part.
typedef struct {
    int color, key;
    ncclUniqueId id;
} Wish;

static Wish *wish_of(ncclComm_t comm, int rank) { return (Wish *)comm->shared->parts[rank].piece; }

// Whether a rank comes before another one in their part.
static int is_before(ncclComm_t comm, int rank, int other) {
    int key = wish_of(comm, rank)->key, other_key = wish_of(comm, other)->key;
    return key < other_key || (key == other_key && rank < other);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *made,
                           ncclConfig_t *config) {
    Wish *own = wish_of(comm, comm->rank);
    own->color = color;
    own->key = key;
    ncclGetUniqueId(&own->id);
    if (meet(comm)) return ncclRemoteError;
    int count = 0, place = 0, first = comm->rank;
    for (int rank = 0; rank < comm->count; rank++) {
        if (wish_of(comm, rank)->color != color) continue;
        count++;
        place += is_before(comm, rank, comm->rank);
        if (is_before(comm, rank, first)) first = rank;
    }
    ncclUniqueId id = wish_of(comm, first)->id;
    if (meet(comm)) return ncclRemoteError;
    *made = NULL;
    if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
    return ncclCommInitRankConfig(made, count, id, place, config);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    *error = ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *values, size_t bytes, void **handle) {
    *handle = values;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count) {
    *count = comm->count;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank) {
    *rank = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess: return "no error";
        case ncclInvalidUsage: return "invalid usage";
        default: return "an error of the emulated GPU";
    }
}

const char *ncclGetLastError(ncclComm_t comm) { return fault; }

// Values

static size_t bytes_of(ncclDataType_t type) {
    switch (type) {
        case ncclFloat16:
        case ncclBfloat16: return 2;
        case ncclInt32:
        case ncclUint32:
        case ncclFloat32: return 4;
        case ncclInt64:
        case ncclUint64:
        case ncclFloat64: return 8;
        default: return 1;
    }
}

static int is_reduced(ncclDataType_t type) {
    return type != ncclFloat16 && type != ncclFloat8e4m3 && type != ncclFloat8e5m2;
}

// A long double holds each value of each type.
static long double read_value(const void *values, size_t i, ncclDataType_t type) {
    switch (type) {
        case ncclInt8: return ((const int8_t *)values)[i];
        case ncclUint8: return ((const uint8_t *)values)[i];
        case ncclInt32: return ((const int32_t *)values)[i];
        case ncclUint32: return ((const uint32_t *)values)[i];
        case ncclInt64: return ((const int64_t *)values)[i];
        case ncclUint64: return ((const uint64_t *)values)[i];
        case ncclFloat32: return ((const float *)values)[i];
        case ncclFloat64: return ((const double *)values)[i];
        default: {  // bf16: the upper half of an fp32
            uint32_t bits = (uint32_t)((const uint16_t *)values)[i] << 16;
            float value;
            memcpy(&value, &bits, sizeof value);
            return value;
        }
    }
}

static uint16_t as_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to the nearest, ties to even
}

static void write_value(void *values, size_t i, ncclDataType_t type, long double value) {
    switch (type) {
        case ncclInt8: ((int8_t *)values)[i] = value; break;
        case ncclUint8: ((uint8_t *)values)[i] = value; break;
        case ncclInt32: ((int32_t *)values)[i] = value; break;
        case ncclUint32: ((uint32_t *)values)[i] = value; break;
        case ncclInt64: ((int64_t *)values)[i] = value; break;
        case ncclUint64: ((uint64_t *)values)[i] = value; break;
        case ncclFloat32: ((float *)values)[i] = value; break;
        case ncclFloat64: ((double *)values)[i] = value; break;
        default: ((uint16_t *)values)[i] = as_bf16(value);
    }
}

static long double joined(long double one, long double other, ncclRedOp_t operation) {
    switch (operation) {
        case ncclProd: return one * other;
        case ncclMax: return one > other || one != one ? one : other;
        case ncclMin: return one < other || one != one ? one : other;
        default: return one + other;
    }
}

// The pieces of all ranks, joined in their order: the same on each rank.
static void reduce_pieces(ncclComm_t comm, void *to, size_t count, ncclDataType_t type,
                          ncclRedOp_t operation) {
    for (size_t i = 0; i < count; i++) {
        long double value = read_value(comm->shared->parts[0].piece, i, type);
        for (int rank = 1; rank < comm->count; rank++) {
            value = joined(value, read_value(comm->shared->parts[rank].piece, i, type), operation);
        }
        write_value(to, i, type, operation == ncclAvg ? value / comm->count : value);
    }
}

// Collectives

static int are_equal(const Call *one, const Call *other) {
    return !strcmp(one->name, other->name) && one->count == other->count &&
           one->type == other->type && one->operation == other->operation &&
           one->root == other->root;
}

// Show the others what this rank calls, and compare it with theirs.
static ncclResult_t agree(ncclComm_t comm, Call call) {
    Part *parts = comm->shared->parts;
    parts[comm->rank].call = call;
    if (meet(comm)) return ncclRemoteError;
    for (int rank = 0; rank < comm->count; rank++) {
        Call *other = &parts[rank].call;
        if (are_equal(other, &call)) continue;
        char text[sizeof fault];
        snprintf(text, sizeof text, "NCCL: rank %d calls %s of %zu, rank %d %s of %zu", comm->rank,
                 call.name, call.count, rank, other->name, other->count);
        return fail(ncclInvalidUsage, text);
    }
    return meet(comm);
}

// `to` gets the joined values of all ranks, unless it is NULL.
static ncclResult_t reduce(ncclComm_t comm, const char *from, char *to, size_t count,
                           ncclDataType_t type, ncclRedOp_t operation) {
    size_t size = bytes_of(type), most = PIECE_BYTES / size;
    if (operation > ncclAvg || !is_reduced(type)) {
        return fail(ncclInvalidArgument, "NCCL: a sum of this kind or type is not emulated");
    }
    if (!has_values(count * size)) return ncclSuccess;
    for (size_t start = 0; start < count; start += most) {
        size_t now = count - start < most ? count - start : most;
        memcpy(comm->shared->parts[comm->rank].piece, from + start * size, now * size);
        if (meet(comm)) return ncclRemoteError;
        if (to) reduce_pieces(comm, to + start * size, now, type, operation);
        if (meet(comm)) return ncclRemoteError;
    }
    return ncclSuccess;
}

// Each rank gets the values of the ranks from `first` to `last`, one after another.
static ncclResult_t gather(ncclComm_t comm, const char *from, char *to, size_t bytes, int first,
                           int last) {
    int gives = comm->rank >= first && comm->rank <= last;
    if (!has_values(bytes * (last - first + 1))) return ncclSuccess;
    for (size_t start = 0; start < bytes; start += PIECE_BYTES) {
        size_t now = bytes - start < PIECE_BYTES ? bytes - start : PIECE_BYTES;
        if (gives) memcpy(comm->shared->parts[comm->rank].piece, from + start, now);
        if (meet(comm)) return ncclRemoteError;
        for (int rank = first; rank <= last; rank++) {
            memcpy(to + (rank - first) * bytes + start, comm->shared->parts[rank].piece, now);
        }
        if (meet(comm)) return ncclRemoteError;
    }
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = agree(comm, (Call){"AllReduce", count, type, operation, 0});
    return result ? result : reduce(comm, from, to, count, type, operation);
}

ncclResult_t ncclReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                        ncclRedOp_t operation, int root, ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = agree(comm, (Call){"Reduce", count, type, operation, root});
    void *own = comm->rank == root ? to : NULL;
    return result ? result : reduce(comm, from, own, count, type, operation);
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type,
                               ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = agree(comm, (Call){"ReduceScatter", count, type, operation, 0});
    for (int rank = 0; result == ncclSuccess && rank < comm->count; rank++) {
        const char *part = (const char *)from + rank * count * bytes_of(type);
        result = reduce(comm, part, rank == comm->rank ? to : NULL, count, type, operation);
    }
    return result;
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = agree(comm, (Call){"AllGather", count, type, 0, 0});
    size_t bytes = count * bytes_of(type);
    return result ? result : gather(comm, from, to, bytes, 0, comm->count - 1);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = agree(comm, (Call){"Broadcast", count, type, 0, root});
    return result ? result : gather(comm, from, to, count * bytes_of(type), root, root);
}

ncclResult_t ncclBcast(void *values, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t stream) {
    return ncclBroadcast(values, values, count, type, root, comm, stream);
}

// Messages from one rank to another

typedef struct {
    ncclComm_t comm;
    char *values;
    size_t bytes;
    int sender, receiver;
} Message;

static _Thread_local Message messages[MOST_MESSAGES];
static _Thread_local int number_of_messages = 0, depth = 0;

static ncclResult_t deliver(const Message *message) {
    ncclComm_t comm = message->comm;
    Part *part = &comm->shared->parts[message->sender];
    if (!has_values(message->bytes)) return ncclSuccess;
    for (size_t start = 0; start < message->bytes; start += PIECE_BYTES) {
        size_t left = message->bytes - start, now = left < PIECE_BYTES ? left : PIECE_BYTES;
        if (comm->rank == message->sender) {
            memcpy(part->piece, message->values + start, now);
            part->receiver = 1 + message->receiver;
            if (wait_for(&part->receiver, 0)) return ncclRemoteError;
        } else {
            if (wait_for(&part->receiver, 1 + message->receiver)) return ncclRemoteError;
            memcpy(message->values + start, part->piece, now);
            part->receiver = 0;
        }
    }
    return ncclSuccess;
}

static int by_sender(const void *one, const void *other) {
    const Message *first = one, *second = other;
    int order = first->sender - second->sender;
    return order ? order : first->receiver - second->receiver;
}

// In the order of their senders and receivers, so that no two ranks wait for each other.
ncclResult_t ncclGroupEnd(void) {
    if (--depth) return ncclSuccess;
    qsort(messages, number_of_messages, sizeof *messages, by_sender);
    ncclResult_t result = ncclSuccess;
    for (int i = 0; i < number_of_messages && result == ncclSuccess; i++) {
        result = deliver(&messages[i]);
    }
    number_of_messages = 0;
    return result;
}

ncclResult_t ncclGroupStart(void) {
    depth++;
    return ncclSuccess;
}

static ncclResult_t add(Message message) {
    if (number_of_messages == MOST_MESSAGES || message.sender == message.receiver) {
        return fail(ncclInvalidUsage, "NCCL: too many messages, or one to the rank itself");
    }
    ncclGroupStart();
    messages[number_of_messages++] = message;
    return ncclGroupEnd();
}

ncclResult_t ncclSend(const void *values, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
    return add((Message){comm, (char *)values, count * bytes_of(type), comm->rank, peer});
}

ncclResult_t ncclRecv(void *values, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return add((Message){comm, values, count * bytes_of(type), peer, comm->rank});
}
