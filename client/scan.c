/* A k-way merge of the shards' sorted keys at one time. Shards are few, so the smallest of their next keys is looked
 * for one by one. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

static void page_drop(struct scan_shard *shard)
{
    sluice_value_unref(shard->page);
    shard->page = NULL;
}

void scan__deinit(struct scan *self)
{
    for (size_t i = 0; i < self->count; i++) {
        ask__cancel(&self->shards[i].ask);
        page_drop(&self->shards[i]);
        free(self->shards[i].query);
    }
    free(self->shards);
    self->shards = NULL;
    self->count = 0;
}

bool scan__is_ready(const struct scan *self)
{
    for (size_t i = 0; i < self->count; i++)
        if (self->shards[i].fetching)
            return false;
    return true;
}

static void fail(struct scan *self, enum sluice_status status, const char *detail)
{
    const struct reply reply = {.status = status, .detail = detail};
    self->failed(self, &reply);
}

/* The next record of the page. False: malformed. */
static bool read_record(struct scan_shard *shard)
{
    int last = wire_record_next(sluice_value_data(shard->page), shard->page_size, &shard->offset, &shard->view);
    shard->has = last == 1;
    return last >= 0;
}

static void page_came(struct ask *ask, const struct reply *reply)
{
    struct scan_shard *shard = ask->owner;
    struct scan *self = shard->scan;
    shard->fetching = false;
    shard->has = shard->more = false;
    page_drop(shard);
    if (reply->status != SLUICE_OK) {
        self->failed(self, reply);
        return;
    }
    if (reply->body_size > 0) {
        shard->page = sluice_value_create((uint32_t)reply->body_size);
        if (shard->page == NULL) {
            fail(self, SLUICE_MEMORY, "no memory for the answer");
            return;
        }
        memcpy(sluice_value_data(shard->page), reply->body, reply->body_size);
        shard->page_size = reply->body_size;
        shard->offset = 0;
        if (!read_record(shard)) {
            fail(self, SLUICE_INTERNAL, "the node's answer cannot be read");
            return;
        }
        /* A page that says MORE holds at least one record, from which the next one goes on. */
        shard->more = shard->has && (reply->flags & WIRE_FLAG_MORE) != 0;
    }
    if (scan__is_ready(self))
        self->ready(self);
}

static void fetch(struct scan_shard *shard, const char *after, size_t after_size)
{
    shard->has = false;
    shard->fetching = true;
    shard->ask.body_size = query__set_after(shard->query, after, after_size);
    ask__start(&shard->ask);
}

void scan__next(struct scan_shard *shard)
{
    const struct wire_record_view last = shard->view;
    if (!read_record(shard)) {
        /* Checked on the way in but for what follows the first record: a page that ends in the middle. */
        shard->more = false;
        shard->has = false;
        shard->scan->broken = true;
        return;
    }
    if (!shard->has && shard->more)
        fetch(shard, last.key, last.record->key_size);
}

static bool begins_with(const struct scan_shard *shard, const char *group, size_t size)
{
    return shard->view.record->key_size >= size && memcmp(shard->view.key, group, size) == 0;
}

void scan__skip(struct scan *self, const char *group, size_t size)
{
    char beyond[WIRE_KEY_BYTES_MAX + 1];
    /* Above whatever can follow in UTF-8; where the group takes up a whole key, nothing can. */
    size_t beyond_size = size < WIRE_KEY_BYTES_MAX ? size + 1 : size;
    memcpy(beyond, group, size);
    beyond[size] = (char)0xff;
    for (size_t i = 0; i < self->count; i++) {
        struct scan_shard *shard = &self->shards[i];
        while (shard->has && begins_with(shard, group, size)) {
            if (!read_record(shard)) {
                shard->has = shard->more = false;
                self->broken = true;
            }
            if (!shard->has && shard->more)
                fetch(shard, beyond, beyond_size);
        }
    }
}

static int compare(const struct wire_record_view *a, const struct wire_record_view *b)
{
    size_t left = a->record->key_size, right = b->record->key_size;
    int order = memcmp(a->key, b->key, left < right ? left : right);
    return order != 0 ? order : (left > right) - (left < right);
}

struct scan_shard *scan__first(struct scan *self)
{
    struct scan_shard *first = NULL;
    for (size_t i = 0; i < self->count; i++)
        if (self->shards[i].has && (first == NULL || compare(&self->shards[i].view, &first->view) < 0))
            first = &self->shards[i];
    return first;
}

bool scan__start(struct scan *self, struct job *job, const uint32_t *shards, size_t count, const struct slice *prefix,
                 const struct slice *after, uint64_t at)
{
    self->job = job;
    self->shards = calloc(count + 1, sizeof(*self->shards));
    if (self->shards == NULL)
        return false;
    for (; self->count < count; self->count++) {
        struct scan_shard *shard = &self->shards[self->count];
        size_t size;
        shard->scan = self;
        shard->query = query__create(prefix->data, prefix->size, WIRE_KEY_BYTES_MAX, &size);
        if (shard->query == NULL)
            return false;
        shard->query->flags = (uint16_t)(WIRE_QUERY_AT | (self->values ? WIRE_QUERY_VALUES : 0u));
        shard->query->at = at;
        shard->query->limit = self->page_limit;
        job__ask(job, &shard->ask, WIRE_LIST, page_came);
        shard->ask.owner = shard;
        shard->ask.target = ASK_SHARD;
        shard->ask.shard = shards[self->count];
        shard->ask.body = shard->query;
    }
    for (size_t i = 0; i < count; i++)
        fetch(&self->shards[i], after->data, after->size);
    return true;
}
