/* Allocation with a fault that tests can plant. Private to core/versions. */
#ifndef VERSIONS_MEMORY_H
#define VERSIONS_MEMORY_H

#include <stddef.h>

/* malloc, calloc and realloc, but for the planted fault. Any thread. */
void *memory__allocate(size_t size);
void *memory__allocate_zeroed(size_t count, size_t size);
void *memory__reallocate(void *old, size_t size);
/* `size` is a multiple of `alignment`. */
void *memory__allocate_aligned(size_t alignment, size_t size);
/* Tests: lets `allocations` succeed, then one fail; negative: none fails (the default). */
void memory__fail_after(long allocations);

#endif
