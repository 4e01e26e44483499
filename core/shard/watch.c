/* Readers of stable entries: clients' watches and feeds within the process. Both hold a position in the log and are
 * moved on at the end of a round, as far as their sink takes it; a slow one costs its position and nothing more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/shard/host__.h"

#define READER_BATCH_BYTES     (128u << 10)
#define READER_ENTRIES_MAX     256u /* a round reads at most so many entries for one reader */
#define READER_VALUE_BYTES_MAX (1u << 20)

static bool sink_blocked(const struct host__reader *reader)
{
    if (reader->is_feed)
        return reader->blocked;
    struct host *host = reader->replica->host;
    return host->env.client_pending(host->env.arg, reader->link) > HOST_LINK_PENDING_MAX;
}

static bool key_wanted(const struct host__reader *reader, const char *key, size_t size)
{
    bool internal = size >= 8 && memcmp(key, "_sluice/", 8) == 0;
    if (reader->is_feed)
        return (!internal || reader->feed.internal_keys) && reader->feed.match(reader->feed.arg, key, size);
    return (!internal || reader->admin) && pattern_match(reader->pattern, key, size);
}

static void send_event(struct host__reader *reader, uint32_t flags, uint64_t time, const struct bytes *body)
{
    struct host *host = reader->replica->host;
    const struct wire_header header = {
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = WIRE_EVENT,
        .body_size = body == NULL ? 0 : (uint32_t)body->size,
        .request_id = reader->request_id,
        .time = time,
        .map_epoch = host->map_epoch,
        .shard = reader->replica->group,
        .flags = flags,
        .node = host->options.pairs.node,
    };
    const struct slice parts[2] = {{&header, sizeof(header)},
                                   {body == NULL ? NULL : body->data, body == NULL ? 0 : body->size}};
    host->env.send_client(host->env.arg, reader->link, parts, header.body_size > 0 ? 2 : 1, NULL, 0, 0);
}

/* Hands one version to the sink; false when a feed is full. */
static bool deliver(struct host__reader *reader, const struct version *version, struct bytes *body)
{
    struct replica *replica = reader->replica;
    if (reader->is_feed)
        return reader->feed.offer(reader->feed.arg, version, replica->epoch);
    bool with_value = reader->values && version->value_size <= READER_VALUE_BYTES_MAX;
    if (serve__append(body, replica, version, with_value) != SLUICE_OK) {
        /* Out of memory: the client resumes from its cursor. */
        body->size = 0;
        return false;
    }
    replica->host->figures.watch_events++;
    return true;
}

/* The versions that the entry made and the reader wants. False: the sink is full at reader->next_operation. */
static bool read_entry(struct host__reader *reader, const struct entry *entry, struct bytes *body)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    if (entry->kind != ENTRY_COMMAND || entry->body == NULL ||
        wire_command_read(entry->body->data, entry->body->size, &command, &why) != SLUICE_OK ||
        command->kind != WIRE_COMMAND_WRITE || entry->time <= reader->after_time)
        return true;
    struct wire_operation_view view;
    size_t offset = 0;
    for (uint32_t number = 0; wire_operation_next(command, &offset, &view); number++) {
        struct slice key = {view.key, view.operation->key_size};
        struct version version;
        if (number < reader->next_operation || !key_wanted(reader, key.data, key.size))
            continue;
        /* The entry says what was asked for; what became of it stands in the versions: nothing, where a condition
         * failed. */
        bool with_value = reader->is_feed || reader->values;
        if (versions_by_time(reader->replica->versions, key, entry->time, with_value, &version) != SLUICE_OK)
            continue;
        bool taken = version.revision != entry->index || version.operation != number || deliver(reader, &version, body);
        version_release(&version);
        if (!taken) {
            reader->next_operation = number;
            return false;
        }
    }
    return true;
}

static void pump_progress(struct host__reader *reader, uint64_t now)
{
    struct replica *replica = reader->replica;
    struct host *host = replica->host;
    if (reader->is_feed || (reader->announced && now < reader->progress_ns))
        return;
    if (reader->announced && replica->leading) {
        /* Asks for a ceiling where none is held; then this progress says what is closed by now and the next one says
         * more. */
        uint64_t wall = hlc_now(&host->clock, host->env.realtime_ns(host->env.arg));
        (void)replica__closed(replica, wall);
    }
    uint64_t closed = replica__closed_time(replica);
    /* The watch has seen more of the log elsewhere than this replica holds: until that has come, what is closed here
     * says nothing of it. */
    uint64_t applied = versions_applied(replica->versions, NULL);
    if (reader->next_revision > applied + 1 || (reader->next_revision > applied && reader->next_operation > 0))
        closed = 0;
    if (!reader->announced || closed > reader->closed_sent) {
        send_event(reader, WIRE_FLAG_CLOSED, closed, NULL);
        reader->closed_sent = closed;
    }
    reader->announced = true;
    reader->progress_ns = now + reader->progress_every_ns;
}

static void reader_end(struct host__reader *reader, enum sluice_status status, const char *why)
{
    struct host *host = reader->replica->host;
    if (!reader->is_feed) {
        const struct wire_header request = {.request_id = reader->request_id, .shard = reader->replica->group};
        host_reply(host, reader->link, &request, status, 0, why, strlen(why));
    }
    reader->dead = true;
}

static void pump_reader(struct host__reader *reader, uint64_t now)
{
    struct replica *replica = reader->replica;
    struct bytes body = {0};
    uint64_t applied = versions_applied(replica->versions, NULL);
    uint32_t read = 0;
    bool full = sink_blocked(reader);
    while (!full && !reader->dead && reader->next_revision <= applied && read++ < READER_ENTRIES_MAX) {
        struct entry entry;
        uint64_t next = 0;
        enum sluice_status status = versions_entry(replica->versions, reader->next_revision, &entry);
        if (status == SLUICE_GONE && versions_next(replica->versions, reader->next_revision, &next) != SLUICE_CORRUPT) {
            /* Left out were entries that made nothing, or what retention dropped. */
            reader->next_revision = next > reader->next_revision ? next : applied + 1;
            reader->next_operation = 0;
            continue;
        }
        if (status == SLUICE_CORRUPT && repair__want(replica, reader->next_revision)) {
            full = true; /* looked at again when it has come */
            break;
        }
        if (status != SLUICE_OK) {
            reader_end(reader, status == SLUICE_GONE ? SLUICE_GONE : status, "that part of the log is no longer kept");
            break;
        }
        full = !read_entry(reader, &entry, &body);
        buf_unref(entry.body);
        if (!full) {
            reader->next_revision++;
            reader->next_operation = 0;
        } else if (reader->is_feed) {
            reader->blocked = true;
        }
        if (body.size >= READER_BATCH_BYTES) {
            send_event(reader, 0, replica->host->clock.last, &body);
            body.size = 0;
            full = full || sink_blocked(reader);
        }
    }
    if (body.size > 0)
        send_event(reader, 0, replica->host->clock.last, &body);
    bytes_free(&body);
    if (reader->dead)
        return;
    /* Progress says that nothing earlier will come. A new leader that has not applied yet what the reader saw elsewhere
     * can't say so: its closed time is older than that. */
    if (reader->next_revision == applied + 1 && reader->next_operation == 0)
        pump_progress(reader, now);
    else if (!full && reader->next_revision <= applied)
        replica->host->next_tick_ns = now; /* more to read: go on in the next round */
    if (reader->is_feed && reader->feed.passed != NULL && reader->next_revision - 1 > reader->passed_sent) {
        reader->passed_sent = reader->next_revision - 1;
        reader->feed.passed(reader->feed.arg, reader->passed_sent);
    }
}

static void reader_free(struct host__reader *reader)
{
    pattern_destroy(reader->pattern);
    free(reader);
}

void watch__pump(struct replica *self, uint64_t now)
{
    for (struct host__reader *reader = self->readers; reader != NULL; reader = reader->next)
        if (!reader->dead)
            pump_reader(reader, now);
    struct host__reader **at = &self->readers;
    while (*at != NULL) {
        struct host__reader *reader = *at;
        if (reader->dead) {
            *at = reader->next;
            reader_free(reader);
        } else {
            at = &reader->next;
        }
    }
}

uint64_t watch__next_ns(const struct replica *self)
{
    uint64_t next = UINT64_MAX;
    for (const struct host__reader *reader = self->readers; reader != NULL; reader = reader->next)
        if (!reader->is_feed && reader->progress_ns < next)
            next = reader->progress_ns;
    return next;
}

/* Often enough to be of use, and not so often that it costs the others anything to speak of. */
static uint64_t progress_every(const struct host *self, uint32_t wanted_ms)
{
    if (wanted_ms == 0)
        return self->options.progress_ns;
    if (wanted_ms < WIRE_PROGRESS_MS_MIN)
        return WIRE_PROGRESS_MS_MIN * NS_PER_MS;
    return (wanted_ms < WIRE_PROGRESS_MS_MAX ? wanted_ms : WIRE_PROGRESS_MS_MAX) * NS_PER_MS;
}

static void add(struct replica *self, struct host__reader *reader)
{
    reader->replica = self;
    reader->next = self->readers;
    self->readers = reader;
    host__busy(self);
    self->host->next_tick_ns = 0;
}

void watch__start(struct replica *self, void *link, const struct wire_header *header, const struct wire_query *query)
{
    struct host *host = self->host;
    char error[256] = "out of memory";
    enum sluice_status status = SLUICE_MEMORY;
    struct host__reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL)
        goto fail;
    status =
        pattern_compile(query->kind, wire_query_key(query), query->key_size, &reader->pattern, error, sizeof(error));
    if (status != SLUICE_OK)
        goto fail;
    reader->link = link;
    reader->request_id = header->request_id;
    reader->values = (query->flags & WIRE_QUERY_VALUES) != 0;
    reader->admin = (header->flags & WIRE_FLAG_ADMIN) != 0;
    reader->progress_every_ns = progress_every(host, query->limit);
    uint64_t applied = versions_applied(self->versions, NULL);
    if (query->epoch != 0 && query->epoch != self->epoch) {
        status = SLUICE_EPOCH_LOST;
        snprintf(error, sizeof(error),
                 "the cursor is of epoch %llu, the shard is in epoch %llu: its memory was lost; list again and watch "
                 "from there",
                 (unsigned long long)query->epoch, (unsigned long long)self->epoch);
        goto fail;
    }
    if (query->flags & WIRE_QUERY_FROM_TIME) {
        status = versions_revision_after(self->versions, query->from, &reader->next_revision);
        if (status != SLUICE_OK) {
            snprintf(error, sizeof(error),
                     "the shard no longer keeps its log back to that time; list again and watch from there");
            goto fail;
        }
        /* The time may be one that is not closed yet: what was on its way then has an earlier one. */
        reader->after_time = query->from;
    } else {
        reader->next_revision = query->from == 0 ? applied + 1 : query->from;
        reader->next_operation = query->operation;
    }
    add(self, reader);
    return;

fail:
    host_reply(host, link, header, status, 0, error, strlen(error));
    if (reader != NULL)
        reader_free(reader);
}

void watch__cancel(struct host *self, void *link, uint64_t request_id)
{
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        for (struct host__reader *reader = replica->readers; reader != NULL; reader = reader->next)
            if (!reader->is_feed && reader->link == link && reader->request_id == request_id)
                reader->dead = true;
}

void watch__link_down(struct host *self, void *link)
{
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        for (struct host__reader *reader = replica->readers; reader != NULL; reader = reader->next)
            if (!reader->is_feed && reader->link == link)
                reader->dead = true;
}

void watch__writable(struct host *self, void *link)
{
    (void)link;
    self->next_tick_ns = 0;
}

void watch__end_all(struct replica *self, enum sluice_status status, const char *why)
{
    for (struct host__reader *reader = self->readers; reader != NULL; reader = reader->next)
        if (!reader->dead && !reader->is_feed)
            reader_end(reader, status, why);
}

enum sluice_status host_feed_start(struct host *self, const struct host_feed_options *options, struct host_feed **out)
{
    struct replica *replica = host__replica(self, options->group);
    if (replica == NULL || replica->epoch != options->epoch)
        return SLUICE_NOT_FOUND;
    struct host__reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL)
        return SLUICE_MEMORY;
    reader->is_feed = true;
    reader->feed = *options;
    reader->next_revision = options->from == 0 ? 1 : options->from;
    reader->passed_sent = reader->next_revision - 1;
    add(replica, reader);
    *out = (struct host_feed *)(void *)reader;
    return SLUICE_OK;
}

void host_feed_stop(struct host_feed *feed)
{
    struct host__reader *reader = (struct host__reader *)(void *)feed;
    reader->dead = true;
    reader->replica->host->next_tick_ns = 0;
}

void host_feed_kick(struct host_feed *feed)
{
    struct host__reader *reader = (struct host__reader *)(void *)feed;
    reader->blocked = false;
    reader->replica->host->next_tick_ns = 0;
}
