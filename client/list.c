/* Listings: keys in order over all shards, at one time that holds for all pages. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

#define LIMIT_DEFAULT 1000u
#define LIMIT_MAX     10000u
#define BYTES_MAX     (8u << 20) /* of one answer; the rest is another page */
#define GROUPED_LIMIT 128u       /* with a delimiter most of a page may fall into one group */

/* Where the next page begins: `after_size` bytes of the key follow. */
struct list_token {
    uint64_t at;
    uint16_t after_size;
    uint8_t unused[6];
};
_Static_assert(sizeof(struct list_token) == 16, "users keep it");

struct list_job {
    struct job job;
    struct cut cut;
    struct scan scan;
    struct pages pages;
    char *prefix;
    size_t prefix_size;
    uint32_t *shards;
    size_t shard_count;
    uint64_t at;
    uint32_t limit;
    char delimiter;
    char **prefixes;
    size_t *prefix_sizes;
    size_t prefix_count, prefix_capacity;
    size_t after_size;
    char after[WIRE_KEY_BYTES_MAX + 1]; /* the last key, or what lies beyond the last group */
};

static void list_deinit(struct job *job)
{
    struct list_job *self = (struct list_job *)job;
    cut__deinit(&self->cut);
    scan__deinit(&self->scan);
    pages__free(&self->pages);
    for (size_t i = 0; i < self->prefix_count; i++)
        free(self->prefixes[i]);
    free(self->prefixes);
    free(self->prefix_sizes);
    free(self->shards);
    free(self->prefix);
}

static char *next_page(const struct list_job *self)
{
    uint8_t bytes[sizeof(struct list_token) + sizeof(self->after)];
    const struct list_token token = {.at = self->at, .after_size = (uint16_t)self->after_size};
    memcpy(bytes, &token, sizeof(token));
    memcpy(bytes + sizeof(token), self->after, self->after_size);
    return token__write(TOKEN_LIST, bytes, sizeof(token) + self->after_size);
}

static bool read_cursor(struct list_job *self, const char *text)
{
    uint8_t bytes[sizeof(struct list_token) + sizeof(self->after)];
    struct list_token token;
    size_t size;
    if (!token__read(TOKEN_LIST, text, bytes, sizeof(bytes), &size) || size < sizeof(token))
        return false;
    memcpy(&token, bytes, sizeof(token));
    if (size != sizeof(token) + token.after_size || token.after_size > WIRE_KEY_BYTES_MAX || token.at == 0 ||
        token.after_size < self->prefix_size ||
        (self->prefix_size > 0 && memcmp(bytes + sizeof(token), self->prefix, self->prefix_size) != 0))
        return false;
    self->at = token.at;
    self->after_size = token.after_size;
    memcpy(self->after, bytes + sizeof(token), token.after_size);
    return true;
}

static void answer(struct list_job *self, bool more)
{
    char *cursor = more ? next_page(self) : NULL;
    char *watch_cursor = watch__cursor_at(self->at);
    if ((more && cursor == NULL) || watch_cursor == NULL) {
        job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
    } else {
        const struct sluice_answer answer = {
            .status = SLUICE_OK,
            .detail = sluice_status_text(SLUICE_OK),
            .objects = self->pages.objects,
            .object_count = self->pages.object_count,
            .prefixes = (const char *const *)self->prefixes,
            .prefix_sizes = self->prefix_sizes,
            .prefix_count = self->prefix_count,
            .at_ns = self->at,
            .cursor = cursor,
            .watch_cursor = watch_cursor,
            .durable = true,
        };
        job__answer(&self->job, &answer);
    }
    free(cursor);
    free(watch_cursor);
}

static bool add_prefix(struct list_job *self, const char *group, size_t size)
{
    if (self->prefix_count == self->prefix_capacity) {
        size_t capacity = self->prefix_capacity == 0 ? 16 : self->prefix_capacity * 2;
        char **prefixes = reallocarray(self->prefixes, capacity, sizeof(char *));
        if (prefixes == NULL)
            return false;
        self->prefixes = prefixes;
        size_t *sizes = reallocarray(self->prefix_sizes, capacity, sizeof(*sizes));
        if (sizes == NULL)
            return false;
        self->prefix_sizes = sizes;
        self->prefix_capacity = capacity;
    }
    char *copy = text__dup(group, size);
    if (copy == NULL)
        return false;
    self->prefixes[self->prefix_count] = copy;
    self->prefix_sizes[self->prefix_count++] = size;
    return true;
}

/* A key's group: up to the first delimiter behind the prefix. 0: it stands for itself. */
static size_t group_size(const struct list_job *self, const struct wire_record_view *view)
{
    size_t size = view->record->key_size;
    if (self->delimiter == '\0' || size <= self->prefix_size)
        return 0;
    const char *found = memchr(view->key + self->prefix_size, self->delimiter, size - self->prefix_size);
    return found == NULL ? 0 : (size_t)(found - view->key) + 1;
}

/* Takes the record of `shard` into the answer, and moves on. */
static bool take(struct list_job *self, struct scan_shard *shard)
{
    const struct wire_record_view view = shard->view;
    size_t group = group_size(self, &view);
    if (group > 0) {
        if (!add_prefix(self, view.key, group))
            return false;
        /* Nothing but UTF-8 can follow the group in a key, and no byte of that is as high. */
        memcpy(self->after, view.key, group);
        self->after_size = group;
        if (group < WIRE_KEY_BYTES_MAX)
            self->after[self->after_size++] = (char)0xff;
        scan__skip(&self->scan, view.key, group);
        return true;
    }
    struct sluice_object object;
    record__object(&view, self->scan.values, shard->page, &object);
    if (!pages__holds(&self->pages, shard->page) && !pages__hold(&self->pages, shard->page))
        return false;
    if (!pages__add(&self->pages, &object))
        return false;
    memcpy(self->after, view.key, view.record->key_size);
    self->after_size = view.record->key_size;
    scan__next(shard);
    return true;
}

static void merge(struct scan *scan)
{
    struct list_job *self = LIST__OF(scan, struct list_job, scan);
    while (scan__is_ready(scan)) {
        struct scan_shard *first = scan__first(scan);
        size_t count = self->pages.object_count + self->prefix_count;
        if (scan->broken) {
            job__fail(&self->job, SLUICE_INTERNAL, "a node's answer cannot be read");
            return;
        }
        if (first == NULL || count >= self->limit || self->pages.bytes >= BYTES_MAX) {
            answer(self, first != NULL);
            return;
        }
        if (!take(self, first)) {
            job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
            return;
        }
    }
}

static void scan_failed(struct scan *scan, const struct reply *reply)
{
    struct list_job *self = LIST__OF(scan, struct list_job, scan);
    job__fail_reply(&self->job, reply);
}

static void read_on(struct list_job *self)
{
    const struct slice prefix = {self->prefix, self->prefix_size}, after = {self->after, self->after_size};
    /* Keys spread evenly over shards, more or less; who has more is asked again. */
    uint32_t fair = self->limit / (uint32_t)self->shard_count * 2 + 32;
    self->scan.page_limit = fair < self->limit + 1 ? fair : self->limit + 1;
    if (self->delimiter != '\0' && self->scan.page_limit > GROUPED_LIMIT)
        self->scan.page_limit = GROUPED_LIMIT;
    self->scan.ready = merge;
    self->scan.failed = scan_failed;
    if (!scan__start(&self->scan, &self->job, self->shards, self->shard_count, &prefix, &after, self->at))
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
}

static void cut_known(struct cut *cut, const struct reply *failed)
{
    struct list_job *self = LIST__OF(cut, struct list_job, cut);
    if (failed != NULL) {
        job__fail_reply(&self->job, failed);
        return;
    }
    self->at = cut->time;
    read_on(self);
}

static void go(struct job *job)
{
    struct list_job *self = (struct list_job *)job;
    if (!route__shards_of_prefix(job->client, self->prefix, self->prefix_size, &self->shards, &self->shard_count))
        job__refuse(job, SLUICE_MEMORY, "no memory for the request");
    else if (self->shard_count == 0)
        job__refuse(job, SLUICE_UNAVAILABLE, "no live pool can hold such keys; try again");
    else if (self->at != 0)
        read_on(self);
    else if (!cut__start(&self->cut, job->client, self->shards, self->shard_count, job->after, job->deadline_ns,
                         cut_known))
        job__refuse(job, SLUICE_MEMORY, "no memory for the request");
}

void sluice_list(struct sluice_client *client, const struct sluice_list *request, sluice_done done, void *arg)
{
    struct list_job *self = job__create(client, sizeof(*self), &request->call, done, arg, list_deinit);
    if (self == NULL)
        return;
    const char *why = query__prefix_error(request->prefix, request->prefix_size);
    if (why != NULL) {
        job__refuse(&self->job, SLUICE_INVALID, "%s", why);
        return;
    }
    self->prefix = text__dup(request->prefix, request->prefix_size);
    if (self->prefix == NULL) {
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the request");
        return;
    }
    self->prefix_size = request->prefix_size;
    self->at = request->at_ns;
    self->delimiter = request->delimiter;
    self->scan.values = request->values;
    self->limit = request->limit == 0 ? LIMIT_DEFAULT : request->limit > LIMIT_MAX ? LIMIT_MAX : request->limit;
    if (request->cursor != NULL && !read_cursor(self, request->cursor)) {
        job__refuse(&self->job, SLUICE_INVALID, "the cursor is not one of this listing; begin again without one");
        return;
    }
    job__when_mapped(&self->job, NULL, go);
}
