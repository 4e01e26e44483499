#include "core/versions/memory.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

static atomic_long left = -1;

static bool fails(void)
{
    long before = atomic_load_explicit(&left, memory_order_relaxed);
    if (__builtin_expect(before < 0, 1))
        return false;
    return atomic_fetch_sub_explicit(&left, 1, memory_order_relaxed) == 0;
}

void *memory__allocate(size_t size)
{
    return fails() ? NULL : malloc(size);
}

void *memory__allocate_zeroed(size_t count, size_t size)
{
    return fails() ? NULL : calloc(count, size);
}

void *memory__reallocate(void *old, size_t size)
{
    return fails() ? NULL : realloc(old, size);
}

void *memory__allocate_aligned(size_t alignment, size_t size)
{
    return fails() ? NULL : aligned_alloc(alignment, size);
}

void memory__fail_after(long allocations)
{
    atomic_store_explicit(&left, allocations, memory_order_relaxed);
}
