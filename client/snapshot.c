/* Snapshots: any number of keys and prefixes at one time, with their values. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

#define BYTES_MAX  (64u << 20)
#define AT_ONCE    64u /* keys that are asked for at the same time */
#define KEYS_MAX   65536u
#define PAGE_LIMIT 1000u

struct snapshot_key {
    struct ask ask;
    struct wire_query *query;
    struct sluice_object object;
};

struct snapshot_job {
    struct job job;
    struct cut cut;
    struct scan scan;
    struct pages pages; /* the values of keys, and all that the prefixes hold */
    struct snapshot_key *keys;
    size_t key_count, key_started, key_left;
    char **prefixes;
    size_t *prefix_sizes;
    size_t prefix_count, prefix_next;
    bool scanning;
    uint32_t *shards;
    size_t shard_count;
    uint64_t at;
    uint64_t bytes;
};

static void snapshot_deinit(struct job *job)
{
    struct snapshot_job *self = (struct snapshot_job *)job;
    cut__deinit(&self->cut);
    scan__deinit(&self->scan);
    for (size_t i = 0; i < self->key_count; i++) {
        ask__cancel(&self->keys[i].ask);
        free(self->keys[i].query);
    }
    for (size_t i = 0; i < self->prefix_count; i++)
        free(self->prefixes[i]);
    free(self->keys);
    free(self->prefixes);
    free(self->prefix_sizes);
    free(self->shards);
    pages__free(&self->pages);
}

/* --- The answer --- */

static int compare_objects(const void *left, const void *right)
{
    const struct sluice_object *a = left, *b = right;
    int order = memcmp(a->key, b->key, a->key_size < b->key_size ? a->key_size : b->key_size);
    return order != 0 ? order : (a->key_size > b->key_size) - (a->key_size < b->key_size);
}

/* What prefixes gave, without what another prefix gave already or what was asked for by name. */
static size_t unique(const struct snapshot_job *self, struct sluice_object *objects, size_t count)
{
    struct sluice_object *named = malloc((self->key_count + 1) * sizeof(*named));
    size_t kept = 0;
    if (named == NULL)
        return SIZE_MAX;
    for (size_t i = 0; i < self->key_count; i++)
        named[i] = self->keys[i].object;
    qsort(named, self->key_count, sizeof(*named), compare_objects);
    if (count > 0)
        qsort(objects, count, sizeof(*objects), compare_objects);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && compare_objects(&objects[kept - 1], &objects[i]) == 0)
            continue;
        if (self->key_count > 0 &&
            bsearch(&objects[i], named, self->key_count, sizeof(*named), compare_objects) != NULL)
            continue;
        objects[kept++] = objects[i];
    }
    free(named);
    return kept;
}

static void answer(struct snapshot_job *self)
{
    size_t listed = unique(self, self->pages.objects, self->pages.object_count);
    struct sluice_object *objects =
        listed == SIZE_MAX ? NULL : malloc((self->key_count + listed + 1) * sizeof(*objects));
    char *watch_cursor = watch__cursor_at(self->at);
    if (objects == NULL || watch_cursor == NULL) {
        free(objects);
        free(watch_cursor);
        job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
        return;
    }
    for (size_t i = 0; i < self->key_count; i++)
        objects[i] = self->keys[i].object;
    if (listed > 0)
        memcpy(objects + self->key_count, self->pages.objects, listed * sizeof(*objects));
    const struct sluice_answer answer = {
        .status = SLUICE_OK,
        .detail = sluice_status_text(SLUICE_OK),
        .objects = objects,
        .object_count = self->key_count + listed,
        .at_ns = self->at,
        .watch_cursor = watch_cursor,
        .durable = true,
    };
    job__answer(&self->job, &answer);
    free(objects);
    free(watch_cursor);
}

/* False: the job has ended. */
static bool count_bytes(struct snapshot_job *self, size_t size)
{
    self->bytes += size;
    if (self->bytes <= BYTES_MAX)
        return true;
    job__fail(&self->job, SLUICE_TOO_LARGE,
              "a snapshot holds at most 64 MiB of values; ask for fewer keys, or list and get at the same time");
    return false;
}

static void go_on(struct snapshot_job *self);

/* --- Keys --- */

static void key_came(struct ask *ask, const struct reply *reply)
{
    struct snapshot_key *key = LIST__OF(ask, struct snapshot_key, ask);
    struct snapshot_job *self = ask->owner;
    struct wire_record_view view;
    size_t offset = 0;
    if (reply->status == SLUICE_DELETED) {
        key->object.deleted = true;
    } else if (reply->status == SLUICE_OK) {
        struct sluice_value *page = sluice_value_create((uint32_t)reply->body_size);
        bool held = page != NULL && pages__hold(&self->pages, page);
        sluice_value_unref(page);
        if (!held) {
            job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
            return;
        }
        memcpy(sluice_value_data(page), reply->body, reply->body_size);
        if (wire_record_next(sluice_value_data(page), reply->body_size, &offset, &view) != 1) {
            job__fail(&self->job, SLUICE_INTERNAL, "a node's answer cannot be read");
            return;
        }
        record__object(&view, true, page, &key->object);
        if (!count_bytes(self, key->object.data_size))
            return;
    } else if (reply->status != SLUICE_NOT_FOUND) {
        job__fail_reply(&self->job, reply);
        return;
    }
    self->key_left--;
    go_on(self);
}

static void start_key(struct snapshot_job *self, struct snapshot_key *key)
{
    key->query->flags = WIRE_QUERY_AT;
    key->query->at = self->at;
    job__ask(&self->job, &key->ask, WIRE_GET, key_came);
    key->ask.target = ASK_KEY;
    key->ask.key = wire_query_key(key->query);
    key->ask.key_size = key->query->key_size;
    key->ask.body = key->query;
    key->ask.body_size = sizeof(*key->query) + key->query->key_size;
    ask__start(&key->ask);
}

/* --- Prefixes --- */

static void prefix_read(struct scan *scan)
{
    struct snapshot_job *self = LIST__OF(scan, struct snapshot_job, scan);
    while (scan__is_ready(scan)) {
        struct scan_shard *first = scan__first(scan);
        if (scan->broken) {
            job__fail(&self->job, SLUICE_INTERNAL, "a node's answer cannot be read");
            return;
        }
        if (first == NULL) {
            scan__deinit(scan);
            self->scanning = false;
            go_on(self);
            return;
        }
        struct sluice_object object;
        record__object(&first->view, true, first->page, &object);
        if (!count_bytes(self, object.data_size))
            return;
        if ((!pages__holds(&self->pages, first->page) && !pages__hold(&self->pages, first->page)) ||
            !pages__add(&self->pages, &object)) {
            job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
            return;
        }
        scan__next(first);
    }
}

static void prefix_failed(struct scan *scan, const struct reply *reply)
{
    job__fail_reply(&LIST__OF(scan, struct snapshot_job, scan)->job, reply);
}

static bool start_prefix(struct snapshot_job *self)
{
    const struct slice prefix = {self->prefixes[self->prefix_next], self->prefix_sizes[self->prefix_next]}, after = {0};
    uint32_t *shards = NULL;
    size_t count = 0;
    if (!route__shards_of_prefix(self->job.client, prefix.data, prefix.size, &shards, &count))
        return false;
    self->prefix_next++;
    self->scan = (struct scan){.values = true, .page_limit = PAGE_LIMIT, .ready = prefix_read, .failed = prefix_failed};
    self->scanning = true;
    bool good = count > 0 && scan__start(&self->scan, &self->job, shards, count, &prefix, &after, self->at);
    free(shards);
    return good;
}

static void go_on(struct snapshot_job *self)
{
    while (self->key_started < self->key_count && self->key_started - (self->key_count - self->key_left) < AT_ONCE)
        start_key(self, &self->keys[self->key_started++]);
    if (!self->scanning && self->prefix_next < self->prefix_count && !start_prefix(self)) {
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
        return;
    }
    if (self->key_left == 0 && !self->scanning)
        answer(self);
}

static void cut_known(struct cut *cut, const struct reply *failed)
{
    struct snapshot_job *self = LIST__OF(cut, struct snapshot_job, cut);
    if (failed != NULL) {
        job__fail_reply(&self->job, failed);
        return;
    }
    self->at = cut->time;
    go_on(self);
}

/* --- Starting --- */

static bool add_shard(struct snapshot_job *self, uint32_t shard)
{
    for (size_t i = 0; i < self->shard_count; i++)
        if (self->shards[i] == shard)
            return true;
    uint32_t *grown = reallocarray(self->shards, self->shard_count + 1, sizeof(*grown));
    if (grown == NULL)
        return false;
    self->shards = grown;
    self->shards[self->shard_count++] = shard;
    return true;
}

static bool gather_shards(struct snapshot_job *self)
{
    const struct sluice_client *client = self->job.client;
    for (size_t i = 0; i < self->key_count; i++) {
        const struct wire_query *query = self->keys[i].query;
        const struct route *route = route__of_key(client, wire_query_key(query), query->key_size);
        if (route != NULL && !add_shard(self, route->id))
            return false;
    }
    bool good = true;
    for (size_t i = 0; good && i < self->prefix_count; i++) {
        uint32_t *shards = NULL;
        size_t count = 0;
        good = route__shards_of_prefix(client, self->prefixes[i], self->prefix_sizes[i], &shards, &count);
        for (size_t k = 0; good && k < count; k++)
            good = add_shard(self, shards[k]);
        free(shards);
    }
    return good;
}

static void go(struct job *job)
{
    struct snapshot_job *self = (struct snapshot_job *)job;
    if (!gather_shards(self))
        job__refuse(job, SLUICE_MEMORY, "no memory for the request");
    else if (self->at != 0)
        go_on(self);
    else if (!cut__start(&self->cut, job->client, self->shards, self->shard_count, job->after, job->deadline_ns,
                         cut_known))
        job__refuse(job, SLUICE_MEMORY, "no memory for the request");
}

/* NULL, or what is wrong; *status says how wrong. */
static const char *copy_request(struct snapshot_job *self, const struct sluice_snapshot *request,
                                enum sluice_status *status)
{
    const char *why = NULL;
    *status = SLUICE_MEMORY;
    self->keys = calloc(request->key_count + 1, sizeof(*self->keys));
    self->prefixes = calloc(request->prefix_count + 1, sizeof(char *));
    self->prefix_sizes = calloc(request->prefix_count + 1, sizeof(size_t));
    if (self->keys == NULL || self->prefixes == NULL || self->prefix_sizes == NULL)
        return "no memory for the request";
    for (size_t i = 0; i < request->key_count; i++) {
        struct snapshot_key *key = &self->keys[i];
        size_t size;
        *status = query__check_key(request->keys[i], request->key_sizes[i], request->call.admin, &why);
        if (*status != SLUICE_OK)
            return why;
        *status = SLUICE_MEMORY;
        key->query = query__create(request->keys[i], request->key_sizes[i], 0, &size);
        if (key->query == NULL)
            return "no memory for the request";
        self->key_count++;
        key->object = (struct sluice_object){
            .key = wire_query_key(key->query), .key_size = key->query->key_size, .content_type = ""};
    }
    for (size_t i = 0; i < request->prefix_count; i++) {
        why = query__prefix_error(request->prefixes[i], request->prefix_sizes[i]);
        *status = why != NULL ? SLUICE_INVALID : SLUICE_MEMORY;
        if (why != NULL)
            return why;
        self->prefixes[i] = text__dup(request->prefixes[i], request->prefix_sizes[i]);
        if (self->prefixes[i] == NULL)
            return "no memory for the request";
        self->prefix_sizes[i] = request->prefix_sizes[i];
        self->prefix_count++;
    }
    *status = SLUICE_OK;
    return NULL;
}

void sluice_snapshot(struct sluice_client *client, const struct sluice_snapshot *request, sluice_done done, void *arg)
{
    struct snapshot_job *self = job__create(client, sizeof(*self), &request->call, done, arg, snapshot_deinit);
    if (self == NULL)
        return;
    if (request->key_count + request->prefix_count == 0 || request->key_count > KEYS_MAX ||
        request->prefix_count > KEYS_MAX) {
        job__refuse(&self->job, SLUICE_INVALID, "a snapshot names 1 to %u keys or prefixes", KEYS_MAX);
        return;
    }
    enum sluice_status status;
    const char *why = copy_request(self, request, &status);
    if (why != NULL) {
        job__refuse(&self->job, status, "%s", why);
        return;
    }
    self->key_left = self->key_count;
    self->at = request->at_ns;
    job__when_mapped(&self->job, NULL, go);
}
