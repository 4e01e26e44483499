#include <stdlib.h>
#include <string.h>

#include "core/lambda/lambda__.h"

#define CHUNK_BYTES 4096u

struct lambda__chunk {
    struct lambda__chunk *next;
    size_t size, used;
    uint8_t data[] __attribute__((aligned(16)));
};

void *lambda__arena_take(struct lambda__arena *self, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    struct lambda__chunk *chunk = self->chunks;
    if (chunk == NULL || chunk->size - chunk->used < size) {
        size_t room = size > CHUNK_BYTES / 4 ? size : CHUNK_BYTES - sizeof(*chunk);
        struct lambda__chunk *fresh = malloc(sizeof(*fresh) + room);
        if (fresh == NULL)
            return NULL;
        *fresh = (struct lambda__chunk){.size = room};
        /* A large piece has a chunk of its own, behind the one that still has room. */
        if (chunk != NULL && room == size) {
            fresh->next = chunk->next;
            chunk->next = fresh;
        } else {
            fresh->next = chunk;
            self->chunks = fresh;
        }
        chunk = fresh;
    }
    void *piece = chunk->data + chunk->used;
    chunk->used += size;
    self->bytes += size;
    return piece;
}

char *lambda__arena_text(struct lambda__arena *self, const char *text, size_t size)
{
    char *copy = lambda__arena_take(self, size + 1);
    if (copy == NULL)
        return NULL;
    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

void lambda__arena_free(struct lambda__arena *self)
{
    while (self->chunks != NULL) {
        struct lambda__chunk *next = self->chunks->next;
        free(self->chunks);
        self->chunks = next;
    }
    self->bytes = 0;
}
