// What the parts of the emulated GPU share. README.md says what it is.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stddef.h>

// The settings, from the environment. README.md explains them.
int device_count(void);
size_t device_bytes(void);
int has_values(size_t bytes);  // whether a tensor is small enough
int capability_major(void);
int capability_minor(void);

int current_device(void);

// A new handle of a stream, an event or a library. Nothing is behind it.
void *new_handle(void);

// Say on stderr that the emulated GPU lacks a call, and let cudaGetErrorString name it.
void tell_unknown(const char *call);
