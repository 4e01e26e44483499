/* The side that asks and measures. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rdma/main/perf.h"

#define POLL_BUDGET   256
#define PING_EVERY_NS (20 * NS_PER_MS) /* as often as nodes renew their leases */
#define PING_BYTES    64u
#define WARM_UP       10u /* the first round trips wake who sleeps; a tenth of the time at most */

static const uint32_t latency_sizes[] = {64, 1024, 16384, 262144};
static const uint32_t bandwidth_sizes[] = {1024, 16384, 1048576};

struct measurement {
    const struct perf_options *options;
    const volatile int *stop;
    struct fabric *fabric;
    struct fabric_link *link;
    bool up, down;
    char *error;
    size_t error_size;
    uint64_t heard_ns; /* when the peer last sent anything */

    bool ready, told; /* READY, TALLY came */
    bool done;        /* the peer has poured all */
    uint64_t echoes;
    struct perf_pour pour;
    struct perf_tally tally;   /* of what came back */
    struct perf_control there; /* the peer's */
    uint64_t ping_sent_ns;     /* 0: none is under way */
    uint64_t ping_at_ns;
    struct perf_result *result;
};

static bool fail(struct measurement *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct measurement *self, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (self->error[0] == '\0')
        (void)vsnprintf(self->error, self->error_size, format, args);
    va_end(args);
    return false;
}

static void on_message(struct measurement *self, const uint8_t *data, uint32_t size)
{
    struct perf_control control = {0};
    if (size == 0)
        return;
    self->heard_ns = clock_monotonic_ns();
    switch (data[0]) {
    case PERF_PING:
        if (self->ping_sent_ns)
            histogram_add(&self->result->round_trips, self->heard_ns - self->ping_sent_ns);
        self->ping_sent_ns = 0;
        break;
    case PERF_DATA:
        self->echoes++;
        perf_tally_add(&self->tally, size);
        break;
    case PERF_READY:
        self->ready = true;
        break;
    case PERF_DONE:
        self->done = true;
        break;
    case PERF_TALLY:
        if (size == sizeof(control))
            memcpy(&control, data, sizeof(control));
        self->there = control;
        self->told = true;
        break;
    default:
        self->down = true;
        (void)fail(self, "the other side sends what this release does not know: run the same release on both");
    }
}

static void on_event(void *arg, const struct fabric_event *event)
{
    struct measurement *self = arg;
    if (event->type == FABRIC_LINK_UP) {
        self->up = true;
    } else if (event->type == FABRIC_LINK_DOWN) {
        self->down = true;
        self->link = NULL;
        bool stranger = strstr(event->text, "expected cluster") != NULL;
        bool nobody = strstr(event->text, "refused") != NULL || strstr(event->text, "nobody listens") != NULL;
        (void)fail(
            self, "%s%s", event->text,
            stranger ? ". What listens there is no fabric-perf: start \"fabric-perf --serve\" at an address of its own"
            : nobody ? " Start \"fabric-perf --serve ADDRESS\" there first."
                     : "");
    } else if (event->type == FABRIC_MESSAGE) {
        on_message(self, event->data, event->size);
    }
}

/* One turn of the loop. False: the measurement can't go on. */
static bool turn(struct measurement *self)
{
    if (*self->stop)
        return fail(self, "interrupted");
    unsigned events = fabric_poll(self->fabric, POLL_BUDGET, on_event, self);
    if (self->down)
        return false;
    if (self->pour.running && !perf_pour_on(&self->pour, self->link))
        perf_pour_stop(&self->pour); /* LINK_DOWN follows */
    if (events > 0 || perf_pour_ready(&self->pour, self->link))
        return true;
    fabric_flush(self->fabric);
    uint64_t now = clock_monotonic_ns();
    if (self->up && now > self->heard_ns + PERF_SILENCE_NS && !self->pour.running)
        return fail(self, "the other side has sent nothing for %u seconds: is it stopped, or the network down?",
                    (unsigned)(PERF_SILENCE_NS / NS_PER_S));
    fabric_wait(self->fabric, self->ping_at_ns > now ? self->ping_at_ns - now : PERF_WAIT_NS);
    return true;
}

static bool post(struct measurement *self, const void *data, uint32_t size)
{
    struct slice part = {data, size};
    enum sluice_status status = fabric_send(self->link, &part, 1, NULL, 0, 0);
    if (status != SLUICE_OK)
        return fail(self, "a message of %u bytes could not be sent: %s", size, sluice_status_text(status));
    fabric_flush(self->fabric);
    return true;
}

static bool start(struct measurement *self, struct perf_result *result)
{
    struct perf_control control = {.kind = PERF_START,
                                   .test = (uint8_t)result->test,
                                   .direction = (uint8_t)result->direction,
                                   .size = result->size,
                                   .duration_ns = (uint64_t)(self->options->seconds * (double)NS_PER_S)};
    self->ready = self->told = self->done = false;
    self->tally = (struct perf_tally){.started_ns = clock_monotonic_ns()};
    self->result = result;
    self->heard_ns = clock_monotonic_ns();
    if (!post(self, &control, sizeof(control)))
        return false;
    while (!self->ready)
        if (!turn(self))
            return false;
    return true;
}

static bool round_trip(struct measurement *self, const uint8_t *data, uint32_t size, uint64_t *elapsed)
{
    uint64_t begin = clock_monotonic_ns(), want = self->echoes + 1;
    self->heard_ns = begin;
    if (!post(self, data, size))
        return false;
    while (self->echoes < want)
        if (!turn(self))
            return false;
    *elapsed = clock_monotonic_ns() - begin;
    return true;
}

static bool latency(struct measurement *self, struct perf_result *result)
{
    uint64_t duration = (uint64_t)(self->options->seconds * (double)NS_PER_S), elapsed = 0;
    uint8_t *data = calloc(1, result->size);
    if (!data)
        return fail(self, "out of memory");
    data[0] = PERF_DATA;
    bool good = start(self, result);
    uint64_t warm = clock_monotonic_ns() + duration / 10;
    for (unsigned i = 0; good && i < WARM_UP && clock_monotonic_ns() < warm; i++)
        good = round_trip(self, data, result->size, &elapsed);
    uint64_t until = clock_monotonic_ns() + duration;
    do {
        good = good && round_trip(self, data, result->size, &elapsed);
        if (good)
            histogram_add(&result->round_trips, elapsed);
    } while (good && clock_monotonic_ns() < until);
    free(data);
    return good;
}

/* What a lease's renewal would meet behind the load. */
static bool ping(struct measurement *self)
{
    uint8_t data[PING_BYTES] = {PERF_PING};
    uint64_t now = clock_monotonic_ns();
    if (now < self->ping_at_ns)
        return true;
    self->ping_at_ns = now + PING_EVERY_NS;
    if (self->ping_sent_ns)
        return true; /* the last one has not come back yet */
    self->ping_sent_ns = now;
    return post(self, data, sizeof(data));
}

static bool bandwidth(struct measurement *self, struct perf_result *result)
{
    bool there = result->direction & PERF_THERE, back = result->direction & PERF_BACK;
    uint64_t duration = (uint64_t)(self->options->seconds * (double)NS_PER_S);
    if (!start(self, result))
        return false;
    if (there && perf_pour_start(&self->pour, result->size, duration) != SLUICE_OK)
        return fail(self, "out of memory");
    self->ping_sent_ns = 0;
    self->ping_at_ns = clock_monotonic_ns() + PING_EVERY_NS / 2;
    while ((there && !self->told) || (back && !self->done) || self->ping_sent_ns) {
        bool over = (!there || !self->pour.running) && (!back || self->done);
        if (!(over || ping(self)) || !turn(self))
            return false;
    }
    self->ping_at_ns = 0;
    if (there) {
        const struct perf_control *told = &self->there;
        struct perf_tally tally = {
            .messages = told->messages, .bytes = told->bytes, .first_bytes = told->size, .last_ns = told->elapsed_ns};
        result->there = perf_tally_rate(&tally);
    }
    if (back)
        result->back = perf_tally_rate(&self->tally);
    return true;
}

static bool run(struct measurement *self, enum perf_test test, const uint32_t *sizes, unsigned count,
                void (*report)(void *arg, const struct perf_result *result), void *arg)
{
    struct perf_result *result = calloc(1, sizeof(*result));
    bool good = result != NULL || fail(self, "out of memory");
    for (unsigned i = 0; good && i < count; i++) {
        *result = (struct perf_result){.test = test, .direction = self->options->direction, .size = sizes[i]};
        good = test == PERF_LATENCY ? latency(self, result) : bandwidth(self, result);
        if (good)
            report(arg, result);
    }
    free(result);
    return good;
}

bool perf_measure(const struct perf_options *options, const char *address, const volatile int *stop,
                  void (*result)(void *arg, const struct perf_result *result), void *arg, char *error,
                  size_t error_size)
{
    struct measurement self = {.options = options, .stop = stop, .error = error, .error_size = error_size};
    error[0] = '\0';
    enum sluice_status status = fabric_create(&options->fabric, &self.fabric);
    if (status != SLUICE_OK)
        return fail(&self, "the fabric cannot be opened: %s", sluice_status_text(status));
    bool good = fabric_connect(self.fabric, address, NULL, &self.link) == SLUICE_OK;
    if (!good)
        (void)fail(&self, "an address like shm:NAME or tcp:HOST:PORT was expected; came: %s", address);
    while (good && !self.up)
        good = turn(&self);
    const uint32_t *given = options->size_count ? options->sizes : NULL;
    if (good && options->latency)
        good = run(&self, PERF_LATENCY, given ? given : latency_sizes,
                   given ? options->size_count : sizeof(latency_sizes) / sizeof(latency_sizes[0]), result, arg);
    if (good && options->bandwidth)
        good = run(&self, PERF_BANDWIDTH, given ? given : bandwidth_sizes,
                   given ? options->size_count : sizeof(bandwidth_sizes) / sizeof(bandwidth_sizes[0]), result, arg);
    perf_pour_stop(&self.pour);
    fabric_destroy(self.fabric);
    return good;
}
