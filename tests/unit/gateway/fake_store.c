#include "tests/unit/gateway/fake_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/crc.h"
#include "core/base/panic.h"

/* The newest version of a key; older ones are found in the log. */
struct fake_latest {
    struct fake_latest *next;
    struct fake_version *version;
};

void fake_answer_free(struct fake_answer *self)
{
    for (size_t i = 0; i < self->answer.object_count; i++)
        sluice_value_unref(self->objects[i].value);
    for (size_t i = 0; i < self->text_count; i++)
        free(self->texts[i]);
    free(self->texts);
    free(self->objects);
    free(self->prefixes);
    free(self->prefix_sizes);
    free(self->json);
    free(self->cursor);
    *self = (struct fake_answer){0};
}

static void answer(struct fake_answer *self, enum sluice_status status, const char *detail)
{
    self->answer.status = status;
    self->answer.detail = detail != NULL ? detail : sluice_status_text(status);
    self->answer.durable = true;
}

void fake_answer_json(struct fake_answer *self, enum sluice_status status, const char *json)
{
    answer(self, status, NULL);
    self->json = status == SLUICE_OK ? strdup(json) : NULL;
    self->answer.json = self->json;
}

void fake_object(const struct fake_version *version, struct sluice_object *out, bool value)
{
    *out = (struct sluice_object){
        .key = version->key,
        .key_size = strlen(version->key),
        .content_type = version->content_type,
        .content_type_size = strlen(version->content_type),
        .size = version->size,
        .version = version->version,
        .revision = version->revision,
        .epoch = version->epoch,
        .time_ns = version->time_ns,
        .object_time_ns = version->object_time_ns,
        .shard = 1,
        .operation = version->operation,
        .deleted = version->deleted,
        .created = version->created,
    };
    if (value && version->value != NULL) {
        out->value = version->value;
        out->data = sluice_value_data(version->value);
        out->data_size = version->size;
    }
}

/* Keys and content types live as long as the store. */
static void add_object(struct fake_answer *self, const struct fake_version *version, bool value)
{
    size_t count = self->answer.object_count;
    if ((count & (count - 1)) == 0) {
        self->objects = realloc(self->objects, (count > 0 ? 2 * count : 1) * sizeof(*self->objects));
        ASSERT(self->objects != NULL);
    }
    fake_object(version, &self->objects[count], value);
    if (self->objects[count].value != NULL)
        sluice_value_ref(self->objects[count].value);
    self->answer.objects = self->objects;
    self->answer.object_count++;
}

void fake_store_reset(struct fake_store *self)
{
    for (size_t i = 0; i < FAKE_BUCKETS; i++) {
        struct fake_latest *latest;
        while ((latest = self->buckets[i]) != NULL) {
            self->buckets[i] = latest->next;
            free(latest);
        }
    }
    for (size_t i = 0; i < self->log_count; i++) {
        sluice_value_unref(self->log[i]->value);
        free(self->log[i]->key);
        free(self->log[i]->content_type);
        free(self->log[i]);
    }
    for (size_t i = 0; i < self->replay_count; i++)
        free(self->replays[i].key);
    free(self->log);
    *self = (struct fake_store){.epoch = 1};
}

void fake_store_next_epoch(struct fake_store *self)
{
    self->epoch = (self->epoch > 0 ? self->epoch : 1) + 1;
    self->epoch_begin = self->log_count;
}

static struct fake_latest **latest_of(struct fake_store *self, const char *key, size_t size)
{
    struct fake_latest **link = &self->buckets[crc32c(key, size) % FAKE_BUCKETS];
    while (*link != NULL && (strlen((*link)->version->key) != size || memcmp((*link)->version->key, key, size) != 0))
        link = &(*link)->next;
    return link;
}

/* NULL: nothing, or of an epoch that is over. */
static struct fake_version *find(struct fake_store *self, const char *key, size_t size)
{
    struct fake_latest *latest = *latest_of(self, key, size);
    return latest != NULL && latest->version->epoch == (self->epoch > 0 ? self->epoch : 1) ? latest->version : NULL;
}

static bool condition_holds(const struct sluice_operation *operation, const struct fake_version *present)
{
    bool there = present != NULL && !present->deleted;
    if (operation->if_absent && there)
        return false;
    if (operation->if_present && !there)
        return false;
    return !operation->if_match || (there && present->version == operation->if_version &&
                                    (operation->if_epoch == 0 || operation->if_epoch == present->epoch));
}

static struct fake_version *append(struct fake_store *self, const struct sluice_operation *operation)
{
    if (self->log_count == self->log_capacity) {
        self->log_capacity = self->log_capacity > 0 ? 2 * self->log_capacity : 64;
        self->log = realloc(self->log, self->log_capacity * sizeof(struct fake_version *));
        ASSERT(self->log != NULL);
    }
    struct fake_version *version = calloc(1, sizeof(*version));
    struct fake_version *before = find(self, operation->key, operation->key_size);
    ASSERT(version != NULL);
    version->key = strndup(operation->key, operation->key_size);
    version->content_type =
        strndup(operation->content_type != NULL ? operation->content_type : "", operation->content_type_size);
    version->version = before != NULL ? before->version + 1 : 1;
    version->revision = self->revision;
    version->epoch = self->epoch > 0 ? self->epoch : 1;
    version->time_ns = self->time_ns;
    version->object_time_ns = operation->has_object_time ? operation->object_time_ns : self->time_ns;
    version->deleted = operation->kind == SLUICE_DELETE;
    version->created = !version->deleted && (before == NULL || before->deleted);
    version->size = version->deleted ? 0 : operation->data_size;
    if (operation->value != NULL) {
        version->value = sluice_value_ref(operation->value);
    } else if (version->size > 0) {
        version->value = sluice_value_create((uint32_t)version->size);
        ASSERT(version->value != NULL);
        memcpy(sluice_value_data(version->value), operation->data, version->size);
    }
    self->log[self->log_count++] = version;
    struct fake_latest **link = latest_of(self, operation->key, operation->key_size);
    if (*link == NULL) {
        *link = calloc(1, sizeof(**link));
        ASSERT(*link != NULL);
    }
    (*link)->version = version;
    return version;
}

static bool replayed(struct fake_store *self, const struct sluice_write *request, struct fake_answer *out)
{
    for (size_t i = 0; request->idempotency_key != NULL && i < self->replay_count; i++) {
        const struct fake_replay *replay = &self->replays[i];
        if (strlen(replay->key) != request->idempotency_key_size ||
            memcmp(replay->key, request->idempotency_key, request->idempotency_key_size) != 0)
            continue;
        answer(out, replay->size == request->operations[0].data_size ? SLUICE_OK : SLUICE_IDEMPOTENCY_MISMATCH, NULL);
        for (size_t j = 0; out->answer.status == SLUICE_OK && j < self->log_count; j++) {
            if (self->log[j]->revision == replay->revision)
                add_object(out, self->log[j], false);
        }
        out->answer.replayed = out->answer.status == SLUICE_OK;
        return true;
    }
    return false;
}

void fake_store_write(struct fake_store *self, const struct sluice_write *request, struct fake_answer *out)
{
    if (replayed(self, request, out))
        return;
    for (size_t i = 0; i < request->operation_count; i++) {
        const struct sluice_operation *operation = &request->operations[i];
        struct fake_version *present = find(self, operation->key, operation->key_size);
        if (request->operation_count > 1 && operation->key_size > 10 && memcmp(operation->key, "elsewhere/", 10) == 0) {
            answer(out, SLUICE_CONFLICT,
                   "the keys of a batch lie in one shard; an affinity regex of the pool can join them");
            out->json = strdup("{\"shards\":{\"a\":1,\"elsewhere/b\":2}}");
            out->answer.json = out->json;
            return;
        }
        if (operation->key_size > 5 && memcmp(operation->key, "trig/", 5) == 0) {
            answer(out, SLUICE_TRIGGER_POOL, NULL);
            return;
        }
        if (!condition_holds(operation, present)) {
            answer(out, SLUICE_CONDITION_FAILED, NULL);
            if (present != NULL)
                add_object(out, present, false);
            return;
        }
        if (operation->kind == SLUICE_DELETE && (present == NULL || present->deleted)) {
            answer(out, present == NULL ? SLUICE_NOT_FOUND : SLUICE_DELETED, NULL);
            if (present != NULL)
                add_object(out, present, false);
            return;
        }
    }
    uint64_t now = clock_realtime_ns();
    self->time_ns = now > self->time_ns ? now : self->time_ns + 1;
    self->revision++;
    answer(out, SLUICE_OK, NULL);
    out->answer.durable = !request->ack_delivered;
    for (size_t i = 0; i < request->operation_count; i++) {
        struct fake_version *version = append(self, &request->operations[i]);
        version->operation = (uint32_t)i;
        add_object(out, version, false);
    }
    if (request->idempotency_key != NULL && self->replay_count < FAKE_REPLAY_MAX)
        self->replays[self->replay_count++] =
            (struct fake_replay){strndup(request->idempotency_key, request->idempotency_key_size), self->revision,
                                 request->operations[0].data_size};
}

static const struct fake_version *at_or_version(const struct fake_store *self, const struct sluice_get *request)
{
    const struct fake_version *found = NULL;
    for (size_t i = self->epoch_begin; i < self->log_count; i++) {
        const struct fake_version *version = self->log[i];
        if (strlen(version->key) != request->key_size || memcmp(version->key, request->key, request->key_size) != 0)
            continue;
        if (request->version != 0 ? version->version == request->version : version->time_ns <= request->at_ns)
            found = version;
    }
    return found;
}

void fake_store_get(struct fake_store *self, const struct sluice_get *request, struct fake_answer *out)
{
    const struct fake_version *version = request->version != 0 || request->at_ns != 0
                                             ? at_or_version(self, request)
                                             : find(self, request->key, request->key_size);
    if (request->at_ns > clock_realtime_ns() + NS_PER_S) {
        answer(out, SLUICE_DEADLINE, NULL);
        return;
    }
    if (version == NULL) {
        answer(out, SLUICE_NOT_FOUND, NULL);
        return;
    }
    if (version->revision < self->forgotten) {
        answer(out, SLUICE_GONE, NULL);
        return;
    }
    answer(out, version->deleted ? SLUICE_DELETED : SLUICE_OK, NULL);
    if (!version->deleted && !request->head && request->offset > 0 && request->offset >= version->size) {
        answer(out, SLUICE_RANGE, NULL);
        return;
    }
    add_object(out, version, !request->head && !version->deleted);
    struct sluice_object *object = &out->objects[0];
    if (object->data_size > 0) {
        object->data = (const uint8_t *)object->data + request->offset;
        object->data_size -= request->offset;
        if (request->length > 0 && request->length < object->data_size)
            object->data_size = request->length;
    }
}

static int by_key(const void *a, const void *b)
{
    const struct fake_version *const *left = a, *const *right = b;
    return strcmp((*left)->key, (*right)->key);
}

/* The live versions below a prefix, in key order; free the list. */
static struct fake_version **below(struct fake_store *self, const char *prefix, size_t size, bool admin,
                                   size_t *out_count)
{
    struct fake_version **found = NULL;
    size_t count = 0;
    for (size_t i = 0; i < FAKE_BUCKETS; i++) {
        for (struct fake_latest *latest = self->buckets[i]; latest != NULL; latest = latest->next) {
            struct fake_version *version = latest->version;
            if (version->deleted || strncmp(version->key, prefix, size) != 0 ||
                (!admin && strncmp(version->key, "_sluice/", 8) == 0))
                continue;
            found = realloc(found, (count + 1) * sizeof(struct fake_version *));
            ASSERT(found != NULL);
            found[count++] = version;
        }
    }
    if (count > 0)
        qsort(found, count, sizeof(struct fake_version *), by_key);
    *out_count = count;
    return found;
}

static bool add_prefix(struct fake_answer *out, const char *key, size_t size)
{
    size_t count = out->answer.prefix_count;
    if (count > 0 && out->prefix_sizes[count - 1] == size && memcmp(out->prefixes[count - 1], key, size) == 0)
        return false;
    out->prefixes = realloc(out->prefixes, (count + 1) * sizeof(char *));
    out->prefix_sizes = realloc(out->prefix_sizes, (count + 1) * sizeof(size_t));
    ASSERT(out->prefixes != NULL && out->prefix_sizes != NULL);
    out->prefixes[count] = key;
    out->prefix_sizes[count] = size;
    out->answer.prefixes = out->prefixes;
    out->answer.prefix_sizes = out->prefix_sizes;
    out->answer.prefix_count++;
    return true;
}

void fake_store_list(struct fake_store *self, const struct sluice_list *request, struct fake_answer *out)
{
    size_t count, limit = request->limit > 0 ? request->limit : 1000, shown = 0;
    char after[1100] = "", rest;
    if (request->cursor != NULL && (sscanf(request->cursor, "k:%1099[^\n]%c", after, &rest) != 1)) {
        answer(out, SLUICE_INVALID, "the cursor is none of this store's");
        return;
    }
    struct fake_version **found = below(self, request->prefix, request->prefix_size, request->call.admin, &count);
    answer(out, SLUICE_OK, NULL);
    out->answer.at_ns = request->at_ns != 0 ? request->at_ns : self->time_ns;
    out->answer.watch_cursor = "r0";
    const char *last = "";
    for (size_t i = 0; i < count; i++) {
        const char *key = found[i]->key;
        if (strcmp(key, after) <= 0)
            continue;
        if (shown == limit) {
            out->cursor = malloc(strlen(last) + 3);
            ASSERT(out->cursor != NULL);
            sprintf(out->cursor, "k:%s", last);
            out->answer.cursor = out->cursor;
            break;
        }
        const char *delimiter =
            request->delimiter != '\0' ? strchr(key + request->prefix_size, request->delimiter) : NULL;
        if (delimiter != NULL) {
            shown += add_prefix(out, key, (size_t)(delimiter - key) + 1);
        } else {
            add_object(out, found[i], request->values);
            shown++;
        }
        last = key;
    }
    free(found);
}

void fake_store_history(struct fake_store *self, const struct sluice_history *request, struct fake_answer *out)
{
    size_t limit = request->limit > 0 ? request->limit : 1000;
    unsigned long long from = 0;
    char rest;
    if (request->cursor != NULL && sscanf(request->cursor, "v%llu%c", &from, &rest) != 1) {
        answer(out, SLUICE_INVALID, "the cursor is none of this store's");
        return;
    }
    answer(out, SLUICE_NOT_FOUND, NULL);
    for (size_t step = 0; step < self->log_count; step++) {
        size_t i = request->descending ? self->log_count - 1 - step : step;
        const struct fake_version *version = self->log[i];
        if (strlen(version->key) != request->key_size || memcmp(version->key, request->key, request->key_size) != 0)
            continue;
        answer(out, SLUICE_OK, NULL);
        if (version->version < request->version_from ||
            (request->version_to != 0 && version->version > request->version_to) ||
            version->time_ns < request->time_from_ns ||
            (request->time_to_ns != 0 && version->time_ns > request->time_to_ns) ||
            (from != 0 && (request->descending ? version->version > from : version->version < from)))
            continue;
        if (out->answer.object_count == limit) {
            out->cursor = malloc(32);
            ASSERT(out->cursor != NULL);
            snprintf(out->cursor, 32, "v%llu", (unsigned long long)version->version);
            out->answer.cursor = out->cursor;
            return;
        }
        add_object(out, version, request->values);
    }
}

void fake_store_snapshot(struct fake_store *self, const struct sluice_snapshot *request, struct fake_answer *out)
{
    answer(out, SLUICE_OK, NULL);
    out->answer.at_ns = request->at_ns != 0 ? request->at_ns : self->time_ns;
    out->answer.watch_cursor = "r0";
    for (size_t i = 0; i < request->key_count; i++) {
        const struct fake_version *version = find(self, request->keys[i], request->key_sizes[i]);
        if (version != NULL) {
            add_object(out, version, true);
            continue;
        }
        out->texts = realloc(out->texts, (out->text_count + 1) * sizeof(char *));
        ASSERT(out->texts != NULL);
        out->texts[out->text_count] = strndup(request->keys[i], request->key_sizes[i]);
        struct fake_version missing = {.key = out->texts[out->text_count++], .content_type = (char *)""};
        add_object(out, &missing, false);
    }
    for (size_t i = 0; i < request->prefix_count; i++) {
        size_t count;
        struct fake_version **found =
            below(self, request->prefixes[i], request->prefix_sizes[i], request->call.admin, &count);
        for (size_t j = 0; j < count; j++)
            add_object(out, found[j], true);
        free(found);
    }
}
