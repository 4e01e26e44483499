/* Reads: under a lease or by asking a quorum, at a closed time, or at the stable prefix; pages. */
#include <stdlib.h>
#include <string.h>

#include "core/shard/host__.h"

#define REPAIR_TRIES 3u /* entries that one read may wait for */

/* One record with its value, or with the part of it that was asked for; the value goes out of the entry's own buffer.
 */
static void reply_version(struct replica *self, void *link, const struct wire_header *header,
                          const struct wire_query *query, const struct version *version)
{
    struct wire_record record;
    uint32_t offset = 0, carried = 0;
    enum sluice_status status = SLUICE_OK;
    uint32_t flags = 0;
    if (version->flags & VERSION_TOMBSTONE) {
        status = SLUICE_DELETED;
        flags = WIRE_FLAG_RECORD;
    } else if (!(query->flags & WIRE_QUERY_NO_VALUE)) {
        if (query->offset > 0 && query->offset >= version->value_size) {
            status = SLUICE_RANGE;
            flags = WIRE_FLAG_RECORD;
        } else {
            offset = (uint32_t)query->offset;
            uint64_t rest = version->value_size - offset;
            carried = (uint32_t)(query->length < rest ? query->length : rest);
        }
    }
    serve__record(self, version, carried, &record);
    if (query->flags & WIRE_QUERY_NO_VALUE)
        record.flags &= (uint16_t)~WIRE_RECORD_VALUE;
    size_t plain = sizeof(record) + record.key_size + record.content_type_size + carried;
    const struct wire_header reply = serve__header(self->host, header->request_id, self->group, status, flags, plain);
    const struct slice parts[3] = {{&record, sizeof(record)},
                                   {version->key, version->key_size},
                                   {version->content_type, version->content_type_size}};
    uint32_t start = 0;
    if (carried > 0)
        start = (uint32_t)((const uint8_t *)version->value - version->owner->data) + offset;
    serve__send(self->host, link, &reply, parts, 3, carried > 0 ? version->owner : NULL, start, carried);
}

static bool timed_read(const struct wire_query *query)
{
    return query != NULL && (query->flags & WIRE_QUERY_AT) != 0;
}

static struct host__waiting *wait_for_it(struct replica *self, void *link, const struct wire_header *header,
                                         const void *body)
{
    size_t size = sizeof(struct host__waiting) + header->body_size;
    if (self->waiting_count >= self->host->options.requests_max || !host__load_room(self, size)) {
        self->host->figures.refused_busy++;
        serve__text(self->host, link, header, SLUICE_BUSY,
                    "as many reads wait for this shard as it takes; try again in a moment");
        return NULL;
    }
    struct host__waiting *waiting = calloc(1, size);
    if (waiting == NULL) {
        serve__text(self->host, link, header, SLUICE_MEMORY, "the node is out of memory");
        return NULL;
    }
    uint64_t timeout_ms = header->timeout_ms == 0 ? 5000 : header->timeout_ms;
    waiting->link = link;
    waiting->header = *header;
    waiting->deadline_ns = host__now(self->host) + timeout_ms * NS_PER_MS;
    waiting->body_size = header->body_size;
    waiting->asks = !timed_read(header->type == WIRE_TIME ? NULL : body);
    if (header->body_size > 0)
        memcpy(waiting->body, body, header->body_size);
    *self->waiting_tail = waiting;
    self->waiting_tail = &waiting->next;
    self->waiting_count++;
    host__busy(self);
    host__load_add(self, size);
    self->read_bytes += size;
    return waiting;
}

/* False: nobody can give the damaged entry, or it was damaged again and again. */
static bool wait_for_repair(struct replica *self, void *link, const struct wire_header *header,
                            const struct wire_query *query, uint64_t revision, uint32_t tries)
{
    if (tries >= REPAIR_TRIES || !repair__want(self, revision))
        return false;
    struct host__waiting *waiting = wait_for_it(self, link, header, query);
    if (waiting != NULL) {
        waiting->repair = revision;
        waiting->tries = tries + 1;
    }
    return true;
}

static enum sluice_status find_version(struct replica *self, const struct wire_query *query, bool with_value,
                                       struct version *version)
{
    struct slice key = {wire_query_key(query), query->key_size};
    if (query->flags & WIRE_QUERY_VERSION)
        return versions_by_version(self->versions, key, query->object_version, with_value, version);
    if (query->flags & WIRE_QUERY_AT)
        return versions_by_time(self->versions, key, query->at, with_value, version);
    return versions_latest(self->versions, key, with_value, version);
}

static void serve_get(struct replica *self, void *link, const struct wire_header *header,
                      const struct wire_query *query, uint32_t tries)
{
    struct version version;
    enum sluice_status status = find_version(self, query, !(query->flags & WIRE_QUERY_NO_VALUE), &version);
    if (status == SLUICE_CORRUPT && find_version(self, query, false, &version) == SLUICE_OK) {
        /* The index says which entry it is. */
        uint64_t revision = version.revision;
        version_release(&version);
        if (wait_for_repair(self, link, header, query, revision, tries))
            return;
    }
    if (status != SLUICE_OK) {
        serve__text(self->host, link, header, status, sluice_status_text(status));
        return;
    }
    reply_version(self, link, header, query, &version);
    version_release(&version);
}

struct page {
    struct replica *replica;
    struct bytes body;
    uint32_t left; /* records */
    bool with_values, internal, more;
    enum sluice_status status;
    uint64_t damaged; /* looking for the entry that can't be read: its revision */
};

static bool page_visit(void *arg, const struct version *version)
{
    struct page *page = arg;
    if (!page->internal && version->key_size >= 8 && memcmp(version->key, "_sluice/", 8) == 0)
        return true;
    size_t size =
        wire_record_bytes(version->key_size, version->content_type_size, page->with_values ? version->value_size : 0);
    if (page->left == 0 || (page->body.size > 0 && page->body.size + size > WIRE_PAGE_BYTES)) {
        page->more = true;
        return false;
    }
    page->status = serve__append(&page->body, page->replica, version, page->with_values);
    page->left--;
    return page->status == SLUICE_OK;
}

/* The first version that can't be read with its value. */
static bool damage_visit(void *arg, const struct version *version)
{
    struct page *page = arg;
    struct version whole;
    struct slice key = {version->key, version->key_size};
    enum sluice_status status = versions_by_version(page->replica->versions, key, version->version, true, &whole);
    if (status == SLUICE_OK)
        version_release(&whole);
    else if (status == SLUICE_CORRUPT)
        page->damaged = version->revision;
    return status != SLUICE_CORRUPT;
}

static void reply_page(struct page *page, void *link, const struct wire_header *header, const struct wire_query *query,
                       enum sluice_status status, uint32_t tries)
{
    struct host *host = page->replica->host;
    if (status == SLUICE_OK)
        status = page->status;
    if (status == SLUICE_CORRUPT && wait_for_repair(page->replica, link, header, query, page->damaged, tries)) {
        bytes_free(&page->body);
        return;
    }
    if (status == SLUICE_OK)
        host_reply(host, link, header, SLUICE_OK, page->more ? WIRE_FLAG_MORE : 0, page->body.data, page->body.size);
    else
        serve__text(host, link, header, status, sluice_status_text(status));
    bytes_free(&page->body);
}

static void serve_list(struct replica *self, void *link, const struct wire_header *header,
                       const struct wire_query *query, uint32_t tries)
{
    struct page page = {.replica = self,
                        .left = query->limit == 0 ? UINT32_MAX : query->limit,
                        .with_values = (query->flags & WIRE_QUERY_VALUES) != 0,
                        .internal = (header->flags & WIRE_FLAG_ADMIN) != 0};
    struct versions_range range = {
        .prefix = {wire_query_key(query), query->key_size},
        .after = {wire_query_after(query), query->after_size},
        .at = (query->flags & WIRE_QUERY_AT) ? query->at : UINT64_MAX,
        .tombstones = (query->flags & WIRE_QUERY_TOMBSTONES) != 0,
        .values = page.with_values,
    };
    enum sluice_status status = versions_list(self->versions, &range, page_visit, &page);
    range.values = false;
    if (status == SLUICE_CORRUPT && versions_list(self->versions, &range, damage_visit, &page) != SLUICE_OK)
        page.damaged = 0; /* the index itself: no peer can help */
    reply_page(&page, link, header, query, status, tries);
}

static void serve_history(struct replica *self, void *link, const struct wire_header *header,
                          const struct wire_query *query, uint32_t tries)
{
    struct page page = {.replica = self,
                        .left = query->limit == 0 ? UINT32_MAX : query->limit,
                        .with_values = (query->flags & WIRE_QUERY_VALUES) != 0,
                        .internal = true};
    struct versions_span span = {
        .version_from = query->from,
        .version_to = query->to,
        .time_from = query->time_from,
        .time_to = query->time_to,
        .descending = (query->flags & WIRE_QUERY_DESCENDING) != 0,
        .values = page.with_values,
    };
    struct slice key = {wire_query_key(query), query->key_size};
    enum sluice_status status = versions_history(self->versions, key, &span, page_visit, &page);
    span.values = false;
    if (status == SLUICE_CORRUPT && versions_history(self->versions, key, &span, damage_visit, &page) != SLUICE_OK)
        page.damaged = 0;
    if (status == SLUICE_OK && page.status == SLUICE_OK && page.body.size == 0) {
        struct version latest;
        status = versions_latest(self->versions, key, false, &latest);
        if (status == SLUICE_OK)
            version_release(&latest);
    }
    reply_page(&page, link, header, query, status, tries);
}

/* May this read be answered from here, now? OK; AGAIN: wait; anything else is the answer. `round`: the one that a
 * linearizable read waits for, where there is no lease. */
static enum sluice_status read_gate(struct replica *self, const struct wire_header *header,
                                    const struct wire_query *query, uint64_t round)
{
    bool stable = (header->flags & WIRE_FLAG_STABLE) != 0;
    bool leads = self->paxos.role == PAXOS_LEADER;
    if (timed_read(query)) {
        if (replica__closed(self, query->at))
            return SLUICE_OK;
        return leads ? SLUICE_AGAIN : SLUICE_NOT_LEADER;
    }
    if (stable)
        return header->after == 0 || replica__closed_time(self) >= header->after || leads ? SLUICE_OK
                                                                                          : SLUICE_NOT_LEADER;
    if (!leads)
        return SLUICE_NOT_LEADER;
    if (!self->leading)
        return SLUICE_AGAIN;
    if (!self->host->options.leases_off && paxos_lease_valid(&self->paxos, host__now(self->host)))
        return SLUICE_OK;
    return round != 0 && round <= self->rounds_done ? SLUICE_OK : SLUICE_AGAIN;
}

void read__forget_rounds(struct replica *self)
{
    self->rounds_done = 0;
    for (struct host__waiting *waiting = self->waiting; waiting != NULL; waiting = waiting->next) {
        waiting->asks = waiting->asks || waiting->round != 0;
        waiting->round = 0;
    }
}

/* Without a lease a quorum is asked whether this replica still leads: one round for all reads that came by now (Raft
 * thesis, 6.4). What is stable when it began has everything in it that was acknowledged before. */
static bool begin_round(struct replica *self)
{
    struct paxos_event event = {.type = PAXOS_EVENT_READ};
    bool wanted = false;
    for (struct host__waiting *waiting = self->waiting; waiting != NULL; waiting = waiting->next)
        wanted = wanted || waiting->asks;
    if (!wanted || !self->leading)
        return false;
    uint64_t before = self->paxos.read_sequence;
    replica__step(self, &event, NULL, NULL);
    if (!self->leading || self->paxos.read_sequence == before)
        return false;
    self->host->figures.read_rounds++;
    for (struct host__waiting *waiting = self->waiting; waiting != NULL; waiting = waiting->next)
        if (waiting->asks) {
            waiting->asks = false;
            waiting->round = self->paxos.read_sequence;
        }
    return self->rounds_done >= self->paxos.read_sequence; /* there is nobody else to ask */
}

static void serve_read_now(struct replica *self, void *link, const struct wire_header *header,
                           const struct wire_query *query, uint32_t tries)
{
    self->host->figures.reads++;
    switch (header->type) {
    case WIRE_GET:
        serve_get(self, link, header, query, tries);
        break;
    case WIRE_LIST:
        serve_list(self, link, header, query, tries);
        break;
    case WIRE_HISTORY:
        serve_history(self, link, header, query, tries);
        break;
    default:
        hlc_now(&self->host->clock, self->host->env.realtime_ns(self->host->env.arg));
        host_reply(self->host, link, header, SLUICE_OK, 0, NULL, 0);
        break;
    }
}

static void waiting_free(struct replica *self, struct host__waiting *waiting)
{
    self->waiting_count--;
    host__load_drop(self, sizeof(*waiting) + waiting->body_size);
    self->read_bytes -= sizeof(*waiting) + waiting->body_size;
    free(waiting);
}

void read__serve(struct replica *self, void *link, const struct wire_header *header, const uint8_t *body)
{
    const struct wire_query *query = NULL;
    const char *why = "malformed";
    if (header->type != WIRE_TIME) {
        enum sluice_status status = serve__query(body, header->body_size, &query, &why);
        if (status != SLUICE_OK) {
            serve__text(self->host, link, header, status, why);
            return;
        }
    }
    enum sluice_status gate = read_gate(self, header, query, 0);
    if (gate == SLUICE_OK)
        serve_read_now(self, link, header, query, 0);
    else if (gate == SLUICE_AGAIN)
        (void)wait_for_it(self, link, header, body);
    else
        serve__elsewhere(self, link, header->request_id);
}

static void look_again(struct replica *self, uint64_t now)
{
    struct host__waiting *list = self->waiting;
    self->waiting = NULL;
    self->waiting_tail = &self->waiting;
    while (list != NULL) {
        struct host__waiting *waiting = list;
        list = list->next;
        waiting->next = NULL;
        const struct wire_query *query =
            waiting->header.type == WIRE_TIME ? NULL : (const struct wire_query *)(const void *)waiting->body;
        enum sluice_status gate = repair__pending(self, waiting->repair)
                                      ? SLUICE_AGAIN
                                      : read_gate(self, &waiting->header, query, waiting->round);
        if (gate == SLUICE_AGAIN && now < waiting->deadline_ns) {
            *self->waiting_tail = waiting;
            self->waiting_tail = &waiting->next;
            continue;
        }
        if (gate == SLUICE_OK) {
            /* Should it come to wait again, that is for what is left of its time. */
            uint64_t left = waiting->deadline_ns > now ? (waiting->deadline_ns - now) / NS_PER_MS + 1 : 1;
            waiting->header.timeout_ms = (uint32_t)left;
            serve_read_now(self, waiting->link, &waiting->header, query, waiting->tries);
        } else if (gate == SLUICE_AGAIN)
            serve__text(self->host, waiting->link, &waiting->header, SLUICE_DEADLINE,
                        "the shard could not close that time, or reach its quorum, before the deadline");
        else
            serve__elsewhere(self, waiting->link, waiting->header.request_id);
        waiting_free(self, waiting);
    }
}

void read__waiting(struct replica *self, uint64_t now)
{
    look_again(self, now);
    if (begin_round(self))
        look_again(self, now);
}

void read__drop_waiting(struct replica *self, void *link)
{
    struct host__waiting **at = &self->waiting;
    while (*at != NULL) {
        struct host__waiting *waiting = *at;
        if (link == NULL || waiting->link == link) {
            *at = waiting->next;
            waiting_free(self, waiting);
        } else {
            at = &waiting->next;
        }
    }
    self->waiting_tail = at;
}
