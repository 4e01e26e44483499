/* Lambdas: an upload is tried on a node first, kept as an object, then named in the map, which is what makes nodes load
 * it. What they say of it is put together here. */
#include <jansson.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

#define NAME_BYTES_MAX  48u
#define KEY_PREFIX      "_sluice/lambdas/"
#define SETTLE_NS       (2 * NS_PER_S) /* so long an upload waits until the nodes have loaded it */
#define SETTLE_EVERY_NS (50 * NS_PER_MS)

struct lambda_job {
    struct job job;
    struct change change;
    struct gather gather;
    struct ask check;
    struct job *put; /* the write of the object, while it is under way */
    struct timer again;
    char *name;       /* NULL: all */
    char *check_body; /* u32 size of the configuration, the configuration */
    json_t *config;   /* its text */
    json_t *watches;
    char placement[32], isolation[32];
    struct sluice_value *file;
    size_t file_size;
    char sha256[65];
    uint64_t version;
    uint64_t settled_by_ns;
};

static void lambda_deinit(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    if (self->put != NULL)
        self->put->done = job__nothing;
    timer__stop(&job->client->timers, &self->again);
    ask__cancel(&self->check);
    change__deinit(&self->change);
    gather__deinit(&self->gather);
    json_decref(self->config);
    json_decref(self->watches);
    sluice_value_unref(self->file);
    free(self->check_body);
    free(self->name);
}

static bool name_good(const char *name)
{
    size_t size = strlen(name);
    return size > 0 && size <= NAME_BYTES_MAX && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == size;
}

static struct lambda_job *lambda_create(struct sluice_client *client, const struct sluice_call *call, const char *name,
                                        sluice_done done, void *arg)
{
    struct lambda_job *self = job__create(client, sizeof(*self), call, done, arg, lambda_deinit);
    if (self == NULL || name == NULL)
        return self;
    if (!name_good(name)) {
        job__refuse(&self->job, SLUICE_INVALID,
                    "a lambda's name has 1 to %u of the characters a-z A-Z 0-9 _ - . and does not begin with a dot",
                    NAME_BYTES_MAX);
        return NULL;
    }
    self->name = text__dup(name, strlen(name));
    if (self->name != NULL)
        return self;
    job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
    return NULL;
}

static void answer_document(struct job *job, json_t *document)
{
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    if (text == NULL)
        job__fail(job, SLUICE_MEMORY, "no memory for the answer");
    else
        job__answer_json(job, SLUICE_OK, sluice_status_text(SLUICE_OK), text);
    free(text);
}

/* --- What the nodes say, put together --- */

/* What a node says of the lambda; NULL: nothing. */
static const json_t *node_entry(const struct gather_node *node, const char *name)
{
    size_t i;
    const json_t *entry;
    json_array_foreach((json_t *)node->json, i, entry)
    {
        const char *its = json_string_value(json_object_get(entry, "name"));
        if (its != NULL && strcmp(its, name) == 0)
            return entry;
    }
    return NULL;
}

static void add_counters(json_t *sums, const json_t *counters)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)counters, name, value)
    {
        json_int_t sum;
        if (json_is_integer(value) &&
            !__builtin_add_overflow(json_integer_value(json_object_get(sums, name)), json_integer_value(value), &sum))
            json_object_set_new(sums, name, json_integer(sum));
    }
}

static const char *worse_state(const char *a, const char *b)
{
    static const char *const worst_first[] = {"failed", "loading", "active", "disabled"};
    for (size_t i = 0; i < sizeof(worst_first) / sizeof(worst_first[0]); i++)
        if (strcmp(a, worst_first[i]) == 0 || strcmp(b, worst_first[i]) == 0)
            return worst_first[i];
    return b;
}

static const char *const summed[] = {"events", "runs", "failures", "parked", "effects", "refused", "queued", "overdue"};
static const char *const joined[] = {"parked_events", "cursors"};

/* Adds one node's numbers to the document; returns the state that it reports. */
static const char *add_node(json_t *document, const struct gather_node *node, const json_t *entry, uint64_t version)
{
    const char *state = json_string_value(json_object_get(entry, "state"));
    const json_t *error = json_object_get(entry, "error");
    bool late = json_integer_value(json_object_get(entry, "version")) != (json_int_t)version;
    if (state == NULL || late)
        state = "loading";
    for (size_t i = 0; i < sizeof(summed) / sizeof(summed[0]); i++) {
        json_int_t sum = json_integer_value(json_object_get(document, summed[i]));
        if (!__builtin_add_overflow(sum, json_integer_value(json_object_get(entry, summed[i])), &sum))
            json_object_set_new(document, summed[i], json_integer(sum));
    }
    add_counters(json_object_get(document, "counters"), json_object_get(entry, "counters"));
    for (size_t i = 0; i < sizeof(joined) / sizeof(joined[0]); i++)
        if (json_is_array(json_object_get(entry, joined[i])))
            json_array_extend(json_object_get(document, joined[i]), json_object_get(entry, joined[i]));
    if (json_is_string(error)) {
        json_object_set(document, "error", (json_t *)(uintptr_t)error);
        json_object_set(document, "last_error", (json_t *)(uintptr_t)error);
    }
    json_array_append_new(
        json_object_get(document, "nodes"),
        json_pack("{s:i, s:s, s:s?}", "node", (int)node->node, "state", state, "error", json_string_value(error)));
    return state;
}

static json_t *watches_json(const struct map_lambda *lambda)
{
    json_t *watches = json_array();
    for (size_t i = 0; i < lambda->watch_count; i++)
        json_array_append_new(
            watches, json_pack("{s:i, s:s}", "kind", lambda->watches[i].kind, "pattern", lambda->watches[i].pattern));
    return watches;
}

static json_t *lambda_json(const struct lambda_job *self, const struct map_lambda *lambda)
{
    json_t *config = json_loads(lambda->config, JSON_DECODE_ANY, NULL);
    if (config == NULL)
        config = json_string(lambda->config);
    json_t *document = json_pack(
        "{s:s, s:I, s:s, s:I, s:o, s:s, s:s, s:b, s:o, s:{}, s:n, s:n, s:[], s:[], s:[]}", "name", lambda->name,
        "version", (json_int_t)lambda->version, "sha256", lambda->sha256, "size", (json_int_t)lambda->size, "config",
        config, "placement", lambda->placement, "isolation", lambda->isolation, "enabled", lambda->enabled ? 1 : 0,
        "watches", watches_json(lambda), "counters", "error", "last_error", "parked_events", "cursors", "nodes");
    if (document == NULL)
        return NULL;
    for (size_t i = 0; i < sizeof(summed) / sizeof(summed[0]); i++)
        json_object_set_new(document, summed[i], json_integer(0));
    const char *state = NULL;
    for (size_t i = 0; i < self->gather.count; i++) {
        const json_t *entry = node_entry(&self->gather.nodes[i], lambda->name);
        if (entry == NULL)
            continue;
        const char *its = add_node(document, &self->gather.nodes[i], entry, lambda->version);
        state = state == NULL ? its : worse_state(state, its);
    }
    json_object_set_new(document, "state",
                        json_string(!lambda->enabled ? "disabled"
                                    : state == NULL  ? "loading"
                                                     : state));
    return document;
}

/* --- Get --- */

static void statuses_known(struct gather *gather)
{
    struct lambda_job *self = LIST__OF(gather, struct lambda_job, gather);
    const struct map *map = self->job.client->map;
    if (self->name != NULL) {
        const struct map_lambda *lambda = map_lambda_find(map, self->name);
        if (lambda == NULL)
            job__fail(&self->job, SLUICE_NOT_FOUND, "there is no such lambda");
        else
            answer_document(&self->job, lambda_json(self, lambda));
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < map->lambda_count; i++)
        json_array_append_new(list, lambda_json(self, &map->lambdas[i]));
    answer_document(&self->job, json_pack("{s:o}", "lambdas", list));
}

static void gather_statuses(struct lambda_job *self, void (*done)(struct gather *gather))
{
    size_t size = self->name == NULL ? 0 : strlen(self->name);
    if (!gather__start(&self->gather, &self->job, WIRE_LAMBDA_STATUS, self->name, size, done))
        job__fail(&self->job, SLUICE_MEMORY, "no memory for the request");
}

static void get_go(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    if (self->name != NULL && map_lambda_find(job->client->map, self->name) == NULL)
        job__fail(job, SLUICE_NOT_FOUND, "there is no such lambda");
    else
        gather_statuses(self, statuses_known);
}

void sluice_lambda_get(struct sluice_client *client, const struct sluice_call *call, const char *name, sluice_done done,
                       void *arg)
{
    struct lambda_job *self = lambda_create(client, call, name, done, arg);
    if (self != NULL)
        job__later(&self->job, get_go);
}

/* --- Delete, enable, disable --- */

static bool change_shows(struct job *job)
{
    return change__shows(&((struct lambda_job *)job)->change);
}

static void changed_shows(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    const struct map_lambda *lambda = map_lambda_find(job->client->map, self->name);
    answer_document(job, lambda == NULL ? json_pack("{s:s, s:b}", "name", self->name, "deleted", 1)
                                        : json_pack("{s:s, s:I, s:s, s:b}", "name", self->name, "version",
                                                    (json_int_t)lambda->version, "sha256", lambda->sha256, "enabled",
                                                    lambda->enabled ? 1 : 0));
}

static void changed(struct ask *ask, const struct reply *reply)
{
    struct lambda_job *self = ask->owner;
    if (reply->status == SLUICE_OK)
        job__when_mapped(&self->job, change_shows, changed_shows);
    else if (reply->status == SLUICE_NOT_FOUND && ask->maybe_applied)
        changed_shows(&self->job); /* deleted by an earlier attempt */
    else
        job__fail_reply(&self->job, reply);
}

static void send_change(struct lambda_job *self, json_t *document)
{
    if (!change__send(&self->change, &self->job, document, changed))
        job__fail(&self->job, SLUICE_MEMORY, "no memory; nothing was changed");
}

static void delete_go(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    send_change(self, json_pack("{s:s, s:s}", "change", "lambda_delete", "name", self->name));
}

void sluice_lambda_delete(struct sluice_client *client, const struct sluice_call *call, const char *name,
                          sluice_done done, void *arg)
{
    struct lambda_job *self = lambda_create(client, call, name, done, arg);
    if (self != NULL)
        job__later(&self->job, delete_go);
}

static void enable_go(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    send_change(self, json_pack("{s:s, s:s, s:b}", "change", "lambda_enable", "name", self->name, "enabled", 1));
}

static void disable_go(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    send_change(self, json_pack("{s:s, s:s, s:b}", "change", "lambda_enable", "name", self->name, "enabled", 0));
}

void sluice_lambda_action(struct sluice_client *client, const struct sluice_call *call, const char *name,
                          const char *action, sluice_done done, void *arg)
{
    struct lambda_job *self = lambda_create(client, call, name, done, arg);
    if (self == NULL)
        return;
    if (strcmp(action, "enable") == 0)
        job__later(&self->job, enable_go);
    else if (strcmp(action, "disable") == 0)
        job__later(&self->job, disable_go);
    else
        job__refuse(&self->job, SLUICE_INVALID,
                    "\"%.32s\" is nothing that can be done to a lambda; enable and disable are", action);
}

/* --- Upload --- */

static void uploaded_answer(struct lambda_job *self, const char *state)
{
    answer_document(&self->job, json_pack("{s:s, s:I, s:s, s:s}", "name", self->name, "version",
                                          (json_int_t)self->version, "sha256", self->sha256, "state", state));
}

/* Waits for a moment until all nodes that answer have loaded it, so that who uploads sees whether that went well. */
static void settling(struct gather *gather)
{
    struct lambda_job *self = LIST__OF(gather, struct lambda_job, gather);
    struct sluice_client *client = self->job.client;
    const char *state = NULL;
    for (size_t i = 0; i < gather->count; i++) {
        const json_t *entry = node_entry(&gather->nodes[i], self->name);
        if (gather->nodes[i].json == NULL)
            continue;
        const char *its = json_string_value(json_object_get(entry, "state"));
        if (its == NULL || json_integer_value(json_object_get(entry, "version")) != (json_int_t)self->version)
            its = "loading";
        state = state == NULL ? its : worse_state(state, its);
    }
    bool settled = state != NULL && strcmp(state, "loading") != 0;
    uint64_t now = clock_monotonic_ns();
    if (settled || now >= self->settled_by_ns)
        uploaded_answer(self, state == NULL ? "loading" : state);
    else
        timer__set(&client->timers, &self->again, now + SETTLE_EVERY_NS);
}

static void settle_again(struct timer *timer)
{
    gather_statuses(LIST__OF(timer, struct lambda_job, again), settling);
}

static void named_shows(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    const struct map_lambda *lambda = map_lambda_find(job->client->map, self->name);
    if (lambda == NULL || lambda->version < self->version) {
        job__fail(job, SLUICE_CONFLICT, "the lambda was removed by somebody else meanwhile");
        return;
    }
    uint64_t by = clock_monotonic_ns() + SETTLE_NS;
    self->settled_by_ns = by < job->deadline_ns ? by : job->deadline_ns - NS_PER_MS;
    gather_statuses(self, settling);
}

static void conflict_shows(struct job *job)
{
    struct lambda_job *self = (struct lambda_job *)job;
    const struct map_lambda *lambda = map_lambda_find(job->client->map, self->name);
    if (lambda != NULL && lambda->version == self->version && strcmp(lambda->sha256, self->sha256) == 0)
        named_shows(job);
    else
        job__fail(job, SLUICE_CONFLICT, "another version of this lambda was uploaded meanwhile; upload it again");
}

static void named(struct ask *ask, const struct reply *reply)
{
    struct lambda_job *self = ask->owner;
    if (reply->status == SLUICE_OK)
        job__when_mapped(&self->job, change_shows, named_shows);
    else if (reply->status == SLUICE_CONFLICT && ask->maybe_applied)
        /* Perhaps it is our own first attempt that is in the way. */
        job__when_mapped(&self->job, change_shows, conflict_shows);
    else
        job__fail_reply(&self->job, reply);
}

static void kept(void *arg, const struct sluice_answer *answer)
{
    struct lambda_job *self = arg;
    self->put = NULL;
    if (answer->status != SLUICE_OK) {
        job__fail(&self->job, answer->status, answer->detail);
        return;
    }
    self->version = answer->objects[0].version;
    json_t *document = json_pack("{s:s, s:s, s:I, s:s, s:O, s:s, s:s, s:I, s:O}", "change", "lambda_put", "name",
                                 self->name, "version", (json_int_t)self->version, "sha256", self->sha256, "config",
                                 self->config, "placement", self->placement, "isolation", self->isolation, "size",
                                 (json_int_t)self->file_size, "watches", self->watches);
    if (!change__send(&self->change, &self->job, document, named))
        job__fail(&self->job, SLUICE_MEMORY, "no memory; the lambda before stays in service");
}

static void keep(struct lambda_job *self)
{
    char key[sizeof(KEY_PREFIX) + NAME_BYTES_MAX];
    uint64_t now = clock_monotonic_ns();
    uint64_t left_ms = self->job.deadline_ns > now ? (self->job.deadline_ns - now) / NS_PER_MS : 0;
    snprintf(key, sizeof(key), KEY_PREFIX "%s", self->name);
    const struct sluice_operation operation = {
        .kind = SLUICE_PUT,
        .key = key,
        .key_size = strlen(key),
        .content_type = "application/x-sharedlib",
        .content_type_size = strlen("application/x-sharedlib"),
        .data_size = self->file_size,
        .value = self->file,
    };
    const struct sluice_write request = {
        .call = {.timeout_ms = left_ms == 0 ? 1 : (uint32_t)left_ms, .admin = true},
        .operations = &operation,
        .operation_count = 1,
    };
    self->put = write__start(self->job.client, &request, kept, self);
    if (self->put == NULL)
        job__fail(&self->job, SLUICE_BUSY, "too much is in flight; the lambda before stays in service, try again");
}

static void checked(struct ask *ask, const struct reply *reply)
{
    struct lambda_job *self = ask->owner;
    if (reply->status != SLUICE_OK) {
        job__fail_reply(&self->job, reply);
        return;
    }
    json_t *answer = json_loadb((const char *)reply->body, reply->body_size, 0, NULL);
    json_t *watches = json_object_get(answer, "watches");
    self->watches = json_is_array(watches) ? json_incref(watches) : NULL;
    json_decref(answer);
    if (self->watches == NULL)
        job__fail(&self->job, SLUICE_INTERNAL, "the node's answer cannot be read");
    else
        keep(self);
}

static bool hash_file(struct lambda_job *self)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (EVP_Digest(sluice_value_data(self->file), self->file_size, digest, &size, EVP_sha256(), NULL) != 1) {
        ERR_clear_error();
        return false;
    }
    for (unsigned int i = 0; i < size && 2 * i + 2 < sizeof(self->sha256); i++)
        snprintf(self->sha256 + 2 * i, 3, "%02x", digest[i]);
    return true;
}

static bool take_text(struct lambda_job *self, const json_t *manifest, const char *name, const char *otherwise,
                      char *out, size_t size)
{
    const json_t *value = json_object_get(manifest, name);
    const char *text = value == NULL ? otherwise : json_string_value(value);
    if (text == NULL || strlen(text) >= size) {
        job__refuse(&self->job, SLUICE_INVALID, "the manifest's \"%s\" is a short text", name);
        return false;
    }
    snprintf(out, size, "%s", text);
    return true;
}

static bool take_config(struct lambda_job *self, const json_t *manifest)
{
    const json_t *config = json_object_get(manifest, "config");
    if (config != NULL && !json_is_object(config)) {
        job__refuse(&self->job, SLUICE_INVALID, "the manifest's \"config\" is a JSON object");
        return false;
    }
    char *text = config == NULL ? text__dup("{}", 2) : json_dumps(config, JSON_COMPACT);
    self->config = text == NULL ? NULL : json_string(text);
    uint32_t size = text == NULL ? 0 : (uint32_t)strlen(text);
    self->check_body = malloc(sizeof(size) + size);
    if (self->check_body != NULL && text != NULL) {
        memcpy(self->check_body, &size, sizeof(size));
        memcpy(self->check_body + sizeof(size), text, size);
        self->check.body_size = sizeof(size) + size;
    }
    free(text);
    if (self->config != NULL && self->check_body != NULL)
        return true;
    job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
    return false;
}

static bool take_manifest(struct lambda_job *self, const char *manifest_json)
{
    static const char *const known[] = {"name", "config", "placement", "isolation"};
    json_error_t where;
    const char *name;
    json_t *value;
    json_t *manifest = json_loads(manifest_json == NULL ? "{}" : manifest_json, JSON_REJECT_DUPLICATES, &where);
    bool good = json_is_object(manifest);
    if (!good)
        job__refuse(&self->job, SLUICE_INVALID, "the manifest is a JSON object: line %d, column %d: %s", where.line,
                    where.column, manifest == NULL ? where.text : "another type came");
    json_object_foreach(manifest, name, value)
    {
        size_t i = 0;
        while (i < sizeof(known) / sizeof(known[0]) && strcmp(known[i], name) != 0)
            i++;
        if (good && i == sizeof(known) / sizeof(known[0])) {
            job__refuse(&self->job, SLUICE_UNPROCESSABLE,
                        "this release knows no \"%.32s\" in a manifest; known are name, config, placement, isolation",
                        name);
            good = false;
        }
    }
    good = good && take_text(self, manifest, "placement", "leader", self->placement, sizeof(self->placement)) &&
           take_text(self, manifest, "isolation", "inprocess", self->isolation, sizeof(self->isolation)) &&
           take_config(self, manifest);
    json_decref(manifest);
    return good;
}

void sluice_lambda_upload(struct sluice_client *client, const struct sluice_lambda_upload *request, sluice_done done,
                          void *arg)
{
    struct lambda_job *self =
        lambda_create(client, &request->call, request->name == NULL ? "" : request->name, done, arg);
    if (self == NULL)
        return;
    self->again.fire = settle_again;
    if (request->file == NULL || request->file_size == 0 || request->file_size > WIRE_VALUE_BYTES_MAX) {
        job__refuse(&self->job, request->file_size > WIRE_VALUE_BYTES_MAX ? SLUICE_TOO_LARGE : SLUICE_INVALID,
                    "a lambda is a shared object of at most 64 MiB");
        return;
    }
    self->file = sluice_value_ref(request->file);
    self->file_size = request->file_size;
    if (!take_manifest(self, request->manifest_json))
        return;
    if (!hash_file(self)) {
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
        return;
    }
    size_t body_size = self->check.body_size;
    job__ask(&self->job, &self->check, WIRE_LAMBDA_CHECK, checked);
    self->check.flags |= WIRE_FLAG_ADMIN;
    self->check.target = ASK_ANY;
    self->check.body = self->check_body;
    self->check.body_size = body_size;
    self->check.payload = (struct buf *)(void *)self->file;
    self->check.payload_size = (uint32_t)self->file_size;
    ask__start(&self->check);
}
