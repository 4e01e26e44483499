/* From fabric_send into the peer's ring: at once when there is room, else through a queue that credit drains. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/rdma/fabric__provider.h"

bool fabric__cursor_next(struct fabric__cursor *self, const uint8_t **data, uint32_t *size, bool *in_buf)
{
    const struct fabric__message *message = self->message;
    while (self->left > 0) {
        bool last = self->part == message->part_count;
        ASSERT(self->part <= message->part_count);
        const uint8_t *at = last ? message->payload : message->parts[self->part].data;
        uint64_t here = last ? message->payload_size : message->parts[self->part].size;
        self->part++;
        if (self->skip >= here) {
            self->skip -= here;
            continue;
        }
        uint64_t take = here - self->skip < self->left ? here - self->skip : self->left;
        *data = at + self->skip;
        *size = (uint32_t)take;
        *in_buf = last && message->buf;
        self->skip = 0;
        self->left -= take;
        return true;
    }
    return false;
}

void fabric__mark_dirty(struct fabric_link *link)
{
    if (fabric__list_empty(&link->dirty))
        fabric__list_push(&link->fabric->dirty, &link->dirty);
}

/* Takes in what the peer has said that it has read. False: the link has failed. */
static bool refresh_credit(struct fabric_link *link)
{
    uint64_t credit = atomic_load_explicit(&link->ring.control->credit, memory_order_acquire);
    if (ring__credit(&link->writer, credit))
        return true;
    fabric__fail(link, FABRIC_DOWN_PROTOCOL, "it returned credit for what was never sent");
    return false;
}

/* Places the next frame of a message of which `placed` of `total` bytes were placed; `message` holds those from `base`
 * on. Returns the bytes of the message that it took; 0 with *full when there is no room. */
static enum sluice_status place_next(struct fabric_link *link, const struct fabric__message *message, uint32_t total,
                                     uint32_t placed, uint32_t base, uint32_t *took, bool *full)
{
    struct ring__plan plan;
    *full = !ring__plan(&link->writer, total, placed, &plan);
    *took = 0;
    if (*full)
        return SLUICE_OK;
    enum sluice_status status = link->provider->place(link, &plan, message, placed - base);
    if (status != SLUICE_OK)
        return status;
    link->writer.tail += ring__plan_bytes(&plan);
    *took = plan.payload_size;
    fabric__mark_dirty(link);
    /* A large message: the receiver may begin while the rest is copied. */
    if (link->writer.tail - link->writer.published >= link->writer.size / 4)
        link->provider->publish(link);
    return SLUICE_OK;
}

/* --- the queue --- */

static void unlink_first(struct fabric_link *link)
{
    struct fabric__pending *first = link->pending_first;
    link->pending_first = first->next;
    if (!first->next)
        link->pending_last = NULL;
    link->pending_bytes -= first->message.total;
    buf_unref(first->message.buf);
    free(first);
}

void fabric__drop_pending(struct fabric_link *link)
{
    while (link->pending_first)
        unlink_first(link);
}

void fabric__pump(struct fabric_link *link)
{
    while (link->pending_first) {
        struct fabric__pending *first = link->pending_first;
        if (!refresh_credit(link))
            return;
        uint32_t took;
        bool full;
        if (place_next(link, &first->message, first->total, first->before + first->placed, first->before, &took,
                       &full) != SLUICE_OK) {
            fabric__fail(link, FABRIC_DOWN_CLOSED, "no memory to send");
            return;
        }
        if (full || link->state != LINK__UP)
            return;
        first->placed += took;
        if (first->placed == first->message.total)
            unlink_first(link);
    }
}

/* Queues what is left of a message once `before` bytes of it are placed. Parts are copied, the payload is referenced.
 */
static struct fabric__pending *pending_create(const struct fabric__message *message, uint32_t before)
{
    uint32_t parts = message->total - message->payload_size;
    uint32_t payload_skip = before > parts ? before - parts : 0;
    bool copy_payload = !message->buf;
    uint32_t copied = (before < parts ? parts - before : 0) + (copy_payload ? message->payload_size - payload_skip : 0);
    struct fabric__pending *self = malloc(sizeof(*self) + copied);
    if (!self)
        return NULL;
    struct fabric__cursor cursor = fabric__cursor(message, before, copied);
    const uint8_t *data;
    uint32_t size, at = 0;
    bool in_buf;
    while (fabric__cursor_next(&cursor, &data, &size, &in_buf)) {
        memcpy(self->bytes + at, data, size);
        at += size;
    }
    self->next = NULL;
    self->total = message->total;
    self->before = before;
    self->placed = 0;
    self->part = (struct slice){self->bytes, copied};
    self->message = (struct fabric__message){.parts = &self->part, .part_count = 1, .total = message->total - before};
    if (!copy_payload) {
        self->message.buf = buf_ref(message->buf);
        self->message.payload = message->payload + payload_skip;
        self->message.payload_size = message->payload_size - payload_skip;
    }
    return self;
}

/* How many bytes of a message could be placed now. */
static uint32_t placeable(const struct fabric_link *link, uint32_t total)
{
    struct ring__writer writer = link->writer;
    struct ring__plan plan;
    uint32_t placed = 0;
    while (placed < total && ring__plan(&writer, total, placed, &plan)) {
        writer.tail += ring__plan_bytes(&plan);
        placed += plan.payload_size;
    }
    return placed;
}

/* Places the first `until` bytes, for which there is room. */
static enum sluice_status place_until(struct fabric_link *link, const struct fabric__message *message, uint32_t until)
{
    for (uint32_t placed = 0, took; placed < until; placed += took) {
        bool full;
        enum sluice_status status = place_next(link, message, message->total, placed, 0, &took, &full);
        if (status != SLUICE_OK && placed == 0)
            return status;
        if (status != SLUICE_OK) /* half a message is placed: nothing can follow it */
            fabric__fail(link, FABRIC_DOWN_CLOSED, "no memory to send");
        if (link->state != LINK__UP)
            return SLUICE_CLOSED;
        ASSERT(!full);
    }
    return SLUICE_OK;
}

static enum sluice_status send_queued(struct fabric_link *link, const struct fabric__message *message, uint32_t now)
{
    /* A message larger than the limit is still taken when nothing else is queued: else it could never be sent. */
    uint64_t queued = link->pending_bytes + (message->total - now);
    if (link->pending_first && queued > link->fabric->options.pending_bytes_max)
        return SLUICE_AGAIN;
    struct fabric__pending *pending = pending_create(message, now);
    if (!pending)
        return SLUICE_MEMORY;
    enum sluice_status status = place_until(link, message, now);
    if (status != SLUICE_OK) {
        buf_unref(pending->message.buf);
        free(pending);
        return status;
    }
    if (link->pending_last)
        link->pending_last->next = pending;
    else
        link->pending_first = pending;
    link->pending_last = pending;
    link->pending_bytes = queued;
    link->writable_owed = true;
    return SLUICE_OK;
}

/* What nearly every send is: a small message and room for it. */
static bool send_small(struct fabric_link *link, const struct fabric__message *message)
{
    struct ring__writer *writer = &link->writer;
    uint64_t bytes = sizeof(struct ring__frame) + ring__align(message->total);
    if (link->pending_first || bytes > ring__frame_max(writer->size) || bytes > ring__room(writer))
        return false;
    if (!link->provider->place_whole(link, message, (uint32_t)bytes))
        return false;
    writer->tail += bytes;
    fabric__mark_dirty(link);
    if (writer->tail - writer->published >= writer->size / 4)
        link->provider->publish(link);
    return true;
}

static enum sluice_status send_message(struct fabric_link *link, const struct fabric__message *message)
{
    if (link->pending_first)
        return send_queued(link, message, 0);
    /* The credit lies in a cache line that the peer writes: it is looked at only when what is known of it does not do.
     */
    if (ring__room(&link->writer) < RING__HEADER_MAX + ring__align(message->total) && !refresh_credit(link))
        return SLUICE_CLOSED;
    if (message->total <= ring__frame_max(link->writer.size) / 2) {
        uint32_t took;
        bool full;
        enum sluice_status status = place_next(link, message, message->total, 0, 0, &took, &full);
        return full ? send_queued(link, message, 0) : status;
    }
    uint32_t now = placeable(link, message->total);
    return now == message->total ? place_until(link, message, now) : send_queued(link, message, now);
}

enum sluice_status fabric_send(struct fabric_link *link, const struct slice *parts, unsigned part_count,
                               struct buf *payload, uint32_t payload_offset, uint32_t payload_size)
{
    if (link->state != LINK__UP)
        return link->state < LINK__UP ? SLUICE_AGAIN : SLUICE_CLOSED;
    struct fabric__message message = {.parts = parts, .part_count = part_count};
    uint64_t total = 0;
    for (unsigned i = 0; i < part_count; i++) {
        if (parts[i].size > UINT32_MAX)
            return SLUICE_TOO_LARGE;
        total += parts[i].size;
    }
    if (payload) {
        ASSERT(payload_offset <= payload->size && payload_size <= payload->size - payload_offset);
        message.buf = payload;
        message.payload = payload->data + payload_offset;
        message.payload_size = payload_size;
        total += payload_size;
    }
    if (total > link->peer_message_max)
        return SLUICE_TOO_LARGE;
    message.total = (uint32_t)total;
    return send_small(link, &message) ? SLUICE_OK : send_message(link, &message);
}

uint64_t fabric_pending(const struct fabric_link *link)
{
    return link->pending_bytes + link->provider->backlog(link);
}
