/* One direction of a load: who pours and who swallows. */
#include <string.h>

#include "core/rdma/main/perf.h"

#define COPIED_BYTES_MAX 4096u      /* a smaller message is sent as nodes send small entries: copied */
#define UNDERWAY_BYTES   (1u << 20) /* beyond the ring; or two messages, if that is more */
#define AT_ONCE          64u        /* before the link is looked at again */

enum sluice_status perf_pour_start(struct perf_pour *self, uint32_t size, uint64_t duration_ns)
{
    perf_pour_stop(self);
    self->data = buf_create(size);
    if (!self->data)
        return SLUICE_MEMORY;
    memset(self->data->data, 0x5a, size);
    self->data->data[0] = PERF_DATA;
    self->until_ns = clock_monotonic_ns() + duration_ns;
    self->running = true;
    return SLUICE_OK;
}

void perf_pour_stop(struct perf_pour *self)
{
    buf_unref(self->data);
    *self = (struct perf_pour){0};
}

static bool send_done(struct fabric_link *link)
{
    struct perf_control done = {.kind = PERF_DONE};
    struct slice part = {&done, sizeof(done)};
    return fabric_send(link, &part, 1, NULL, 0, 0) == SLUICE_OK;
}

bool perf_pour_ready(const struct perf_pour *self, const struct fabric_link *link)
{
    if (!self->running)
        return false;
    uint64_t two = 2 * (uint64_t)self->data->size;
    return fabric_pending(link) < (two > UNDERWAY_BYTES ? two : UNDERWAY_BYTES);
}

bool perf_pour_on(struct perf_pour *self, struct fabric_link *link)
{
    uint32_t size = self->data->size;
    for (unsigned i = 0; i < AT_ONCE && perf_pour_ready(self, link); i++) {
        struct slice part = {self->data->data, size};
        bool copied = size <= COPIED_BYTES_MAX;
        enum sluice_status status =
            copied ? fabric_send(link, &part, 1, NULL, 0, 0) : fabric_send(link, NULL, 0, self->data, 0, size);
        if (status == SLUICE_AGAIN)
            return true;
        if (status != SLUICE_OK)
            return false;
    }
    if (clock_monotonic_ns() < self->until_ns)
        return true;
    perf_pour_stop(self);
    return send_done(link);
}

void perf_tally_add(struct perf_tally *self, uint32_t size)
{
    self->last_ns = clock_monotonic_ns();
    if (self->messages++ == 0) {
        self->first_ns = self->last_ns;
        self->first_bytes = size;
    }
    self->bytes += size;
}

struct perf_rate perf_tally_rate(const struct perf_tally *self)
{
    struct perf_rate rate = {.total_messages = self->messages};
    /* When the first message began to arrive is not known, so neither its bytes nor its time count; of a single one,
     * all the time does that passed since it was asked for. */
    bool single = self->messages < 2;
    uint64_t elapsed = self->last_ns - (single ? self->started_ns : self->first_ns);
    if (self->messages == 0 || elapsed == 0)
        return rate;
    double seconds = 1e-9 * (double)elapsed;
    rate.bytes = (double)(self->bytes - (single ? 0 : self->first_bytes)) / seconds;
    rate.messages = (double)(self->messages - (single ? 0 : 1)) / seconds;
    return rate;
}
