/* The memory twin while a snapshot is taken in, and after compaction: revisions that are left out, and a second twin
 * that nobody reads until it is whole. */
#include <stdlib.h>

#include "core/base/panic.h"
#include "core/versions/hot.h"
#include "core/versions/memory.h"

enum sluice_status hot_skip(struct hot *self, uint64_t until, uint64_t time)
{
    if (self->first > self->last && self->objects == 0 && until > self->last) {
        /* Nothing is here yet: the deque begins later. */
        for (uint64_t i = 0; i < self->chunk_count; i++)
            free(self->chunks[i]);
        self->chunk_count = 0;
        self->base = self->first = until + 1;
        self->last = until;
        return SLUICE_OK;
    }
    while (self->last < until) {
        enum sluice_status status = hot__ring_reserve(self);
        if (status != SLUICE_OK)
            return status;
        *hot__ring_push(self) = (struct hot_slot){.time = time, .kind = HOT_GAP};
        self->bytes += sizeof(struct hot_slot);
        self->window_bytes += sizeof(struct hot_slot);
    }
    return SLUICE_OK;
}

void hot_compact(struct hot *self, uint64_t from, uint64_t upto)
{
    if (upto > self->last)
        upto = self->last;
    for (uint64_t revision = from > self->first ? from : self->first; revision <= upto; revision++) {
        struct hot_slot *slot = hot_slot(self, revision);
        if (slot->made_count > 0 || slot->kind == HOT_GAP)
            continue;
        uint32_t size = slot->body == NULL ? 0 : slot->body->size;
        self->bytes -= size;
        self->window_bytes -= size;
        buf_unref(slot->body);
        *slot = (struct hot_slot){.time = slot->time, .kind = HOT_GAP};
    }
    while (self->first <= upto && hot_slot(self, self->first)->kind == HOT_GAP) {
        self->bytes -= sizeof(struct hot_slot);
        self->window_bytes -= sizeof(struct hot_slot);
        hot__ring_pop(self);
    }
}

/* The versions that an entry of the deque made, as they were given. */
static enum sluice_status made_again(const struct hot *self, uint64_t revision, struct version **out)
{
    const struct hot_slot *slot = hot_slot(self, revision);
    struct hot_object *const *objects = slot->made_count > 1 ? slot->made.many : &slot->made.one;
    struct version *made = memory__allocate_zeroed(slot->made_count + 1, sizeof(*made));
    if (made == NULL)
        return SLUICE_MEMORY;
    for (uint32_t i = 0; i < slot->made_count; i++) {
        const struct hot_object *object = objects[i];
        uint64_t number = object->first;
        while (hot_at(object, number)->revision != revision)
            number++;
        hot_view(object, number, true, &made[i]);
    }
    *out = made;
    return SLUICE_OK;
}

enum sluice_status hot_dup(const struct hot *from, uint32_t group, struct hot *out)
{
    enum sluice_status status = hot_init(out, from->first - 1);
    if (status != SLUICE_OK)
        return status;
    out->all_keys = out->whole = true;
    for (uint64_t revision = from->first; revision <= from->last && status == SLUICE_OK; revision++) {
        const struct hot_slot *slot = hot_slot(from, revision);
        struct version *made = NULL;
        if (slot->kind == HOT_GAP) {
            status = hot_skip(out, revision, slot->time);
            continue;
        }
        const struct entry entry = {.index = revision,
                                    .ballot = slot->ballot,
                                    .opened = slot->opened,
                                    .time = slot->time,
                                    .epoch = slot->epoch,
                                    .group = group,
                                    .kind = slot->kind,
                                    .body_crc = slot->body_crc,
                                    .body = slot->body};
        status = made_again(from, revision, &made);
        if (status == SLUICE_OK)
            status = hot_apply(out, &entry, made, slot->made_count);
        free(made);
    }
    if (status != SLUICE_OK)
        hot_deinit(out);
    return status;
}
