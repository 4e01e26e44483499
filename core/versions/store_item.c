/* Entries on their way to the index thread, and what becomes of them in a batch. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/versions/memory.h"
#include "core/versions/store__.h"

static uint32_t offset_in(const struct buf *body, const void *data, size_t size)
{
    return size == 0 ? 0 : (uint32_t)((const uint8_t *)data - body->data);
}

static size_t facts_bytes(const struct versions_fact *facts, uint32_t count)
{
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++)
        size += sizeof(struct item_fact) + facts[i].name.size + facts[i].value.size;
    return size;
}

static void facts_copy(uint8_t *at, const struct versions_fact *facts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct item_fact head = {.name_size = (uint32_t)facts[i].name.size,
                                       .value_size = (uint32_t)facts[i].value.size};
        memcpy(at, &head, sizeof(head));
        at += sizeof(head);
        memcpy(at, facts[i].name.data, head.name_size);
        at += head.name_size;
        if (head.value_size > 0)
            memcpy(at, facts[i].value.data, head.value_size);
        at += head.value_size;
    }
}

struct store_item *store__item_create(struct store_group *group, const struct entry *entry, const struct version *made,
                                      uint32_t made_count, const struct versions_fact *facts, uint32_t fact_count)
{
    size_t facts_size = facts_bytes(facts, fact_count);
    size_t size = sizeof(struct store_item) + made_count * sizeof(struct item_made) + facts_size;
    struct store_item *item = memory__allocate(size);
    if (item == NULL)
        return NULL;
    *item = (struct store_item){
        .type = ITEM_ENTRY,
        .group = group,
        .entry = *entry,
        .cost = size + (entry->body == NULL ? 0 : entry->body->size),
        .made_count = made_count,
        .facts_size = (uint32_t)facts_size,
    };
    if (entry->body != NULL)
        buf_ref(entry->body);
    for (uint32_t i = 0; i < made_count; i++) {
        const struct version *version = &made[i];
        item->made[i] = (struct item_made){
            .record = {.format = 1,
                       .flags = (uint16_t)version->flags,
                       .revision = version->revision,
                       .time = version->time,
                       .object_time = version->object_time,
                       .operation = version->operation,
                       .value_size = version->value_size,
                       .value_offset = offset_in(entry->body, version->value, version->value_size),
                       .key_offset = offset_in(entry->body, version->key, version->key_size),
                       .type_offset = offset_in(entry->body, version->content_type, version->content_type_size),
                       .type_size = version->content_type_size},
            .version = version->version,
            .key_size = version->key_size,
        };
    }
    facts_copy((uint8_t *)&item->made[made_count], facts, fact_count);
    return item;
}

void store__item_destroy(struct store_item *item)
{
    if (item == NULL)
        return;
    buf_unref(item->entry.body);
    free(item);
}

/* One pair whose value comes in two parts. */
static void put_parts(struct store *self, const void *key, size_t key_size, const void *first, size_t first_size,
                      const void *second, size_t second_size)
{
    const char *const keys[1] = {key};
    const size_t key_sizes[1] = {key_size};
    const char *const values[2] = {first, second};
    const size_t value_sizes[2] = {first_size, second_size};
    rocksdb_writebatch_putv(self->batch, 1, keys, key_sizes, 2, values, value_sizes);
}

static void encode_version(struct store *self, const struct store_item *item, const struct item_made *made)
{
    cold_key name;
    struct cold_record record = made->record;
    const uint8_t *body = item->entry.body->data;
    size_t size = cold__index_key(name, item->group->group, (struct slice){body + record.key_offset, made->key_size},
                                  made->version);
    const uint8_t *type = body + record.type_offset;
    record.crc = cold__record_crc(&record, type, name, size);
    put_parts(self, name, size, &record, sizeof(record), type, record.type_size);
}

void store__fact_encode(struct store *self, uint32_t group, struct slice name, const uint8_t *value, size_t size)
{
    cold_key key;
    size_t key_size = cold__fact_key(key, group, name);
    uint32_t crc = cold__fact_crc(name, value, size);
    if (size == 0)
        rocksdb_writebatch_delete(self->batch, (const char *)key, key_size);
    else
        put_parts(self, key, key_size, value, size, &crc, sizeof(crc));
}

static void encode_facts(struct store *self, const struct store_item *item)
{
    const uint8_t *at = (const uint8_t *)&item->made[item->made_count];
    const uint8_t *end = at + item->facts_size;
    while (at < end) {
        struct item_fact head;
        memcpy(&head, at, sizeof(head));
        at += sizeof(head);
        struct slice name = {at, head.name_size};
        const uint8_t *value = at + head.name_size;
        at = value + head.value_size;
        store__fact_encode(self, item->group->group, name, value, head.value_size);
    }
}

void store__entry_encode(struct store *self, uint32_t group, const struct entry *entry)
{
    cold_key key;
    struct entry_header header;
    entry_header_write(entry, &header);
    size_t size = cold__entry_key(key, group, entry->index);
    put_parts(self, key, size, &header, sizeof(header), entry->body == NULL ? (const void *)"" : entry->body->data,
              header.body_size);
}

void store__item_encode(struct store *self, const struct store_item *item)
{
    const struct entry *entry = &item->entry;
    struct store_group *group = item->group;
    cold_key key;
    store__entry_encode(self, group->group, entry);
    for (uint32_t i = 0; i < item->made_count; i++)
        encode_version(self, item, &item->made[i]);
    if (item->made_count == 0) {
        size_t size = cold__dropable_key(key, group->group, entry->index);
        rocksdb_writebatch_put(self->batch, (const char *)key, size, "", 0);
    }
    encode_facts(self, item);
    /* A snapshot has gaps: there each first entry of a run is marked. */
    bool mark = item->type == ITEM_INGEST ? entry->index / COLD_MARK_EVERY != group->marked / COLD_MARK_EVERY
                                          : entry->index % COLD_MARK_EVERY == 0;
    if (mark) {
        size_t size = cold__mark_key(key, group->group, entry->time, entry->index);
        rocksdb_writebatch_put(self->batch, (const char *)key, size, "", 0);
        group->marked = entry->index;
    }
}

void store__progress_encode(struct store *self, struct store_group *group, char kind, uint64_t revision)
{
    cold_key key;
    struct cold_progress progress = {.epoch = group->epoch, .revision = revision};
    progress.crc = cold__progress_crc(&progress, kind, group->group);
    size_t size = cold__head(key, kind, group->group);
    rocksdb_writebatch_put(self->batch, (const char *)key, size, (const char *)&progress, sizeof(progress));
}

void store__state_encode(struct store *self, struct store_group *group)
{
    cold_key key;
    struct cold_state state = {.applied = group->written, .time = group->written_time, .epoch = group->epoch};
    state.crc = cold__state_crc(&state, group->group);
    size_t size = cold__head(key, 'S', group->group);
    rocksdb_writebatch_put(self->batch, (const char *)key, size, (const char *)&state, sizeof(state));
}
