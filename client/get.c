/* Reads of one key: one version, or its history. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

/* --- One version --- */

struct get_job {
    struct job job;
    struct ask ask;
    struct wire_query *query;
    bool head;
};

static void get_deinit(struct job *job)
{
    struct get_job *self = (struct get_job *)job;
    ask__cancel(&self->ask);
    free(self->query);
}

static void got(struct ask *ask, const struct reply *reply)
{
    struct get_job *self = ask->owner;
    struct wire_record_view view;
    struct sluice_object object;
    struct sluice_value *body = NULL;
    size_t offset = 0;
    if (reply->status == SLUICE_STALE_MAP || reply->header == NULL ||
        (reply->status != SLUICE_OK && (reply->flags & WIRE_FLAG_RECORD) == 0)) {
        job__fail_reply(&self->job, reply);
        return;
    }
    /* The answer lies in the link's ring; one copy makes it the user's for as long as they like. */
    bool values = reply->status == SLUICE_OK && !self->head;
    const void *bytes = reply->body;
    if (values && reply->body_size > 0) {
        body = sluice_value_create((uint32_t)reply->body_size);
        if (body == NULL) {
            job__fail(&self->job, SLUICE_MEMORY, "no memory for the value");
            return;
        }
        memcpy(sluice_value_data(body), reply->body, reply->body_size);
        bytes = sluice_value_data(body);
    }
    if (wire_record_next(bytes, reply->body_size, &offset, &view) != 1) {
        sluice_value_unref(body);
        job__fail(&self->job, SLUICE_INTERNAL, "the node's answer cannot be read");
        return;
    }
    record__object(&view, values, body, &object);
    if (object.key_size == 0) {
        object.key = ask->key;
        object.key_size = ask->key_size;
    }
    const struct sluice_answer answer = {
        .status = reply->status,
        .detail = reply->detail,
        .objects = &object,
        .object_count = 1,
        .at_ns = reply->header->time,
        .durable = true,
    };
    /* The job goes with the answer; the value, should the user not have taken a reference, after it. */
    job__answer(&self->job, &answer);
    sluice_value_unref(body);
}

static uint16_t get_flags(const struct sluice_get *request)
{
    return (uint16_t)((request->version != 0 ? WIRE_QUERY_VERSION : 0u) | (request->at_ns != 0 ? WIRE_QUERY_AT : 0u) |
                      (request->head ? WIRE_QUERY_NO_VALUE : 0u));
}

void sluice_get(struct sluice_client *client, const struct sluice_get *request, sluice_done done, void *arg)
{
    size_t size;
    struct get_job *self = job__create(client, sizeof(*self), &request->call, done, arg, get_deinit);
    if (self == NULL)
        return;
    const char *why = NULL;
    enum sluice_status status = query__check_key(request->key, request->key_size, request->call.admin, &why);
    if (status == SLUICE_OK && request->version != 0 && request->at_ns != 0) {
        status = SLUICE_INVALID;
        why = "an object is asked for by version or by time, not by both";
    }
    if (status == SLUICE_OK && request->by_object_time) {
        status = SLUICE_INVALID;
        why = "reading by the object clock is not offered in this release; ask by platform time";
    }
    if (status != SLUICE_OK) {
        job__refuse(&self->job, status, "%s", why);
        return;
    }
    self->query = query__create(request->key, request->key_size, 0, &size);
    if (self->query == NULL) {
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
        return;
    }
    self->head = request->head;
    self->query->flags = get_flags(request);
    self->query->object_version = request->version;
    self->query->at = request->at_ns;
    self->query->offset = request->offset;
    self->query->length = request->length == 0 ? UINT64_MAX : request->length;
    job__ask(&self->job, &self->ask, WIRE_GET, got);
    self->ask.target = ASK_KEY;
    self->ask.key = wire_query_key(self->query);
    self->ask.key_size = request->key_size;
    self->ask.any_replica = request->stable;
    self->ask.body = self->query;
    self->ask.body_size = size;
    ask__start(&self->ask);
}

/* --- History --- */

#define HISTORY_LIMIT_DEFAULT 1000u
#define HISTORY_LIMIT_MAX     10000u
#define HISTORY_BYTES_MAX     (8u << 20) /* of one answer; the rest is another page */

/* Where the next page begins. */
struct history_token {
    uint64_t bound; /* ascending: the first version of it; descending: the last */
    uint8_t descending;
    uint8_t unused[7];
};
_Static_assert(sizeof(struct history_token) == 16, "users keep it");

struct history_job {
    struct job job;
    struct ask ask;
    struct wire_query *query;
    uint32_t limit;
    uint64_t last; /* version of the last object */
    bool values, descending;
    struct pages pages;
};

static void history_deinit(struct job *job)
{
    struct history_job *self = (struct history_job *)job;
    ask__cancel(&self->ask);
    free(self->query);
    pages__free(&self->pages);
}

static void history_answer(struct history_job *self, bool more)
{
    char *cursor = NULL;
    if (more) {
        const struct history_token token = {.bound = self->descending ? self->last - 1 : self->last + 1,
                                            .descending = self->descending};
        cursor = token__write(TOKEN_HISTORY, &token, sizeof(token));
        if (cursor == NULL) {
            job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
            return;
        }
    }
    const struct sluice_answer answer = {
        .status = SLUICE_OK,
        .detail = sluice_status_text(SLUICE_OK),
        .objects = self->pages.objects,
        .object_count = self->pages.object_count,
        .at_ns = self->job.client->seen_time,
        .cursor = cursor,
        .durable = true,
    };
    job__answer(&self->job, &answer);
    free(cursor);
}

static void history_came(struct ask *ask, const struct reply *reply)
{
    struct history_job *self = ask->owner;
    struct pages *pages = &self->pages;
    if (reply->status != SLUICE_OK) {
        /* The first page answers whether there is such a key; later ones only go on. */
        if (pages->object_count > 0 && (reply->status == SLUICE_NOT_FOUND || reply->status == SLUICE_DELETED))
            history_answer(self, false);
        else
            job__fail_reply(&self->job, reply);
        return;
    }
    size_t before = pages->object_count;
    enum sluice_status status = pages__take(pages, reply->body, reply->body_size, self->values);
    if (status != SLUICE_OK) {
        job__fail(&self->job, status,
                  status == SLUICE_MEMORY ? "no memory for the answer" : "the node's answer cannot be read");
        return;
    }
    bool more = (reply->flags & WIRE_FLAG_MORE) != 0 && pages->object_count > before;
    if (pages->object_count > 0)
        self->last = pages->objects[pages->object_count - 1].version;
    if (!more || pages->object_count >= self->limit || pages->bytes >= HISTORY_BYTES_MAX ||
        (self->descending && self->last <= 1)) {
        history_answer(self, more && !(self->descending && self->last <= 1));
        return;
    }
    if (self->descending)
        self->query->to = self->last - 1;
    else
        self->query->from = self->last + 1;
    self->query->limit = self->limit - (uint32_t)pages->object_count;
    ask__start(ask);
}

static const char *history_query(struct history_job *self, const struct sluice_history *request)
{
    struct history_token token;
    size_t size;
    struct wire_query *query = self->query;
    query->flags =
        (uint16_t)((request->values ? WIRE_QUERY_VALUES : 0u) | (request->descending ? WIRE_QUERY_DESCENDING : 0u));
    query->from = request->version_from;
    query->to = request->version_to == 0 ? UINT64_MAX : request->version_to;
    query->time_from = request->time_from_ns;
    query->time_to = request->time_to_ns == 0 ? UINT64_MAX : request->time_to_ns;
    query->limit = self->limit;
    if (request->cursor == NULL)
        return NULL;
    if (!token__read(TOKEN_HISTORY, request->cursor, &token, sizeof(token), &size) || size != sizeof(token) ||
        (token.descending != 0) != request->descending)
        return "the cursor is not one of this history; begin again without one";
    if (request->descending)
        query->to = token.bound < query->to ? token.bound : query->to;
    else
        query->from = token.bound > query->from ? token.bound : query->from;
    return NULL;
}

void sluice_history(struct sluice_client *client, const struct sluice_history *request, sluice_done done, void *arg)
{
    size_t size;
    struct history_job *self = job__create(client, sizeof(*self), &request->call, done, arg, history_deinit);
    if (self == NULL)
        return;
    const char *why = NULL;
    enum sluice_status status = query__check_key(request->key, request->key_size, request->call.admin, &why);
    if (status != SLUICE_OK) {
        job__refuse(&self->job, status, "%s", why);
        return;
    }
    self->query = query__create(request->key, request->key_size, 0, &size);
    if (self->query == NULL) {
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
        return;
    }
    self->limit = request->limit == 0                  ? HISTORY_LIMIT_DEFAULT
                  : request->limit > HISTORY_LIMIT_MAX ? HISTORY_LIMIT_MAX
                                                       : request->limit;
    self->values = request->values;
    self->descending = request->descending;
    why = history_query(self, request);
    if (why != NULL) {
        job__refuse(&self->job, SLUICE_INVALID, "%s", why);
        return;
    }
    job__ask(&self->job, &self->ask, WIRE_HISTORY, history_came);
    self->ask.target = ASK_KEY;
    self->ask.key = wire_query_key(self->query);
    self->ask.key_size = request->key_size;
    self->ask.body = self->query;
    self->ask.body_size = size;
    ask__start(&self->ask);
}
