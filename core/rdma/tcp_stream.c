/* One-sided writes over a byte stream: each frame names where its bytes go, and the receiver puts them there in order.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/rdma/tcp__stream.h"

#define CHUNK_BYTES         (16u << 10)
#define SPARE_MAX           64u
#define REFERENCE_BYTES_MIN 4096u /* a smaller payload is cheaper to copy than to reference */
#define DIRECT_BYTES_MIN    (16u << 10)
#define BATCH_BYTES_MAX     (64u << 10) /* the receiver sees a run of frames when it is complete */
#define VECTORS_MAX         64
#define STAGING_BYTES       (64u << 10)
#define RECEIVE_BYTES_MAX   (1u << 20) /* in one visit */

/* --- out --- */

struct tcp__chunk {
    struct tcp__chunk *next;
    const uint8_t *data;
    uint32_t size;     /* bytes valid */
    uint32_t sent;     /* of them, taken by the socket */
    uint32_t capacity; /* of room; 0: data lies in buf */
    struct buf *buf;
    uint8_t room[];
};

static struct tcp__chunk *chunk_create(struct fabric *self, uint32_t capacity)
{
    struct tcp__chunk *chunk = NULL;
    if (capacity <= CHUNK_BYTES && self->spare) {
        chunk = self->spare;
        self->spare = chunk->next;
        self->spare_count--;
    } else {
        capacity = capacity < CHUNK_BYTES ? CHUNK_BYTES : capacity;
        chunk = malloc(sizeof(*chunk) + capacity);
        if (!chunk)
            return NULL;
        chunk->capacity = capacity;
    }
    chunk->next = NULL;
    chunk->data = chunk->room;
    chunk->size = chunk->sent = 0;
    chunk->buf = NULL;
    return chunk;
}

static struct tcp__chunk *chunk_reference(struct buf *buf, const uint8_t *data, uint32_t size)
{
    struct tcp__chunk *chunk = malloc(sizeof(*chunk));
    if (!chunk)
        return NULL;
    *chunk = (struct tcp__chunk){.data = data, .size = size, .buf = buf_ref(buf)};
    return chunk;
}

static void chunk_destroy(struct fabric *self, struct tcp__chunk *chunk)
{
    buf_unref(chunk->buf);
    if (chunk->capacity == CHUNK_BYTES && self->spare_count < SPARE_MAX) {
        chunk->next = self->spare;
        self->spare = chunk;
        self->spare_count++;
        return;
    }
    free(chunk);
}

void tcp__discard_spare(struct fabric *self)
{
    while (self->spare) {
        struct tcp__chunk *chunk = self->spare;
        self->spare = chunk->next;
        free(chunk);
    }
}

static void append(struct fabric__tcp *tcp, struct tcp__chunk *chunk)
{
    if (!chunk)
        return;
    if (tcp->out_last)
        tcp->out_last->next = chunk;
    else
        tcp->out_first = chunk;
    tcp->out_last = chunk;
}

static uint32_t room_in_last(const struct fabric__tcp *tcp)
{
    const struct tcp__chunk *last = tcp->out_last;
    return last && last->capacity ? last->capacity - last->size : 0;
}

static uint8_t *extend(struct fabric__tcp *tcp, uint32_t size)
{
    struct tcp__chunk *last = tcp->out_last;
    uint8_t *at = last->room + last->size;
    last->size += size;
    tcp->out_bytes += size;
    return at;
}

/* Room for `size` bytes in one piece at the end, or NULL. */
static uint8_t *reserve(struct fabric_link *link, uint32_t size)
{
    if (room_in_last(&link->tcp) < size) {
        struct tcp__chunk *chunk = chunk_create(link->fabric, size);
        if (!chunk)
            return NULL;
        append(&link->tcp, chunk);
    }
    return extend(&link->tcp, size);
}

static void batch_end(struct fabric_link *link)
{
    struct fabric__tcp *tcp = &link->tcp;
    if (!tcp->batch)
        return;
    struct tcp__frame frame = {.kind = TCP__RING,
                               .length = tcp->batch_bytes,
                               .key = link->reader.head,
                               .offset = link->writer.tail - tcp->batch_bytes};
    memcpy(tcp->batch, &frame, sizeof(frame));
    link->reader.credited = link->reader.head;
    tcp->batch = NULL;
    tcp->batch_bytes = 0;
}

/* A frame of our own accord. A peer that never reads must not make them pile up. */
static void append_frame(struct fabric_link *link, const struct tcp__frame *frame)
{
    batch_end(link);
    uint8_t *at = link->tcp.out_bytes <= link->fabric->options.pending_bytes_max + link->writer.size
                      ? reserve(link, sizeof(*frame))
                      : NULL;
    if (!at) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "the peer does not read, or there is no memory for what it should read");
        return;
    }
    memcpy(at, frame, sizeof(*frame));
    fabric__mark_dirty(link);
}

void tcp__drop_out(struct fabric_link *link)
{
    struct fabric__tcp *tcp = &link->tcp;
    while (tcp->out_first) {
        struct tcp__chunk *chunk = tcp->out_first;
        tcp->out_first = chunk->next;
        chunk_destroy(link->fabric, chunk);
    }
    tcp->out_last = NULL;
    tcp->out_bytes = 0;
    tcp->batch = NULL;
    tcp->batch_bytes = 0;
}

static void consume(struct fabric_link *link, size_t bytes)
{
    struct fabric__tcp *tcp = &link->tcp;
    tcp->out_bytes -= bytes;
    while (bytes > 0) {
        struct tcp__chunk *chunk = tcp->out_first;
        uint32_t left = chunk->size - chunk->sent;
        if (bytes < left) {
            chunk->sent += (uint32_t)bytes;
            return;
        }
        bytes -= left;
        tcp->out_first = chunk->next;
        if (!chunk->next)
            tcp->out_last = NULL;
        chunk_destroy(link->fabric, chunk);
    }
}

/* Sends a gather list. Returns what the socket took; marks the link blocked, or fails it. */
static size_t send_vectors(struct fabric_link *link, struct iovec *vectors, size_t count)
{
    ssize_t sent = tcp__socket_write(link, vectors, count);
    if (sent >= 0) {
        link->fabric->woke_peer = true; /* nobody can know; a peer behind a socket mostly sleeps */
        return (size_t)sent;
    }
    if (errno == EAGAIN) {
        link->tcp.blocked = true;
        link->writable_owed = true;
    } else {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "the connection broke: %s", tcp__socket_error(link));
    }
    return 0;
}

static void flush(struct fabric_link *link)
{
    struct fabric__tcp *tcp = &link->tcp;
    while (tcp->out_first && !tcp->blocked && link->fd >= 0) {
        struct iovec vectors[VECTORS_MAX];
        size_t count = 0;
        for (struct tcp__chunk *chunk = tcp->out_first; chunk && count < VECTORS_MAX; chunk = chunk->next) {
            vectors[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)(chunk->data + chunk->sent),
                                              .iov_len = chunk->size - chunk->sent};
        }
        size_t sent = send_vectors(link, vectors, count);
        if (link->state >= LINK__ENDING)
            return;
        consume(link, sent);
    }
}

/* A large message of the caller's own memory goes to the socket without a copy; what that does not take is copied. */
static enum sluice_status place_direct(struct fabric_link *link, const struct ring__plan *plan,
                                       const struct fabric__message *message, uint32_t offset)
{
    static const uint8_t zeros[8];
    uint32_t bytes = ring__plan_bytes(plan);
    struct tcp__frame frame = {
        .kind = TCP__RING, .length = bytes, .key = link->reader.head, .offset = link->writer.tail};
    struct iovec vectors[VECTORS_MAX + 3] = {
        {.iov_base = &frame, .iov_len = sizeof(frame)},
        {.iov_base = (void *)(uintptr_t)plan->header, .iov_len = plan->header_size},
    };
    size_t count = 2;
    struct fabric__cursor cursor = fabric__cursor(message, offset, plan->payload_size);
    const uint8_t *data;
    uint32_t size;
    bool in_buf;
    while (fabric__cursor_next(&cursor, &data, &size, &in_buf))
        vectors[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    vectors[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)zeros, .iov_len = plan->padding};
    struct tcp__chunk *rest = chunk_create(link->fabric, bytes + (uint32_t)sizeof(frame));
    if (!rest)
        return SLUICE_MEMORY;
    size_t sent = send_vectors(link, vectors, count);
    link->reader.credited = link->reader.head;
    link->writer.published = link->writer.tail + bytes;
    for (size_t i = 0; i < count; i++) {
        size_t skip = sent < vectors[i].iov_len ? sent : vectors[i].iov_len;
        sent -= skip;
        if (vectors[i].iov_len > skip)
            memcpy(rest->room + rest->size, (const uint8_t *)vectors[i].iov_base + skip, vectors[i].iov_len - skip);
        rest->size += (uint32_t)(vectors[i].iov_len - skip);
    }
    if (rest->size == 0 || link->state != LINK__UP) {
        chunk_destroy(link->fabric, rest);
        return SLUICE_OK;
    }
    append(&link->tcp, rest);
    link->tcp.out_bytes += rest->size;
    return SLUICE_OK;
}

enum sluice_status tcp__place(struct fabric_link *link, const struct ring__plan *plan,
                              const struct fabric__message *message, uint32_t offset)
{
    struct fabric__tcp *tcp = &link->tcp;
    struct fabric__cursor cursor = fabric__cursor(message, offset, plan->payload_size);
    const uint8_t *data, *reference = NULL;
    uint32_t size, referenced = 0;
    unsigned pieces = 0;
    bool in_buf;
    while (fabric__cursor_next(&cursor, &data, &size, &in_buf)) {
        pieces++;
        if (in_buf && size >= REFERENCE_BYTES_MIN) {
            reference = data; /* always the last piece */
            referenced = size;
        }
    }
    if (!tcp->out_first && !tcp->blocked && !tcp->session && !reference && plan->payload_size >= DIRECT_BYTES_MIN &&
        pieces <= VECTORS_MAX)
        return place_direct(link, plan, message, offset);
    if (tcp->batch && tcp->batch_bytes >= BATCH_BYTES_MAX)
        batch_end(link);
    uint32_t copied = plan->header_size + plan->payload_size - referenced;
    uint32_t before = copied + (tcp->batch ? 0 : (uint32_t)sizeof(struct tcp__frame)) + (reference ? 0 : plan->padding);
    /* All memory first, so that a frame is queued whole or not at all. */
    struct tcp__chunk *first = room_in_last(tcp) < before ? chunk_create(link->fabric, before) : NULL;
    if (room_in_last(tcp) < before && !first)
        return SLUICE_MEMORY;
    struct tcp__chunk *second = reference ? chunk_reference(message->buf, reference, referenced) : NULL;
    struct tcp__chunk *third = reference && plan->padding ? chunk_create(link->fabric, CHUNK_BYTES) : NULL;
    if ((reference && !second) || (reference && plan->padding && !third)) {
        if (first)
            chunk_destroy(link->fabric, first);
        if (second)
            chunk_destroy(link->fabric, second);
        return SLUICE_MEMORY;
    }
    append(tcp, first);
    if (!tcp->batch)
        tcp->batch = extend(tcp, sizeof(struct tcp__frame));
    uint8_t *at = extend(tcp, copied);
    memcpy(at, plan->header, plan->header_size);
    at += plan->header_size;
    cursor = fabric__cursor(message, offset, plan->payload_size - referenced);
    while (fabric__cursor_next(&cursor, &data, &size, &in_buf)) {
        memcpy(at, data, size);
        at += size;
    }
    append(tcp, second);
    tcp->out_bytes += referenced;
    append(tcp, third);
    if (plan->padding)
        memset(extend(tcp, plan->padding), 0, plan->padding);
    tcp->batch_bytes += ring__plan_bytes(plan);
    return SLUICE_OK;
}

/* Behind others of an open run, when all of it is copied and there is room. */
bool tcp__place_whole(struct fabric_link *link, const struct fabric__message *message, uint32_t bytes)
{
    struct fabric__tcp *tcp = &link->tcp;
    if (!tcp->batch || tcp->batch_bytes >= BATCH_BYTES_MAX || message->payload_size >= REFERENCE_BYTES_MIN ||
        room_in_last(tcp) < bytes)
        return false;
    uint8_t *at = extend(tcp, bytes);
    uint64_t header = ring__whole(message->total), zeros = 0;
    memcpy(at + bytes - sizeof(zeros), &zeros, sizeof(zeros)); /* the padding, before what may cover most of it */
    memcpy(at, &header, sizeof(header));
    at += sizeof(header);
    for (unsigned i = 0; i < message->part_count; i++) {
        if (message->parts[i].size == 0)
            continue;
        memcpy(at, message->parts[i].data, message->parts[i].size);
        at += message->parts[i].size;
    }
    if (message->payload_size)
        memcpy(at, message->payload, message->payload_size);
    tcp->batch_bytes += bytes;
    return true;
}

void tcp__publish(struct fabric_link *link)
{
    batch_end(link);
    link->writer.published = link->writer.tail;
    flush(link);
}

void tcp__credit(struct fabric_link *link)
{
    struct tcp__frame frame = {.kind = TCP__CREDIT, .key = link->reader.head};
    link->reader.credited = link->reader.head;
    append_frame(link, &frame);
}

enum sluice_status tcp__write(struct fabric_link *link, uint64_t key, uint64_t offset, const void *data, uint32_t size,
                              unsigned flags, uint64_t cookie)
{
    struct fabric__tcp *tcp = &link->tcp;
    bool signal = flags & FABRIC_WRITE_SIGNAL;
    if (tcp->blocked && tcp->out_bytes + size > link->fabric->options.pending_bytes_max)
        return SLUICE_AGAIN;
    if (size > UINT32_MAX - CHUNK_BYTES)
        return SLUICE_TOO_LARGE;
    batch_end(link);
    if (room_in_last(tcp) < sizeof(struct tcp__frame) + size) {
        struct tcp__chunk *chunk = chunk_create(link->fabric, (uint32_t)sizeof(struct tcp__frame) + size);
        if (!chunk)
            return SLUICE_MEMORY;
        append(tcp, chunk);
    }
    if (signal) {
        enum sluice_status status = fabric__completions_push(&tcp->unanswered, cookie, SLUICE_OK);
        if (status != SLUICE_OK)
            return status;
        tcp->writes_sent++;
    }
    struct tcp__frame frame = {
        .kind = TCP__WRITE, .length = size, .key = key, .offset = offset, .cookie = signal ? tcp->writes_sent : 0};
    uint8_t *at = extend(tcp, (uint32_t)sizeof(frame) + size);
    memcpy(at, &frame, sizeof(frame));
    if (size > 0)
        memcpy(at + sizeof(frame), data, size);
    fabric__mark_dirty(link);
    return SLUICE_OK;
}

enum sluice_status tcp__revoke(struct fabric_region *region, struct fabric_link *link, struct fabric__grant *grant)
{
    (void)region;
    /* The rest of a write that is half placed goes nowhere. */
    if (link->tcp.grant == grant) {
        link->tcp.grant = NULL;
        link->tcp.into = NULL;
        link->tcp.write_status = SLUICE_FORBIDDEN;
    }
    return SLUICE_OK;
}

/* --- in --- */

static bool protocol(struct fabric_link *link, const char *why)
{
    fabric__fail(link, FABRIC_DOWN_PROTOCOL, "%s", why);
    return false;
}

static bool begin_ring(struct fabric_link *link, const struct tcp__frame *frame)
{
    struct ring__control *control = link->ring.control;
    struct ring__reader *reader = &link->reader;
    uint64_t tail = atomic_load_explicit(&control->tail, memory_order_relaxed);
    if (frame->offset != tail || frame->length == 0 || (frame->length & 7) ||
        frame->length > reader->size - (tail - reader->head))
        return protocol(link, "a run of frames does not fit where it should go");
    atomic_store_explicit(&control->credit, frame->key, memory_order_relaxed);
    /* An empty ring begins anew at its first byte: a quiet link touches little of its memory. */
    if (tail == reader->head)
        reader->origin = tail;
    link->tcp.into = link->ring.bytes + ((tail - reader->origin) & (reader->size - 1));
    return true;
}

static bool begin_write(struct fabric_link *link, const struct tcp__frame *frame)
{
    struct fabric__tcp *tcp = &link->tcp;
    tcp->grant = fabric__grant_find(link, frame->key);
    tcp->into = NULL;
    tcp->write_status = SLUICE_OK;
    if (!tcp->grant) {
        tcp->write_status = SLUICE_FORBIDDEN;
        return true;
    }
    size_t size = tcp->grant->region->size;
    if (frame->offset > size || frame->length > size - frame->offset)
        return protocol(link, "a write reaches beyond its region");
    tcp->into = tcp->grant->region->memory + frame->offset;
    return true;
}

static bool on_answer(struct fabric_link *link, const struct tcp__frame *frame)
{
    struct fabric__tcp *tcp = &link->tcp;
    if (tcp->writes_answered == tcp->writes_sent || frame->cookie != tcp->writes_answered + 1 ||
        frame->offset > UINT32_MAX || !sluice_status_known((uint32_t)frame->offset))
        return protocol(link, "an answer came to a write that was not sent");
    tcp->writes_answered++;
    struct fabric__completions *queue = &tcp->unanswered;
    uint64_t cookie = queue->items[tcp->unanswered_first++].cookie;
    if (tcp->unanswered_first == queue->count) {
        tcp->unanswered_first = 0;
        queue->count = 0;
    } else if (tcp->unanswered_first >= 1024 && tcp->unanswered_first * 2 >= queue->count) {
        queue->count -= tcp->unanswered_first;
        memmove(queue->items, queue->items + tcp->unanswered_first, queue->count * sizeof(*queue->items));
        tcp->unanswered_first = 0;
    }
    if (fabric__completions_push(&link->completions, cookie, (enum sluice_status)frame->offset) == SLUICE_OK)
        return true;
    fabric__fail(link, FABRIC_DOWN_CLOSED, "no memory to report a completion");
    return false;
}

static bool begin(struct fabric_link *link, const struct tcp__frame *frame)
{
    struct fabric__tcp *tcp = &link->tcp;
    tcp->left = frame->length;
    tcp->into = NULL;
    tcp->grant = NULL;
    if (frame->unused[0] | frame->unused[1] | frame->unused[2])
        return protocol(link, "a frame's header is damaged");
    if (frame->kind != TCP__RING && frame->kind != TCP__WRITE && frame->length != 0)
        return protocol(link, "a frame that holds no bytes says it does");
    switch (frame->kind) {
    case TCP__RING:
        return begin_ring(link, frame);
    case TCP__WRITE:
        return begin_write(link, frame);
    case TCP__CREDIT:
        atomic_store_explicit(&link->ring.control->credit, frame->key, memory_order_relaxed);
        return true;
    case TCP__ANSWER:
        return on_answer(link, frame);
    default:
        return protocol(link, "a frame of an unknown kind came");
    }
}

static bool end(struct fabric_link *link)
{
    struct fabric__tcp *tcp = &link->tcp;
    struct tcp__frame frame;
    memcpy(&frame, tcp->header, sizeof(frame));
    tcp->in_payload = false;
    tcp->header_have = 0;
    tcp->into = NULL;
    tcp->grant = NULL;
    if (frame.kind == TCP__RING)
        atomic_store_explicit(&link->ring.control->tail, frame.offset + frame.length, memory_order_release);
    if (frame.kind == TCP__WRITE && frame.cookie != 0) {
        struct tcp__frame answer = {.kind = TCP__ANSWER, .offset = (uint64_t)tcp->write_status, .cookie = frame.cookie};
        append_frame(link, &answer);
    }
    return link->state < LINK__ENDING;
}

static void advance(struct fabric__tcp *tcp, size_t bytes)
{
    if (tcp->into)
        tcp->into += bytes;
    tcp->left -= bytes;
}

bool tcp__feed(struct fabric_link *link, const uint8_t *data, size_t size)
{
    struct fabric__tcp *tcp = &link->tcp;
    for (;;) {
        if (!tcp->in_payload) {
            size_t take = sizeof(tcp->header) - tcp->header_have;
            take = take < size ? take : size;
            memcpy(tcp->header + tcp->header_have, data, take);
            tcp->header_have += (uint32_t)take;
            data += take;
            size -= take;
            if (tcp->header_have < sizeof(tcp->header))
                return true;
            struct tcp__frame frame;
            memcpy(&frame, tcp->header, sizeof(frame));
            if (!begin(link, &frame))
                return false;
            tcp->in_payload = true;
        }
        size_t take = tcp->left < size ? (size_t)tcp->left : size;
        if (tcp->into && take > 0)
            memcpy(tcp->into, data, take);
        advance(tcp, take);
        data += take;
        size -= take;
        if (tcp->left > 0)
            return true;
        if (!end(link))
            return false;
    }
}

/* One read. Returns its bytes, or 0 when the socket has no more or the link has failed; *full: it may have more. */
static size_t receive_once(struct fabric_link *link, bool *full)
{
    struct fabric *self = link->fabric;
    struct fabric__tcp *tcp = &link->tcp;
    struct iovec vectors[2];
    size_t count = 0;
    size_t direct = tcp->in_payload && tcp->into ? (size_t)tcp->left : 0;
    if (direct > 0)
        vectors[count++] = (struct iovec){.iov_base = tcp->into, .iov_len = direct};
    vectors[count++] = (struct iovec){.iov_base = self->staging, .iov_len = STAGING_BYTES};
    ssize_t got = tcp__socket_read(link, vectors, count, full);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        *full = errno == EINTR;
        return 0;
    }
    if (got <= 0) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "%s",
                     got == 0 ? "the peer closed the connection" : tcp__socket_error(link));
        return 0;
    }
    size_t placed = (size_t)got < direct ? (size_t)got : direct;
    if (placed > 0) {
        advance(tcp, placed);
        if (tcp->left == 0 && !end(link))
            return 0;
    }
    if ((size_t)got > placed && !tcp__feed(link, self->staging, (size_t)got - placed))
        return 0;
    return (size_t)got;
}

void tcp__receive(struct fabric_link *link)
{
    struct fabric *self = link->fabric;
    if (!self->staging && !(self->staging = malloc(STAGING_BYTES))) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "no memory to receive");
        return;
    }
    /* A short read empties the socket, and its next byte makes a new edge; but the end that has been seen already makes
     * none. */
    bool full = true;
    for (size_t total = 0, got = 1; (full || (got > 0 && link->tcp.hung)) && link->state < LINK__ENDING;) {
        got = receive_once(link, &full);
        total += got;
        if (total >= RECEIVE_BYTES_MAX) {
            link->flags |= LINK__READABLE;
            return;
        }
    }
}
