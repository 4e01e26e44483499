/* The loop. One epoll holds libmicrohttpd's own epoll, libsluice's descriptor, the doorbell of jobs from other threads,
 * the one that stops it, and the sockets of event streams (for their clients' departure). */
#include "gateway/gateway.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/base/queue.h"
#include "gateway/grpc.h"
#include "gateway/http__.h"
#include "gateway/stream.h"

#define JOBS_MAX            65536u
#define CONNECTIONS_DEFAULT 20000u
#define MEMORY_DEFAULT      (UINT64_C(1) << 30)
#define STOP_NS             (5 * NS_PER_S) /* for requests under way to finish */

/* --- Options ------------------------------------------------------------------------------------------------------ */

static char *copy(const char *text, bool *failed)
{
    char *made = text != NULL ? strdup(text) : NULL;
    *failed = *failed || (text != NULL && made == NULL);
    return made;
}

static const char *const *copy_list(const char *const *list, size_t count, bool *failed)
{
    char **made = calloc(count + 1, sizeof(*made));
    *failed = *failed || made == NULL;
    for (size_t i = 0; i < count && made != NULL; i++)
        made[i] = copy(list[i], failed);
    return (const char *const *)made;
}

static void free_list(const char *const *list)
{
    for (size_t i = 0; list != NULL && list[i] != NULL; i++)
        free((char *)(uintptr_t)list[i]);
    free((void *)(uintptr_t)list);
}

/* What open files allow, less what the gateway, libsluice and gRPC need. */
static uint32_t connections_max(uint32_t wanted)
{
    struct rlimit limit;
    uint32_t most = wanted > 0 ? wanted : CONNECTIONS_DEFAULT;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        uint64_t room = limit.rlim_cur > 512 ? limit.rlim_cur - 256 : limit.rlim_cur / 2;
        if (most > room)
            most = (uint32_t)room;
    }
    return most;
}

static enum sluice_status take_options(struct gateway *self, const struct gateway_options *from, char *error,
                                       size_t error_size)
{
    bool failed = false;
    struct gateway_options *options = &self->options;
    *options = *from;
    options->listen = copy(from->listen != NULL ? from->listen : "127.0.0.1:8080", &failed);
    options->grpc_listen = copy(from->grpc_listen, &failed);
    options->tokens_path = copy(from->tokens_path, &failed);
    options->tls_certificate_path = copy(from->tls_certificate_path, &failed);
    options->tls_key_path = copy(from->tls_key_path, &failed);
    options->core_tls_ca = copy(from->core_tls_ca, &failed);
    options->core_tls_certificate = copy(from->core_tls_certificate, &failed);
    options->core_tls_key = copy(from->core_tls_key, &failed);
    options->nodes = copy_list(from->nodes, from->node_count, &failed);
    options->hosts = copy_list(from->hosts, from->host_count, &failed);
    options->origins = copy_list(from->origins, from->origin_count, &failed);
    if (options->value_bytes_max == 0)
        options->value_bytes_max = HTTP_VALUE_BYTES_MAX;
    if (options->memory_max == 0)
        options->memory_max = MEMORY_DEFAULT;
    options->connections_max = connections_max(from->connections_max);
    if (failed) {
        snprintf(error, error_size, "no memory");
        return SLUICE_MEMORY;
    }
    if (from->node_count == 0) {
        snprintf(error, error_size,
                 "give the address of at least one core node, for example shm:node1 or tcp:10.0.0.1:7400");
        return SLUICE_INVALID;
    }
    if (options->value_bytes_max > HTTP_VALUE_BYTES_MAX) {
        snprintf(error, error_size, "values are at most %u bytes long", HTTP_VALUE_BYTES_MAX);
        return SLUICE_INVALID;
    }
    return SLUICE_OK;
}

/* --- Creation ----------------------------------------------------------------------------------------------------- */

static enum sluice_status add_fd(struct gateway *self, int fd, void *mark)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = mark};
    return epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? SLUICE_OK : SLUICE_IO;
}

static enum sluice_status start_loop(struct gateway *self, char *error, size_t error_size)
{
    self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    self->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(self->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    enum sluice_status status = queue_create(JOBS_MAX, &self->jobs);
    if (status != SLUICE_OK || self->epoll_fd < 0 || self->stop_fd < 0 || info == NULL ||
        add_fd(self, info->epoll_fd, self->daemon) != SLUICE_OK ||
        add_fd(self, sluice_fd(self->client), self->client) != SLUICE_OK ||
        add_fd(self, queue_fd(self->jobs), self->jobs) != SLUICE_OK || add_fd(self, self->stop_fd, self) != SLUICE_OK) {
        snprintf(error, error_size, "cannot set up the loop: %s", strerror(errno));
        return SLUICE_IO;
    }
    return SLUICE_OK;
}

static enum sluice_status start(struct gateway *self, char *error, size_t error_size)
{
    const struct gateway_options *options = &self->options;
    enum sluice_status status = metrics_init(&self->metrics);
    if (status != SLUICE_OK) {
        snprintf(error, error_size, "no memory");
        return status;
    }
    if (options->tokens_path != NULL) {
        status = auth_create_from_file(options->tokens_path, &self->auth, error, error_size);
    } else {
        self->auth = auth_create_open();
        status = self->auth != NULL ? SLUICE_OK : SLUICE_MEMORY;
    }
    if (status != SLUICE_OK)
        return status;
    char why[256] = "";
    struct sluice_options client = {.size = sizeof(client),
                                    .nodes = options->nodes,
                                    .node_count = options->node_count,
                                    .in_flight_max = options->connections_max + 4096,
                                    .prefer_tcp = options->prefer_tcp,
                                    .tls = {options->core_tls_ca, options->core_tls_certificate, options->core_tls_key},
                                    .error = why,
                                    .error_size = sizeof(why)};
    status = sluice_open(&client, &self->client);
    if (status != SLUICE_OK) {
        snprintf(error, error_size, "cannot open the store's client: %s", why);
        return status;
    }
    status = server__start(self, error, error_size);
    if (status == SLUICE_OK)
        status = start_loop(self, error, error_size);
    if (status == SLUICE_OK && options->grpc_listen != NULL)
        status = gateway_grpc_start(self, options->grpc_listen, &self->grpc, error, error_size);
    return status;
}

enum sluice_status gateway_create(const struct gateway_options *options, struct gateway **out, char *error,
                                  size_t error_size)
{
    struct gateway *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        snprintf(error, error_size, "no memory");
        return SLUICE_MEMORY;
    }
    self->epoll_fd = self->stop_fd = self->listen_fd = -1;
    self->now_ns = clock_monotonic_ns();
    /* A client that goes away while it is written to is an error of that write, not of this process. */
    signal(SIGPIPE, SIG_IGN);
    enum sluice_status status = take_options(self, options, error, error_size);
    if (status == SLUICE_OK)
        status = start(self, error, error_size);
    if (status != SLUICE_OK) {
        gateway_destroy(self);
        return status;
    }
    LOG_INFO("gateway", "serving HTTP%s on %s port=%u nodes=%zu tokens=%s", self->tls_key != NULL ? "S" : "",
             self->options.listen, self->port, self->options.node_count, auth_is_open(self->auth) ? "no" : "yes");
    *out = self;
    return SLUICE_OK;
}

uint16_t gateway_port(const struct gateway *self)
{
    return self->port;
}

uint16_t gateway_grpc_listen_port(const struct gateway *self)
{
    return self->grpc != NULL ? gateway_grpc_port(self->grpc) : 0;
}

struct sluice_client *gateway__client(struct gateway *self)
{
    return self->client;
}

const struct auth *gateway__auth(const struct gateway *self)
{
    return self->auth;
}

uint64_t gateway__value_bytes_max(const struct gateway *self)
{
    return self->options.value_bytes_max;
}

/* --- Timers ------------------------------------------------------------------------------------------------------- */

void gateway__timer_clear(struct gateway *self, struct gateway_timer *timer)
{
    if (!timer->armed)
        return;
    if (timer->previous != NULL)
        timer->previous->next = timer->next;
    else
        self->timers = timer->next;
    if (timer->next != NULL)
        timer->next->previous = timer->previous;
    timer->armed = false;
}

/* Few timers are armed at once: those of the whole gateway, and of watches that are not ready yet. */
void gateway__timer_set(struct gateway *self, struct gateway_timer *timer, uint64_t due_ns)
{
    gateway__timer_clear(self, timer);
    timer->due_ns = due_ns;
    struct gateway_timer *previous = NULL, *next = self->timers;
    while (next != NULL && next->due_ns <= due_ns) {
        previous = next;
        next = next->next;
    }
    timer->previous = previous;
    timer->next = next;
    if (previous != NULL)
        previous->next = timer;
    else
        self->timers = timer;
    if (next != NULL)
        next->previous = timer;
    timer->armed = true;
}

static void run_timers(struct gateway *self)
{
    struct gateway_timer *timer;
    while ((timer = self->timers) != NULL && timer->due_ns <= self->now_ns) {
        gateway__timer_clear(self, timer);
        timer->run(timer);
    }
}

/* --- The loop ----------------------------------------------------------------------------------------------------- */

bool gateway__post(struct gateway *self, struct gateway_job *job)
{
    return queue_push(self->jobs, job);
}

static void run_jobs(struct gateway *self)
{
    /* At most as many as may wait, so that a job that posts itself again holds nobody up. */
    for (unsigned i = 0; i < JOBS_MAX; i++) {
        struct gateway_job *job = queue_pop(self->jobs);
        if (job == NULL)
            break;
        job->run(job);
    }
}

static uint64_t http_timeout_ns(struct gateway *self)
{
    unsigned long long ms;
    return MHD_get_timeout(self->daemon, &ms) == MHD_YES ? ms * NS_PER_MS : UINT64_MAX;
}

static int sleep_ms(struct gateway *self)
{
    uint64_t ns = http_timeout_ns(self), client = sluice_timeout_ns(self->client);
    if (client < ns)
        ns = client;
    uint64_t now = clock_monotonic_ns();
    if (self->timers != NULL) {
        uint64_t due = self->timers->due_ns > now ? self->timers->due_ns - now : 0;
        if (due < ns)
            ns = due;
    }
    if (ns == UINT64_MAX)
        return -1;
    uint64_t ms = (ns + NS_PER_MS - 1) / NS_PER_MS;
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

/* Answers come in bundles: all requests that are there are read, then all answers that are there are written. */
static void turn(struct gateway *self, bool http)
{
    self->now_ns = clock_monotonic_ns();
    run_timers(self);
    run_jobs(self);
    if (http)
        (void)MHD_run(self->daemon);
    sluice_process(self->client);
    stream__wake_some(self);
    for (int i = 0; self->resumed && i < 4; i++) {
        self->resumed = false;
        (void)MHD_run(self->daemon);
        /* A connection that was resumed is written to in the turn after the one that resumed it. */
        if (http_timeout_ns(self) == 0)
            (void)MHD_run(self->daemon);
        sluice_process(self->client);
    }
}

static bool wait_for_events(struct gateway *self, int timeout_ms)
{
    enum { EVENTS_MAX = 64 };
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(self->epoll_fd, events, EVENTS_MAX, timeout_ms);
    bool http = false;
    for (int i = 0; i < count; i++) {
        void *mark = events[i].data.ptr;
        if (mark == self->daemon)
            http = true;
        else if (mark != self->client && mark != self->jobs && mark != self)
            stream__on_socket(mark);
    }
    return http;
}

/* True: libmicrohttpd has something to do. */
static bool doze(struct gateway *self)
{
    if (self->resumed || self->wakes != NULL || http_timeout_ns(self) == 0) {
        (void)wait_for_events(self, 0);
        return true;
    }
    bool idle = queue_prepare_sleep(self->jobs);
    int timeout = idle && sluice_arm(self->client) ? sleep_ms(self) : 0;
    bool http = wait_for_events(self, timeout);
    queue_awake(self->jobs);
    /* Its timeouts show nowhere else. */
    return http || http_timeout_ns(self) == 0;
}

void gateway_run(struct gateway *self)
{
    bool http = true;
    while (!atomic_load_explicit(&self->stopping, memory_order_acquire)) {
        turn(self, http);
        http = doze(self);
    }
    server__quiesce(self);
    if (self->grpc != NULL)
        gateway_grpc_drain(self->grpc);
    stream__end_all(self);
    uint64_t until = clock_monotonic_ns() + STOP_NS;
    while ((self->requests > 0 || (self->grpc != NULL && !gateway_grpc_idle(self->grpc))) &&
           clock_monotonic_ns() < until) {
        turn(self, true);
        if (!self->resumed && self->wakes == NULL && http_timeout_ns(self) != 0)
            (void)wait_for_events(self, 10);
    }
}

void gateway_stop(struct gateway *self)
{
    int saved = errno;
    atomic_store_explicit(&self->stopping, true, memory_order_release);
    uint64_t one = 1;
    ssize_t written = write(self->stop_fd, &one, sizeof(one));
    (void)written; /* fails only where the counter is full, and then it wakes as well */
    errno = saved;
}

void gateway_destroy(struct gateway *self)
{
    if (self == NULL)
        return;
    self->now_ns = clock_monotonic_ns();
    if (self->grpc != NULL)
        gateway_grpc_drain(self->grpc);
    if (self->daemon != NULL)
        stream__end_all(self);
    if (self->jobs != NULL)
        run_jobs(self);
    self->closing = true;
    /* Whatever still waits for the store is answered here, so that no connection is left suspended. */
    if (self->client != NULL)
        sluice_close(self->client);
    if (self->grpc != NULL)
        gateway_grpc_stop(self->grpc);
    while (self->daemon != NULL && self->wakes != NULL)
        stream__wake_some(self);
    for (int i = 0; i < 8 && self->daemon != NULL; i++)
        (void)MHD_run(self->daemon);
    server__stop(self);
    ASSERT(self->requests == 0);
    if (self->jobs != NULL) {
        run_jobs(self);
        queue_destroy(self->jobs);
    }
    if (self->epoll_fd >= 0)
        close(self->epoll_fd);
    if (self->stop_fd >= 0)
        close(self->stop_fd);
    auth_destroy(self->auth);
    metrics_deinit(&self->metrics);
    free((char *)(uintptr_t)self->options.listen);
    free((char *)(uintptr_t)self->options.grpc_listen);
    free((char *)(uintptr_t)self->options.tokens_path);
    free((char *)(uintptr_t)self->options.tls_certificate_path);
    free((char *)(uintptr_t)self->options.core_tls_ca);
    free((char *)(uintptr_t)self->options.core_tls_certificate);
    free((char *)(uintptr_t)self->options.core_tls_key);
    free((char *)(uintptr_t)self->options.tls_key_path);
    free_list(self->options.nodes);
    free_list(self->options.hosts);
    free_list(self->options.origins);
    free(self);
}
