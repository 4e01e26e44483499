/* Random work on versions, compared step by step with an array that is searched from end to end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/random.h"
#include "core/base/text.h"
#include "core/versions/memory.h"
#include "twin.h"

#define KEYS      24
#define FACTS     12
#define MODEL_MAX 20000
#define VALUE_MAX 3000

struct model_version {
    int key;
    uint64_t version, revision, time, object_time;
    uint32_t operation, value_size;
    bool tombstone;
};

struct model {
    struct random random;
    struct twin twin;
    struct model_version versions[MODEL_MAX];
    size_t count;
    uint64_t times[MODEL_MAX + 1]; /* by revision */
    bool makes[MODEL_MAX + 1];     /* likewise: did the entry make a version? */
    uint64_t applied, compacted;
    uint8_t facts[FACTS]; /* 0: none */
};

static const char *const keys[KEYS] = {
    "a",    "a/a",   "a/a/a",  "a/b",    "ab",       "abc", "b",  "b/1",         "b/10",     "b/11", "b/2", "ba",
    "farm", "farm/", "farm/a", "farm/b", "farmland", "z",   "zz", "zz/\xc3\xa9", "\xc3\xa9", "~",    "0",   "a0"};

static uint8_t value_byte(const struct model_version *version, uint32_t at)
{
    return (uint8_t)(version->revision * 31 + version->operation * 7 + at);
}

static const char *type_of(uint32_t operation)
{
    return operation % 2 == 0 ? "text/plain" : "";
}

static const struct model_version *latest(const struct model *self, int key, uint64_t time)
{
    for (size_t i = self->count; i-- > 0;)
        if (self->versions[i].key == key && self->versions[i].time <= time)
            return &self->versions[i];
    return NULL;
}

static void check(const struct model_version *wanted, const struct version *got, bool with_value)
{
    cr_assert_eq(got->key_size, strlen(keys[wanted->key]));
    cr_assert_eq(memcmp(got->key, keys[wanted->key], got->key_size), 0);
    cr_assert_eq(got->version, wanted->version);
    cr_assert_eq(got->revision, wanted->revision);
    cr_assert_eq(got->time, wanted->time);
    cr_assert_eq(got->object_time, wanted->object_time);
    cr_assert_eq(got->operation, wanted->operation);
    cr_assert_eq(got->content_type_size, strlen(type_of(wanted->operation)));
    cr_assert_eq(memcmp(got->content_type, type_of(wanted->operation), got->content_type_size), 0);
    cr_assert_eq(got->value_size, wanted->value_size);
    cr_assert_eq(got->flags, wanted->tombstone ? VERSION_TOMBSTONE : 0);
    cr_assert_eq(got->value != NULL, with_value);
    for (uint32_t i = 0; with_value && i < got->value_size; i++)
        cr_assert_eq(((const uint8_t *)got->value)[i], value_byte(wanted, i));
}

static void check_read(enum sluice_status status, const struct model_version *wanted, struct version *got,
                       bool with_value)
{
    cr_assert_eq(status, wanted == NULL ? SLUICE_NOT_FOUND : SLUICE_OK, "%s", sluice_status_text(status));
    if (wanted == NULL)
        return;
    check(wanted, got, with_value);
    version_release(got);
}

static uint64_t some_time(struct model *self)
{
    uint64_t now = self->times[self->applied];
    return random_below(&self->random, 8) == 0 ? UINT64_MAX : random_below(&self->random, now + 5);
}

static void read_one(struct model *self)
{
    int key = (int)random_below(&self->random, KEYS);
    struct slice name = slice_of(keys[key]);
    bool with_value = random_below(&self->random, 2) == 0;
    struct version got;
    const struct model_version *wanted = latest(self, key, UINT64_MAX);
    struct versions *versions = self->twin.versions;
    uint64_t number = random_below(&self->random, (wanted == NULL ? 0 : wanted->version) + 2), time = some_time(self);
    switch (random_below(&self->random, 3)) {
    case 0:
        check_read(versions_latest(versions, name, with_value, &got), wanted, &got, with_value);
        break;
    case 1:
        wanted = NULL;
        for (size_t i = 0; i < self->count; i++)
            if (self->versions[i].key == key && self->versions[i].version == number)
                wanted = &self->versions[i];
        check_read(versions_by_version(versions, name, number, with_value, &got), wanted, &got, with_value);
        break;
    default:
        wanted = latest(self, key, time);
        check_read(versions_by_time(versions, name, time, with_value, &got), wanted, &got, with_value);
    }
}

struct expectation {
    const struct model_version *wanted[MODEL_MAX];
    size_t count, at, stop_after;
    bool values;
};

static bool meet(void *arg, const struct version *got)
{
    struct expectation *expectation = arg;
    cr_assert_lt(expectation->at, expectation->count, "more was visited than there is");
    check(expectation->wanted[expectation->at++], got, expectation->values);
    return expectation->at < expectation->stop_after;
}

static int by_key(const void *a, const void *b)
{
    const struct model_version *left = *(const struct model_version *const *)a,
                               *right = *(const struct model_version *const *)b;
    return strcmp(keys[left->key], keys[right->key]); /* unsigned bytes */
}

static void read_list(struct model *self)
{
    static const char *const prefixes[] = {"", "a", "a/", "b/1", "farm/", "q", "zz", "\xc3"};
    struct expectation *expectation = calloc(1, sizeof(*expectation));
    struct versions_range range = {
        .prefix = slice_of(prefixes[random_below(&self->random, 8)]),
        .at = some_time(self),
        .tombstones = random_below(&self->random, 2) == 0,
        .values = random_below(&self->random, 2) == 0,
    };
    if (random_below(&self->random, 2) == 0)
        range.after = slice_of(keys[random_below(&self->random, KEYS)]);
    for (int key = 0; key < KEYS; key++) {
        const struct model_version *version = latest(self, key, range.at);
        if (version == NULL || (version->tombstone && !range.tombstones) ||
            strncmp(keys[key], range.prefix.data, range.prefix.size) != 0 ||
            (range.after.size > 0 && strcmp(keys[key], range.after.data) <= 0))
            continue;
        expectation->wanted[expectation->count++] = version;
    }
    qsort(expectation->wanted, expectation->count, sizeof(expectation->wanted[0]), by_key);
    expectation->values = range.values;
    expectation->stop_after = random_below(&self->random, 3) == 0 ? 1 + random_below(&self->random, 10) : SIZE_MAX;
    cr_assert_eq(versions_list(self->twin.versions, &range, meet, expectation), SLUICE_OK);
    cr_assert(expectation->at == expectation->count || expectation->at == expectation->stop_after);
    free(expectation);
}

static void read_history(struct model *self)
{
    struct expectation *expectation = calloc(1, sizeof(*expectation));
    int key = (int)random_below(&self->random, KEYS);
    struct versions_span span = {.version_to = UINT64_MAX, .time_to = UINT64_MAX};
    const struct model_version *last = latest(self, key, UINT64_MAX);
    uint64_t numbers = (last == NULL ? 0 : last->version) + 3;
    if (random_below(&self->random, 2) == 0)
        span.version_from = random_below(&self->random, numbers);
    if (random_below(&self->random, 2) == 0)
        span.version_to = random_below(&self->random, numbers);
    if (random_below(&self->random, 2) == 0)
        span.time_from = some_time(self);
    if (random_below(&self->random, 2) == 0)
        span.time_to = some_time(self);
    span.descending = random_below(&self->random, 2) == 0;
    span.values = expectation->values = random_below(&self->random, 2) == 0;
    expectation->stop_after = random_below(&self->random, 3) == 0 ? 1 + random_below(&self->random, 10) : SIZE_MAX;
    for (size_t step = 0; step < self->count; step++) {
        const struct model_version *version = &self->versions[span.descending ? self->count - 1 - step : step];
        if (version->key == key && version->version >= span.version_from && version->version <= span.version_to &&
            version->time >= span.time_from && version->time <= span.time_to)
            expectation->wanted[expectation->count++] = version;
    }
    cr_assert_eq(versions_history(self->twin.versions, slice_of(keys[key]), &span, meet, expectation), SLUICE_OK);
    cr_assert(expectation->at == expectation->count || expectation->at == expectation->stop_after, "%zu of %zu",
              expectation->at, expectation->count);
    free(expectation);
}

static bool may_be_gone(const struct model *self, uint64_t revision)
{
    return revision <= self->compacted && !self->makes[revision];
}

/* A store drops what may go by and by; memory does at once. */
static void read_next(struct model *self, uint64_t revision)
{
    uint64_t from = revision == 0 ? 1 : revision, next;
    enum sluice_status status = versions_next(self->twin.versions, revision, &next);
    for (; from <= self->applied && (status != SLUICE_OK || from < next); from++)
        cr_assert(may_be_gone(self, from), "revision %llu was passed over", (unsigned long long)from);
    cr_assert_eq(status, from > self->applied ? SLUICE_NOT_FOUND : SLUICE_OK);
    if (self->twin.kind == TWIN_MEMORY && status == SLUICE_OK)
        cr_assert(!may_be_gone(self, next));
}

static void read_entry(struct model *self)
{
    uint64_t revision = random_below(&self->random, self->applied + 2), out;
    struct entry entry;
    enum sluice_status status = versions_entry(self->twin.versions, revision, &entry);
    if (revision == 0 || revision > self->applied)
        cr_assert_eq(status, SLUICE_NOT_FOUND);
    else if (may_be_gone(self, revision))
        cr_assert(status == SLUICE_GONE || (status == SLUICE_OK && self->twin.kind != TWIN_MEMORY));
    else
        cr_assert_eq(status, SLUICE_OK);
    read_next(self, revision);
    if (status == SLUICE_OK) {
        cr_assert_eq(entry.index, revision);
        cr_assert_eq(entry.time, self->times[revision]);
        buf_unref(entry.body);
    }
    uint64_t time = some_time(self), wanted = 1;
    while (wanted <= self->applied && self->times[wanted] <= time)
        wanted++;
    cr_assert_eq(versions_revision_after(self->twin.versions, time, &out), SLUICE_OK);
    /* What is gone is passed over; a store may still have it. */
    while (wanted < out && wanted <= self->applied && may_be_gone(self, wanted))
        wanted++;
    cr_assert_eq(out, wanted);
    if (self->twin.kind == TWIN_MEMORY && out <= self->applied)
        cr_assert(!may_be_gone(self, out));
}

static void read_count(struct model *self)
{
    static const char *const prefixes[] = {"", "a", "b", "farm", "zz", "q"};
    const char *prefix = prefixes[random_below(&self->random, 6)];
    uint64_t limit = random_below(&self->random, 2) == 0 ? UINT64_MAX : random_below(&self->random, 50), count,
             wanted = 0;
    for (size_t i = 0; i < self->count; i++)
        wanted +=
            text_prefix_holds(prefix, strlen(prefix), keys[self->versions[i].key], strlen(keys[self->versions[i].key]));
    cr_assert_eq(versions_count(self->twin.versions, slice_of(prefix), limit, &count), SLUICE_OK);
    cr_assert_eq(count, wanted < limit ? wanted : limit);
}

static void see_fact(void *arg, struct slice name, struct slice value)
{
    uint8_t *seen = arg, number = *(const uint8_t *)name.data;
    cr_assert_lt(number, FACTS);
    cr_assert_eq(seen[number], 0);
    seen[number] = *(const uint8_t *)value.data;
    cr_assert_eq(value.size, (size_t)seen[number] * 3);
}

static void read_facts(struct model *self)
{
    uint8_t seen[FACTS] = {0};
    cr_assert_eq(versions_facts(self->twin.versions, see_fact, seen), SLUICE_OK);
    cr_assert_eq(memcmp(seen, self->facts, FACTS), 0);
}

static void apply(struct model *self)
{
    struct twin_put puts[5];
    static uint8_t values[5][VALUE_MAX];
    uint32_t count = (uint32_t)random_below(&self->random, 4) == 0 ? (uint32_t)random_below(&self->random, 5) : 1;
    uint64_t time = self->times[self->applied] + random_below(&self->random, 4);
    int first = (int)random_below(&self->random, KEYS);
    for (uint32_t i = 0; i < count; i++) {
        int key = (first + (int)i * 5) % KEYS;
        const struct model_version *before = latest(self, key, UINT64_MAX);
        struct model_version *made = &self->versions[self->count + i];
        *made = (struct model_version){.key = key,
                                       .version = before == NULL ? 1 : before->version + 1,
                                       .revision = self->applied + 1,
                                       .time = time,
                                       .object_time = 1 + random_below(&self->random, 1000000),
                                       .operation = i,
                                       .tombstone = random_below(&self->random, 8) == 0};
        if (!made->tombstone)
            made->value_size =
                (uint32_t)random_below(&self->random, random_below(&self->random, 5) == 0 ? VALUE_MAX : 40);
        for (uint32_t at = 0; at < made->value_size; at++)
            values[i][at] = value_byte(made, at);
        puts[i] = (struct twin_put){.key = keys[key],
                                    .type = i % 2 == 0 ? "text/plain" : NULL,
                                    .value = values[i],
                                    .value_size = made->value_size,
                                    .version = made->version,
                                    .tombstone = made->tombstone,
                                    .object_time = made->object_time};
    }
    uint8_t name = (uint8_t)random_below(&self->random, FACTS), value[30];
    uint8_t fact_value = (uint8_t)random_below(&self->random, 10);
    memset(value, fact_value, sizeof(value));
    const struct versions_fact fact = {{&name, 1}, {value, (size_t)fact_value * 3}};
    uint32_t fact_count = (uint32_t)random_below(&self->random, 2);
    cr_assert_eq(twin_apply(&self->twin, time, puts, count, &fact, fact_count), SLUICE_OK);
    self->count += count;
    self->applied++;
    self->times[self->applied] = time;
    self->makes[self->applied] = count > 0;
    if (fact_count == 1)
        self->facts[name] = fact_value;
}

/* A store that is busy with the last one says so: nothing may go then. */
static void compact(struct model *self)
{
    uint64_t upto = random_below(&self->random, self->applied + 2);
    enum sluice_status status = versions_compact(self->twin.versions, upto);
    cr_assert(status == SLUICE_OK || (status == SLUICE_BUSY && self->twin.kind != TWIN_MEMORY));
    if (upto > self->applied)
        upto = self->applied;
    if (status == SLUICE_OK && upto > self->compacted)
        self->compacted = upto;
}

static void run(enum twin_kind kind, uint64_t hot_bytes_max, int steps)
{
    struct model *self = calloc(1, sizeof(*self));
    random_seed(&self->random, test_seed(twin_name(kind)));
    twin_open(&self->twin, kind);
    if (hot_bytes_max != 0) {
        twin_close(&self->twin);
        twin_open(&self->twin, TWIN_STORED);
        versions_destroy(self->twin.versions);
        const struct versions_options options = {
            .group = 7, .epoch = 3, .store = self->twin.store, .hot_bytes_max = hot_bytes_max};
        cr_assert_eq(versions_create(&options, &self->twin.versions), SLUICE_OK);
    }
    for (int step = 0; step < steps && self->count + 5 < MODEL_MAX; step++) {
        uint64_t what = random_below(&self->random, 100);
        if (what < 40)
            apply(self);
        else if (what < 80)
            read_one(self);
        else if (what < 85)
            read_list(self);
        else if (what < 92)
            read_history(self);
        else if (what < 97)
            read_entry(self);
        else if (what < 98)
            read_count(self);
        else if (what < 99)
            random_below(&self->random, 4) == 0 ? compact(self) : read_facts(self);
        else if (random_below(&self->random, kind == TWIN_REOPENED ? 10 : 1) == 0)
            twin_settle(&self->twin);
        cr_assert_eq(versions_applied(self->twin.versions, NULL), self->applied);
    }
    twin_close(&self->twin);
    free(self);
}

Test(versions_model, random_work_agrees_in_memory)
{
    run(TWIN_MEMORY, 0, 8000);
}
Test(versions_model, random_work_agrees_over_a_store)
{
    run(TWIN_STORED, 0, 6000);
}
Test(versions_model, random_work_agrees_while_everything_is_evicted)
{
    run(TWIN_EVICTED, 0, 5000);
}
Test(versions_model, random_work_agrees_while_some_is_evicted)
{
    run(TWIN_STORED, 20000, 5000);
}
Test(versions_model, random_work_agrees_over_reopenings)
{
    run(TWIN_REOPENED, 0, 4000);
}

/* The n-th allocation fails, for every n: the entry is applied whole or not at all. */
static void fail_each_allocation(enum twin_kind kind)
{
    struct twin twin;
    twin_open(&twin, kind);
    uint64_t failures = 0, revision = 0;
    char key[4][16];
    for (int n = 0; n < 400; n++) {
        struct twin_put puts[4];
        for (int i = 0; i < 4; i++) {
            /* A new key, one with one version, and ones with more: their arrays grow at different times. */
            snprintf(key[i], sizeof(key[i]), i == 0 ? "new%d" : "key%d", i == 0 ? n : i);
            puts[i] = (struct twin_put){.key = key[i], .type = "t", .value = "v", .value_size = 1};
            struct version before;
            enum sluice_status status = versions_latest(twin.versions, slice_of(key[i]), false, &before);
            puts[i].version = status == SLUICE_OK ? before.version + 1 : 1;
            if (status == SLUICE_OK)
                version_release(&before);
        }
        const struct versions_fact facts[] = {{slice_of("f"), slice_of("1")}, {slice_of("g"), slice_of("1")}};
        enum sluice_status status = SLUICE_MEMORY;
        for (long after = 0; status != SLUICE_OK; after++) {
            uint64_t bytes = versions_hot_bytes(twin.versions), count;
            memory__fail_after(after);
            status = twin_apply(&twin, twin.time + 1, puts, 4, facts, 2);
            memory__fail_after(-1);
            if (status == SLUICE_OK)
                break;
            failures++;
            cr_assert_eq(status, SLUICE_MEMORY);
            cr_assert_eq(versions_applied(twin.versions, NULL), revision);
            cr_assert_eq(versions_count(twin.versions, slice_of(""), UINT64_MAX, &count), SLUICE_OK);
            cr_assert_eq(count, revision * 4);
            struct version none;
            cr_assert_eq(versions_latest(twin.versions, slice_of(key[0]), false, &none), SLUICE_NOT_FOUND);
            if (kind == TWIN_MEMORY && n > 100) /* room that was made stays, no more than that */
                cr_assert_leq(versions_hot_bytes(twin.versions), bytes * 3);
        }
        revision++;
    }
    cr_assert_gt(failures, 400);
    twin_close(&twin);
}

Test(versions_model, an_entry_is_applied_whole_or_not_at_all_when_memory_is_out)
{
    fail_each_allocation(TWIN_MEMORY);
}
Test(versions_model, the_same_over_a_store)
{
    fail_each_allocation(TWIN_STORED);
}
