#include "core/versions/hot.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/base/random.h"
#include "core/base/text.h"
#include "core/versions/memory.h"

#define BUCKETS_FIRST   1024u
#define BUCKETS_PER_PUT 4u  /* of the old table, moved with each new key */
#define ALLOCATION_COST 16u /* what malloc keeps beside a block, roughly */

static uint64_t load64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Multiply and fold, sixteen bytes at a time. Keys come from clients, so the seed is secret: nobody can choose keys
 * that all land in one bucket. */
static uint64_t hash_key(uint64_t seed, struct slice key)
{
    const uint64_t odd = UINT64_C(0x9e3779b97f4a7c15);
    const uint8_t *bytes = key.data;
    size_t left = key.size;
    uint64_t hash = seed ^ (key.size * odd);
    while (left > 16) {
        hash = fold(load64(bytes) ^ odd ^ hash, load64(bytes + 8) ^ seed);
        bytes += 16;
        left -= 16;
    }
    uint8_t rest[16] = {0};
    if (left > 0)
        memcpy(rest, bytes, left);
    hash = fold(load64(rest) ^ odd ^ hash, load64(rest + 8) ^ seed);
    return fold(hash ^ seed, odd);
}

int hot__compare(const char *a, size_t a_size, const char *b, size_t b_size)
{
    size_t common = a_size < b_size ? a_size : b_size;
    int order = common == 0 ? 0 : memcmp(a, b, common);
    if (order != 0)
        return order;
    return a_size < b_size ? -1 : a_size > b_size;
}

enum sluice_status hot_init(struct hot *self, uint64_t applied)
{
    *self = (struct hot){
        .base = applied + 1, .first = applied + 1, .last = applied, .all_keys = applied == 0, .whole = applied == 0};
    self->hash_seed = random_os();
    self->level_state = random_os() | 1;
    self->table.buckets = memory__allocate_zeroed(BUCKETS_FIRST, sizeof(struct hot_object *));
    if (self->table.buckets == NULL)
        return SLUICE_MEMORY;
    self->table.mask = BUCKETS_FIRST - 1;
    return SLUICE_OK;
}

void hot_deinit(struct hot *self)
{
    for (uint64_t revision = self->first; revision <= self->last; revision++) {
        struct hot_slot *slot = hot_slot(self, revision);
        buf_unref(slot->body);
        if (slot->made_count > 1)
            free(slot->made.many);
    }
    for (uint64_t i = 0; i < self->chunk_count; i++)
        free(self->chunks[i]);
    free(self->chunks);
    struct hot_object *object = self->head[0];
    while (object != NULL) {
        struct hot_object *next = hot_next(object);
        for (uint32_t i = 0; i < object->count; i++)
            buf_unref(object->versions[object->start + i].body);
        if (object->versions != &object->one)
            free(object->versions);
        free(object);
        object = next;
    }
    free(self->table.buckets);
    free(self->old.buckets);
    *self = (struct hot){0};
}

static struct hot_object **bucket_of(const struct hot *self, uint64_t hash)
{
    if (self->old.buckets != NULL && (hash & self->old.mask) >= self->moved)
        return &self->old.buckets[hash & self->old.mask];
    return &self->table.buckets[hash & self->table.mask];
}

void hot__table_move(struct hot *self, uint32_t buckets)
{
    for (; buckets > 0 && self->old.buckets != NULL; buckets--) {
        struct hot_object *object = self->old.buckets[self->moved];
        while (object != NULL) {
            struct hot_object *next = object->next;
            struct hot_object **bucket = &self->table.buckets[object->hash & self->table.mask];
            object->next = *bucket;
            *bucket = object;
            object = next;
        }
        if (++self->moved > self->old.mask) {
            free(self->old.buckets);
            self->old = (struct hot_table){0};
        }
    }
}

/* Doubles the table without a pause: the old buckets follow with later puts. Without memory chains grow longer, no
 * more. */
static void table_grow(struct hot *self)
{
    if (self->old.buckets != NULL || self->objects <= self->table.mask)
        return;
    uint64_t count = (self->table.mask + 1) * 2;
    struct hot_object **buckets = memory__allocate_zeroed(count, sizeof(struct hot_object *));
    if (buckets == NULL)
        return;
    self->old = self->table;
    self->moved = 0;
    self->table = (struct hot_table){.buckets = buckets, .mask = count - 1};
}

static struct hot_object *table_find(const struct hot *self, uint64_t hash, struct slice key)
{
    struct hot_object *object = *bucket_of(self, hash);
    while (object != NULL) {
        if (object->hash == hash && object->key_size == key.size && memcmp(hot_key(object), key.data, key.size) == 0)
            return object;
        object = object->next;
    }
    return NULL;
}

void hot__table_remove(struct hot *self, struct hot_object *object)
{
    struct hot_object **link = bucket_of(self, object->hash);
    while (*link != object)
        link = &(*link)->next;
    *link = object->next;
    self->objects--;
}

struct hot_object *hot_find(struct hot *self, struct slice key)
{
    return table_find(self, hash_key(self->hash_seed, key), key);
}

static uint64_t object_cost(const struct hot_object *object)
{
    uint64_t cost = sizeof(*object) + object->height * sizeof(struct hot_object *) + object->key_size + ALLOCATION_COST;
    if (object->versions != &object->one)
        cost += object->capacity * sizeof(struct hot_version) + ALLOCATION_COST;
    return cost;
}

/* A new object without versions yet, linked. */
static struct hot_object *object_create(struct hot *self, uint64_t hash, struct slice key)
{
    uint8_t height = hot__level(self);
    struct hot_object *object = memory__allocate(sizeof(*object) + height * sizeof(struct hot_object *) + key.size);
    if (object == NULL)
        return NULL;
    *object = (struct hot_object){.hash = hash,
                                  .versions = &object->one,
                                  .capacity = 1,
                                  .key_size = (uint16_t)key.size,
                                  .height = height,
                                  .referenced = true};
    memcpy(&object->forward[height], key.data, key.size);
    hot__table_move(self, BUCKETS_PER_PUT);
    table_grow(self);
    struct hot_object **bucket = bucket_of(self, hash);
    object->next = *bucket;
    *bucket = object;
    self->objects++;
    hot__order_insert(self, object);
    self->bytes += object_cost(object);
    return object;
}

void hot__object_destroy(struct hot *self, struct hot_object *object)
{
    for (uint32_t i = 0; i < object->count; i++)
        hot__version_drop(self, &object->versions[object->start + i]);
    self->bytes -= object_cost(object);
    hot__order_remove(self, object);
    hot__table_remove(self, object);
    if (object->versions != &object->one)
        free(object->versions);
    free(object);
}

/* Makes room for one more version. Versions dropped at the front leave a gap, which is closed once it is half of the
 * room. */
static enum sluice_status object_reserve(struct hot *self, struct hot_object *object)
{
    if (object->start + object->count < object->capacity)
        return SLUICE_OK;
    if (object->start > 0 && object->start >= object->capacity / 2) {
        memmove(object->versions, object->versions + object->start, object->count * sizeof(struct hot_version));
        object->start = 0;
        return SLUICE_OK;
    }
    if (object->capacity > UINT32_MAX / 2)
        return SLUICE_MEMORY;
    uint32_t capacity = object->capacity < 4 ? 4 : object->capacity * 2;
    bool inlined = object->versions == &object->one;
    struct hot_version *grown =
        memory__reallocate(inlined ? NULL : object->versions, capacity * sizeof(struct hot_version));
    if (grown == NULL)
        return SLUICE_MEMORY;
    self->bytes -= object_cost(object);
    if (inlined)
        grown[0] = object->one;
    object->versions = grown;
    object->capacity = capacity;
    self->bytes += object_cost(object);
    return SLUICE_OK;
}

static uint32_t offset_in(const struct buf *body, const void *data, size_t size)
{
    if (size == 0)
        return 0;
    const uint8_t *at = data;
    ASSERT(at >= body->data && at + size <= body->data + body->size);
    return (uint32_t)(at - body->data);
}

static void version_add(struct hot *self, struct hot_object *object, const struct version *made, struct buf *body,
                        uint32_t charge)
{
    struct hot_version *version = &object->versions[object->start + object->count];
    *version = (struct hot_version){
        .revision = made->revision,
        .time = made->time,
        .object_time = made->object_time,
        .body = buf_ref(body),
        .value_offset = offset_in(body, made->value, made->value_size),
        .value_size = made->value_size,
        .key_offset = offset_in(body, made->key, made->key_size),
        .type_offset = offset_in(body, made->content_type, made->content_type_size),
        .operation = (uint16_t)made->operation,
        .type_size = (uint8_t)made->content_type_size,
        .flags = (uint8_t)made->flags,
        .charge = charge,
    };
    if (object->count == 0)
        object->first = made->version;
    object->count++;
    self->bytes += charge;
}

/* Undoes what apply_reserve did for these objects: a new one has no version yet. */
static void apply_undo(struct hot *self, struct hot_object **objects, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        objects[i]->pending = false;
        if (objects[i]->count == 0)
            hot__object_destroy(self, objects[i]);
    }
}

static enum sluice_status apply_reserve(struct hot *self, const struct version *made, uint32_t made_count,
                                        struct hot_object **objects)
{
    for (uint32_t i = 0; i < made_count; i++) {
        struct slice key = {made[i].key, made[i].key_size};
        uint64_t hash = hash_key(self->hash_seed, key);
        struct hot_object *object = table_find(self, hash, key);
        enum sluice_status status = SLUICE_OK;
        /* The store's index ends a key with a zero byte. No valid key holds one; a caller that let it pass must hear of
         * it. */
        bool valid =
            object != NULL || (key.size > 0 && key.size <= KEY_BYTES_MAX && memchr(key.data, 0, key.size) == NULL);
        if (object == NULL && valid)
            object = object_create(self, hash, key);
        if (!valid) {
            status = SLUICE_INVALID;
        } else if (object == NULL) {
            status = SLUICE_MEMORY;
        } else if (object->pending || (object->count > 0 && made[i].version != hot_last(object) + 1)) {
            status = SLUICE_INVALID;
        } else {
            objects[i] = object;
            object->pending = true;
            status = object_reserve(self, object);
        }
        if (status != SLUICE_OK) {
            apply_undo(self, objects, status == SLUICE_MEMORY && object != NULL ? i + 1 : i);
            return status;
        }
    }
    return SLUICE_OK;
}

static void apply_slot(struct hot *self, const struct entry *entry, uint32_t made_count, struct hot_object **many)
{
    struct hot_slot *slot = hot__ring_push(self);
    *slot = (struct hot_slot){
        .ballot = entry->ballot,
        .opened = entry->opened,
        .time = entry->time,
        .epoch = entry->epoch,
        .body = entry->body == NULL ? NULL : buf_ref(entry->body),
        .body_crc = entry->body_crc,
        .kind = entry->kind,
        .made_count = made_count,
    };
    if (made_count > 1)
        slot->made.many = many;
    else if (made_count == 1)
        slot->made.one = many[0];
    uint32_t body_size = entry->body == NULL ? 0 : entry->body->size;
    self->bytes += sizeof(*slot) + (made_count == 0 ? body_size : 0);
    self->window_bytes += sizeof(*slot) + body_size;
}

enum sluice_status hot_apply(struct hot *self, const struct entry *entry, const struct version *made,
                             uint32_t made_count)
{
    ASSERT(entry->index == self->last + 1);
    ASSERT(made_count == 0 || entry->body != NULL);
    enum sluice_status status = hot__ring_reserve(self);
    if (status != SLUICE_OK)
        return status;
    struct hot_object *one = NULL;
    struct hot_object **objects = &one;
    if (made_count > 1) {
        objects = memory__allocate(made_count * sizeof(struct hot_object *));
        if (objects == NULL)
            return SLUICE_MEMORY;
    }
    status = apply_reserve(self, made, made_count, objects);
    if (status != SLUICE_OK) {
        if (made_count > 1)
            free(objects);
        return status;
    }
    for (uint32_t i = 0; i < made_count; i++) {
        /* The body is accounted in equal shares; the first one bears the rest. */
        uint32_t share = entry->body->size / made_count;
        if (i == 0)
            share += entry->body->size % made_count;
        version_add(self, objects[i], &made[i], entry->body, share);
        objects[i]->pending = false;
        objects[i]->referenced = true;
    }
    apply_slot(self, entry, made_count, objects);
    return SLUICE_OK;
}

void hot_cache(struct hot *self, const struct version *version)
{
    struct slice key = {version->key, version->key_size};
    uint64_t hash = hash_key(self->hash_seed, key);
    if (table_find(self, hash, key) != NULL)
        return;
    struct hot_object *object = object_create(self, hash, key);
    if (object == NULL)
        return;
    version_add(self, object, version, version->owner, version->owner->size);
    hot__version_own(self, &object->one, object->key_size);
    self->fruitless = 0;
}

uint32_t hot_count_until(const struct hot_object *object, uint64_t time)
{
    const struct hot_version *versions = &object->versions[object->start];
    uint32_t low = 0, high = object->count;
    if (versions[high - 1].time <= time)
        return high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (versions[middle].time <= time)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void hot_view(const struct hot_object *object, uint64_t number, bool with_value, struct version *out)
{
    ASSERT(number >= object->first && number <= hot_last(object));
    const struct hot_version *version = hot_at(object, number);
    const uint8_t *body = version->body->data;
    *out = (struct version){
        .key = (const char *)body + version->key_offset,
        .content_type = (const char *)body + version->type_offset,
        .value = with_value ? body + version->value_offset : NULL,
        .key_size = object->key_size,
        .content_type_size = version->type_size,
        .value_size = version->value_size,
        .flags = version->flags,
        .version = number,
        .revision = version->revision,
        .time = version->time,
        .object_time = version->object_time,
        .operation = version->operation,
        .owner = version->body,
    };
}
