/* How the hot part lets go of what the store has. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/versions/hot.h"
#include "core/versions/memory.h"

#define CLOCK_STEPS_PER_POP 16u /* while the clock finds nothing, the window shrinks too */

void hot__version_drop(struct hot *self, struct hot_version *version)
{
    ASSERT(self->bytes >= version->charge);
    self->bytes -= version->charge;
    buf_unref(version->body);
    version->body = NULL;
}

void hot__version_own(struct hot *self, struct hot_version *version, uint32_t key_size)
{
    uint32_t size = key_size + version->type_size + version->value_size;
    struct buf *own = version->body->size / 2 < size ? NULL : buf_create(size);
    if (own == NULL) {
        self->bytes += version->body->size - version->charge;
        version->charge = version->body->size;
        return;
    }
    const uint8_t *body = version->body->data;
    memcpy(own->data, body + version->key_offset, key_size);
    memcpy(own->data + key_size, body + version->type_offset, version->type_size);
    memcpy(own->data + key_size + version->type_size, body + version->value_offset, version->value_size);
    version->key_offset = 0;
    version->type_offset = key_size;
    version->value_offset = key_size + version->type_size;
    buf_unref(version->body);
    version->body = own;
    self->bytes -= version->charge;
    version->charge = size;
    self->bytes += size;
}

/* The entry at `revision` has left the deque: versions up to it that have a successor go with it. */
static void object_trim(struct hot *self, struct hot_object *object, uint64_t revision, bool shared)
{
    while (object->count > 1 && object->versions[object->start].revision <= revision) {
        hot__version_drop(self, &object->versions[object->start]);
        self->whole = false;
        object->start++;
        object->count--;
        object->first++;
    }
    struct hot_version *oldest = &object->versions[object->start];
    if (shared && oldest->revision == revision)
        hot__version_own(self, oldest, object->key_size);
}

static void pop_entry(struct hot *self)
{
    uint64_t revision = self->first;
    struct hot_slot *slot = hot_slot(self, revision);
    uint32_t body_size = slot->body == NULL ? 0 : slot->body->size;
    struct hot_object **objects = slot->made_count > 1 ? slot->made.many : &slot->made.one;
    for (uint32_t i = 0; i < slot->made_count; i++)
        object_trim(self, objects[i], revision, slot->made_count > 1);
    if (slot->made_count > 1)
        free(slot->made.many);
    self->bytes -= sizeof(*slot) + (slot->made_count == 0 ? body_size : 0);
    self->window_bytes -= sizeof(*slot) + body_size;
    buf_unref(slot->body);
    hot__ring_pop(self);
}

/* One step of the clock: looks at a bucket, drops what was not asked for since the hand's last round. An object that an
 * entry of the deque still names must stay, since the deque points at it. */
static void clock_step(struct hot *self)
{
    hot__table_move(self, 1);
    struct hot_object *object = self->table.buckets[self->hand];
    self->fruitless++;
    while (object != NULL) {
        struct hot_object *next = object->next;
        if (hot_at(object, hot_last(object))->revision < self->first) {
            self->fruitless = 0;
            if (object->referenced) {
                object->referenced = false;
            } else {
                self->all_keys = self->whole = false;
                hot__object_destroy(self, object);
            }
        }
        object = next;
    }
    self->hand = (self->hand + 1) & self->table.mask;
}

void hot_evict(struct hot *self, uint64_t indexed, uint64_t bytes_max, uint32_t steps_max)
{
    for (uint32_t step = 0; step < steps_max && self->bytes > bytes_max; step++) {
        bool can_pop = self->first <= self->last && self->first <= indexed;
        /* Half is for the window of recent entries, half for newest versions; but while the window names most of them,
         * it is the one to give way. */
        if (can_pop && (self->window_bytes > bytes_max / 2 || self->fruitless >= CLOCK_STEPS_PER_POP)) {
            pop_entry(self);
            self->fruitless = 0;
        } else if (self->fruitless <= self->table.mask) {
            clock_step(self);
        } else {
            break; /* a whole round found nothing: all the rest is named by entries that the store lacks */
        }
    }
}
