/* The side that does as it is asked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/rdma/main/perf.h"

#define POLL_BUDGET 256

struct session {
    struct session *next;
    struct fabric_link *link;
    struct perf_pour pour;
    struct perf_tally tally;
    bool echo;
};
struct server {
    struct session *sessions;
    bool served;
    bool silent;
};

static bool reply(struct session *session, const void *data, uint32_t size)
{
    struct slice part = {data, size};
    return fabric_send(session->link, &part, 1, NULL, 0, 0) == SLUICE_OK;
}

static bool start(struct session *session, const struct perf_control *control)
{
    bool known = (control->test == PERF_LATENCY || control->test == PERF_BANDWIDTH) && control->size > 0 &&
                 control->size <= PERF_SIZE_MAX && control->direction >= PERF_THERE &&
                 control->direction <= PERF_BOTH && control->duration_ns <= (uint64_t)PERF_SECONDS_MAX * NS_PER_S;
    if (!known)
        return false;
    session->echo = control->test == PERF_LATENCY;
    session->tally = (struct perf_tally){.started_ns = clock_monotonic_ns()};
    struct perf_control ready = {.kind = PERF_READY};
    if (!reply(session, &ready, sizeof(ready)))
        return false;
    if (session->echo || !(control->direction & PERF_BACK))
        return true;
    return perf_pour_start(&session->pour, (uint32_t)control->size, control->duration_ns) == SLUICE_OK;
}

static bool tell(struct session *session)
{
    const struct perf_tally *tally = &session->tally;
    bool single = tally->messages < 2;
    struct perf_control control = {
        .kind = PERF_TALLY,
        .size = tally->first_bytes,
        .messages = tally->messages,
        .bytes = tally->bytes,
        .elapsed_ns = tally->last_ns - (single ? tally->started_ns : tally->first_ns),
    };
    if (tally->messages == 0)
        control.elapsed_ns = 0;
    return reply(session, &control, sizeof(control));
}

/* False: no fabric-perf sends this. */
static bool on_message(struct session *session, const uint8_t *data, uint32_t size)
{
    struct perf_control control;
    if (size == 0)
        return false;
    switch (data[0]) {
    case PERF_DATA:
        if (session->echo)
            return reply(session, data, size);
        perf_tally_add(&session->tally, size);
        return true;
    case PERF_PING:
        return reply(session, data, size);
    case PERF_START:
    case PERF_DONE:
        if (size != sizeof(control))
            return false;
        memcpy(&control, data, sizeof(control));
        return control.kind == PERF_START ? start(session, &control) : tell(session);
    default:
        return false;
    }
}

static struct session **find(struct server *server, const struct fabric_link *link)
{
    struct session **at = &server->sessions;
    while (*at && (*at)->link != link)
        at = &(*at)->next;
    return at;
}

static void end(struct server *server, struct session **at)
{
    struct session *session = *at;
    *at = session->next;
    perf_pour_stop(&session->pour);
    free(session);
    server->served = true;
}

static void on_event(void *arg, const struct fabric_event *event)
{
    struct server *server = arg;
    struct session **at = find(server, event->link);
    if (event->type == FABRIC_LINK_UP) {
        struct session *session = calloc(1, sizeof(*session));
        if (!session) {
            fabric_link_close(event->link);
            return;
        }
        session->link = event->link;
        *at = session;
        if (!server->silent)
            LOG_INFO("fabric-perf", "a client has come%s",
                     server->sessions->next ? "; several at once get in each other's way" : "");
    } else if (event->type == FABRIC_LINK_DOWN && *at) {
        if (!server->silent)
            LOG_INFO("fabric-perf", "a client has gone: %s", event->text);
        end(server, at);
    } else if (event->type == FABRIC_MESSAGE && !on_message(*at, event->data, event->size)) {
        LOG_WARN("fabric-perf", "closing the link of a client that sends what this release does not know");
        fabric_link_close(event->link);
        end(server, at);
    }
}

/* True: at least one could send more at once. */
static bool pour(struct server *server)
{
    bool ready = false;
    for (struct session *session = server->sessions; session; session = session->next) {
        if (session->pour.running && !perf_pour_on(&session->pour, session->link))
            perf_pour_stop(&session->pour); /* LINK_DOWN follows */
        ready = ready || perf_pour_ready(&session->pour, session->link);
    }
    return ready;
}

bool perf_serve(const struct perf_options *options, bool once, const volatile int *stop,
                void (*listening)(void *arg, const char *address), void *arg, char *error, size_t error_size)
{
    struct fabric *fabric;
    struct server server = {.silent = once};
    enum sluice_status status = fabric_create(&options->fabric, &fabric);
    if (status != SLUICE_OK) {
        (void)snprintf(error, error_size, "the fabric cannot be opened: %s", sluice_status_text(status));
        return false;
    }
    if (fabric_listen(fabric, options->address, error, error_size) != SLUICE_OK) {
        fabric_destroy(fabric);
        return false;
    }
    listening(arg, fabric_listen_address(fabric, 0));
    while (!*stop && !(once && server.served)) {
        unsigned events = fabric_poll(fabric, POLL_BUDGET, on_event, &server);
        bool ready = pour(&server);
        if (events == 0 && !ready) {
            fabric_flush(fabric);
            fabric_wait(fabric, PERF_WAIT_NS);
        }
    }
    while (server.sessions)
        end(&server, &server.sessions);
    fabric_destroy(fabric);
    return true;
}
