/* Records as the user's objects, queries, and the checks of what the user hands in. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"
#include "core/base/text.h"

void record__object(const struct wire_record_view *view, bool values, struct sluice_value *owner,
                    struct sluice_object *out)
{
    const struct wire_record *record = view->record;
    bool carried = values && (record->flags & WIRE_RECORD_VALUE) != 0;
    *out = (struct sluice_object){
        .key = view->key,
        .key_size = record->key_size,
        .content_type = view->content_type,
        .content_type_size = record->content_type_size,
        .data = carried ? view->value : NULL,
        .data_size = carried ? record->carried_size : 0,
        .value = carried ? owner : NULL,
        .size = record->value_size,
        .version = record->version,
        .revision = record->revision,
        .epoch = record->epoch,
        .time_ns = record->time,
        .object_time_ns = record->object_time,
        .shard = record->shard,
        .operation = record->operation,
        .deleted = (record->flags & WIRE_RECORD_TOMBSTONE) != 0,
        .created = (record->flags & WIRE_RECORD_CREATED) != 0,
    };
}

struct wire_query *query__create(const char *key, size_t key_size, size_t after_room, size_t *size)
{
    struct wire_query *query = malloc(sizeof(*query) + key_size + after_room);
    if (query == NULL)
        return NULL;
    *query = (struct wire_query){
        .version = 1,
        .key_size = (uint16_t)key_size,
        .to = UINT64_MAX,
        .time_to = UINT64_MAX,
        .length = UINT64_MAX,
    };
    if (key_size > 0)
        memcpy(query + 1, key, key_size);
    *size = sizeof(*query) + key_size;
    return query;
}

size_t query__set_after(struct wire_query *query, const char *after, size_t size)
{
    query->after_size = (uint16_t)size;
    if (size > 0)
        memcpy((char *)(query + 1) + query->key_size, after, size);
    return sizeof(*query) + query->key_size + size;
}

static bool internal(const char *key, size_t size)
{
    return size >= 8 && memcmp(key, "_sluice/", 8) == 0;
}

enum sluice_status query__check_key(const char *key, size_t size, bool admin, const char **why)
{
    *why = text_key_error(key, size);
    if (*why != NULL)
        return SLUICE_INVALID;
    if (admin || !internal(key, size))
        return SLUICE_OK;
    *why = "keys below _sluice/ are the store's own";
    return SLUICE_FORBIDDEN;
}

const char *query__prefix_error(const char *prefix, size_t size)
{
    if (size > WIRE_KEY_BYTES_MAX)
        return "a prefix is at most 1,024 bytes long";
    return size > 0 && !text_utf8_valid(prefix, size) ? "a prefix is valid UTF-8" : NULL;
}

char *text__dup(const char *text, size_t size)
{
    char *copy = malloc(size + 1);
    if (copy == NULL)
        return NULL;
    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}
