#include "twin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/random.h"

#define GROUP 7u
#define EPOCH 3u

uint64_t test_seed(const char *what)
{
    const char *given = getenv("SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : random_os();
    fprintf(stderr, "%s: SEED=%llu\n", what, (unsigned long long)seed);
    return seed;
}

const char *twin_name(enum twin_kind kind)
{
    static const char *const names[TWIN_KINDS] = {"memory", "stored", "evicted", "reopened"};
    return names[kind];
}

void twin_directory(char path[64])
{
    snprintf(path, 64, "/tmp/sluice-versions-XXXXXX");
    cr_assert_not_null(mkdtemp(path));
}

void twin_remove(const char *path)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", path);
    cr_assert_eq(system(command), 0);
}

static void open_both(struct twin *self)
{
    char error[512] = "";
    struct versions_options options = {.group = GROUP, .epoch = EPOCH, .hot_bytes_max = 1u << 30};
    if (self->kind != TWIN_MEMORY) {
        const struct store_options store = {.path = self->path, .memory = self->kind != TWIN_REOPENED};
        cr_assert_eq(store_open(&store, &self->store, error, sizeof(error)), SLUICE_OK, "%s", error);
        options.store = self->store;
    }
    if (self->kind == TWIN_EVICTED)
        options.hot_bytes_max = 1;
    if (self->hot_bytes_max != 0)
        options.hot_bytes_max = self->hot_bytes_max;
    cr_assert_eq(versions_create(&options, &self->versions), SLUICE_OK);
    versions_applied(self->versions, &self->time);
}

void twin_open(struct twin *self, enum twin_kind kind)
{
    log_set_level(LOG_LEVEL_ERROR);
    *self = (struct twin){.kind = kind};
    twin_directory(self->path);
    open_both(self);
}

void twin_close(struct twin *self)
{
    versions_destroy(self->versions);
    store_close(self->store);
    twin_remove(self->path);
}

static void take_news(void *arg, uint32_t group, uint64_t indexed, uint64_t durable)
{
    struct twin *self = arg;
    cr_assert_eq(group, GROUP);
    cr_assert_leq(durable, indexed);
    versions_indexed(self->versions, indexed);
}

static void ignore_fact(void *arg, struct slice name, struct slice value)
{
    (void)arg;
    (void)name;
    (void)value;
}

void twin_drain(struct twin *self)
{
    if (self->store == NULL || versions_applied(self->versions, NULL) == 0)
        return;
    /* Facts are read once the store has everything; its news are there then. */
    cr_assert_eq(versions_facts(self->versions, ignore_fact, NULL), SLUICE_OK);
    cr_assert_eq(store_poll(self->store, take_news, self), SLUICE_OK);
}

void twin_settle(struct twin *self)
{
    if (self->kind == TWIN_EVICTED) {
        twin_drain(self);
        for (int i = 0; i < 64; i++) /* the clock needs rounds */
            versions_indexed(self->versions, 0);
        cr_assert_lt(versions_hot_bytes(self->versions), 1024, "%llu bytes stayed hot",
                     (unsigned long long)versions_hot_bytes(self->versions));
    }
    if (self->kind == TWIN_REOPENED) {
        versions_destroy(self->versions);
        store_close(self->store);
        open_both(self);
    }
}

struct slice slice_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

enum sluice_status twin_apply(struct twin *self, uint64_t time, const struct twin_put *puts, uint32_t count,
                              const struct versions_fact *facts, uint32_t fact_count)
{
    uint64_t revision = versions_applied(self->versions, NULL) + 1;
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++)
        size += strlen(puts[i].key) + (puts[i].type == NULL ? 0 : strlen(puts[i].type)) + puts[i].value_size + 3;
    struct buf *body = size == 0 ? NULL : buf_create((uint32_t)size);
    struct version made[64];
    cr_assert_leq(count, 64);
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct twin_put *put = &puts[i];
        uint32_t key_size = (uint32_t)strlen(put->key), type_size = put->type == NULL ? 0 : (uint32_t)strlen(put->type);
        memset(body->data + at, 0xee, 3);
        at += 3;
        made[i] = (struct version){
            .key = (const char *)body->data + at,
            .key_size = key_size,
            .content_type = (const char *)body->data + at + key_size,
            .content_type_size = type_size,
            .value = body->data + at + key_size + type_size,
            .value_size = put->value_size,
            .flags = put->tombstone ? VERSION_TOMBSTONE : 0,
            .version = put->version,
            .revision = revision,
            .time = time,
            .object_time = put->object_time == 0 ? time : put->object_time,
            .operation = i,
        };
        memcpy(body->data + at, put->key, key_size);
        memcpy(body->data + at + key_size, put->type == NULL ? "" : put->type, type_size);
        if (put->value_size > 0)
            memcpy(body->data + at + key_size + type_size, put->value, put->value_size);
        at += key_size + type_size + put->value_size;
    }
    const struct entry entry = {
        .index = revision,
        .ballot = revision * 65536 + 1,
        .time = time,
        .epoch = EPOCH,
        .group = GROUP,
        .kind = count == 0 ? ENTRY_NOOP : ENTRY_COMMAND,
        .body_crc = body == NULL ? 0 : crc32c(body->data, size),
        .body = body,
    };
    enum sluice_status status = versions_apply(self->versions, &entry, made, count, facts, fact_count);
    buf_unref(body);
    if (status == SLUICE_OK)
        self->time = time;
    return status;
}

static uint64_t apply_one(struct twin *self, const struct twin_put *put)
{
    enum sluice_status status = twin_apply(self, self->time + 10, put, 1, NULL, 0);
    cr_assert_eq(status, SLUICE_OK, "%s", sluice_status_text(status));
    return versions_applied(self->versions, NULL);
}

uint64_t twin_put(struct twin *self, const char *key, uint64_t version, const char *value)
{
    return apply_one(self, &(struct twin_put){.key = key,
                                              .type = "text/plain",
                                              .value = value,
                                              .value_size = (uint32_t)strlen(value),
                                              .version = version});
}

uint64_t twin_delete(struct twin *self, const char *key, uint64_t version)
{
    return apply_one(self, &(struct twin_put){.key = key, .version = version, .tombstone = true});
}

void twin_expect(struct version *version, const char *key, uint64_t number, uint64_t revision, const char *value)
{
    cr_assert_eq(version->key_size, strlen(key));
    cr_assert_eq(memcmp(version->key, key, version->key_size), 0);
    cr_assert_eq(version->version, number);
    cr_assert_eq(version->revision, revision);
    if (value == NULL) {
        cr_assert_eq(version->flags, VERSION_TOMBSTONE);
        cr_assert_eq(version->value_size, 0);
    } else {
        cr_assert_eq(version->flags, 0);
        cr_assert_eq(version->value_size, strlen(value));
        cr_assert_not_null(version->value);
        cr_assert_eq(memcmp(version->value, value, version->value_size), 0);
        cr_assert_eq(version->content_type_size, 10);
        cr_assert_eq(memcmp(version->content_type, "text/plain", 10), 0);
    }
    version_release(version);
}
